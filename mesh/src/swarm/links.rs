//! What becomes of connections and their links: proof, frames, the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;

use super::io::{FromLink, Link};
use super::link::Opened;
use super::peers::key_of;
use super::task::Owner;
use crate::NodeId;
use crate::membership::{Frame, Input, Target, Why};
use crate::wire::frame;

/// Frames that wait for one link. A first exchange of a large mesh is about a hundred frames; a link that is this far
/// behind is dead and is closed.
const TO_LINK: usize = 512;

/// One connection with its link.
pub(super) struct Connection {
    pub(super) peer: PeerId,
    pub(super) node: Option<NodeId>,
    pub(super) is_dialer: bool,
    pub(super) up_since: Option<Duration>,
    pub(super) to_peer: mpsc::Sender<Vec<u8>>,
}

impl Owner {
    pub(super) fn opened(&mut self, opened: Opened) {
        let Opened { peer, connection, is_dialer, stream } = opened;
        let Some(stream) = stream else {
            self.swarm.close_connection(connection);
            return;
        };
        let (to_peer, from_owner) = mpsc::channel(TO_LINK);
        let known = Connection { peer, node: None, is_dialer, up_since: None, to_peer };
        self.connections.insert(connection, known);
        let link = Link {
            connection,
            peer,
            is_dialer,
            certificate: self.core.certificate().to_vec(),
            proof_timeout: self.proof_timeout,
            to_owner: self.to_owner.clone(),
            to_peer: from_owner,
        };
        tokio::spawn(link.run(stream));
    }

    pub(super) fn link_said(&mut self, said: FromLink) {
        match said {
            FromLink::Hello { connection, peer, certificate, is_good } => {
                let now = self.now();
                let proof = match key_of(&peer) {
                    Some(key) => {
                        self.core.prove(now, key, &certificate).map_err(|refused| refused.to_string())
                    }
                    None => Err("its key is not Ed25519".to_owned()),
                };
                match &proof {
                    Ok(proof) => {
                        if let Some(known) = self.connections.get_mut(&connection) {
                            known.node = Some(proof.node);
                        }
                        self.swarm.behaviour_mut().limits.bypass_peer_id(&peer);
                    }
                    Err(reason) => tracing::info!(%peer, reason, "a peer was refused"),
                }
                // The link has ended meanwhile: fine.
                let _ = is_good.send(proof.is_ok());
            }
            FromLink::Up { connection, peer, is_dialer, rtt } => {
                self.link_up(connection, peer, is_dialer, rtt)
            }
            FromLink::Frame { connection, frame, bytes } => {
                self.counts.frames_received.fetch_add(1, Ordering::Relaxed);
                self.counts.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
                if frame == Frame::Ready {
                    self.swarm.behaviour_mut().proven.go(connection);
                    return;
                }
                let node = self.connections.get(&connection).and_then(|known| known.node);
                if let Some(from) = node.filter(|node| self.links.get(node) == Some(&connection)) {
                    // Whatever else changes members is told by an event.
                    self.members_changed |= matches!(frame, Frame::Adverts(_) | Frame::Beat { .. });
                    self.step(Input::Frame { from, frame, bytes });
                }
            }
            FromLink::Down { connection, is_offence } => {
                if let Some(peer) = self.connections.get(&connection).map(|known| known.peer)
                    && is_offence
                {
                    self.block(peer);
                }
                self.gone(connection);
                self.swarm.close_connection(connection);
            }
        }
    }

    pub(super) fn link_up(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        is_dialer: bool,
        rtt: Option<Duration>,
    ) {
        let now = self.now().boot;
        let Some(node) = self.connections.get(&connection).and_then(|known| known.node) else { return };
        if let Some(old) = self.links.get(&node).copied()
            && let Some(known) = self.connections.get(&old)
        {
            // Both sides dialled at once: the connection of the smaller id stays. A link that had been up for a while
            // is dead at the other end, or the peer would not have dialled.
            let is_fresh = known.up_since.is_some_and(|up| now.saturating_sub(up) < Duration::from_secs(2));
            let own = *self.swarm.local_peer_id();
            let old_stays = is_fresh && known.is_dialer != is_dialer && known.is_dialer == (own < peer);
            let loser = if old_stays { connection } else { old };
            self.hang_up(loser);
            if old_stays {
                return;
            }
        }
        if !self.swarm.behaviour_mut().proven.open(connection) {
            self.swarm.close_connection(connection);
            return;
        }
        self.swarm.behaviour_mut().proven.inner().gossip.add_explicit_peer(&peer);
        if let Some(known) = self.connections.get_mut(&connection) {
            known.up_since = Some(now);
        }
        self.links.insert(node, connection);
        let rendezvous = match self.dials.remove(&connection) {
            Some(Target::Rendezvous(address)) => Some(address),
            _ => None,
        };
        self.step(Input::LinkUp { node, rendezvous, rtt });
    }

    /// Whether there is a link to a peer.
    pub(super) fn is_linked(&self, peer: &PeerId) -> bool {
        let mut linked = self.links.values().filter_map(|connection| self.connections.get(connection));
        linked.any(|known| known.peer == *peer)
    }

    /// Ends a link after what was sent; the task then reports that it is down.
    pub(super) fn hang_up(&mut self, connection: ConnectionId) {
        if let Some(known) = self.connections.get_mut(&connection) {
            let (closed, _) = mpsc::channel(1);
            known.to_peer = closed;
        }
    }

    /// A connection has no link any more.
    pub(super) fn gone(&mut self, connection: ConnectionId) {
        let Some(known) = self.connections.remove(&connection) else { return };
        let Some(node) = known.node else { return };
        if self.links.get(&node) == Some(&connection) {
            self.links.remove(&node);
            self.swarm.behaviour_mut().proven.inner().gossip.remove_explicit_peer(&known.peer);
            self.step(Input::LinkDown(node));
        }
    }

    pub(super) fn send(&mut self, node: NodeId, frame: &Frame) {
        if let Some(connection) = self.links.get(&node).copied() {
            self.write(connection, frame);
        }
    }

    pub(super) fn write(&mut self, connection: ConnectionId, frame: &Frame) {
        let bytes = match frame::encode(frame) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "a frame cannot be sent");
                return;
            }
        };
        self.counts.frames_sent.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes_sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let Some(known) = self.connections.get(&connection) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = known.to_peer.try_send(bytes) {
            tracing::debug!(peer = %known.peer, "a link is too far behind");
            self.swarm.close_connection(connection);
        }
    }

    pub(super) fn close(&mut self, node: NodeId, why: Why) {
        let Some(connection) = self.links.remove(&node) else { return };
        let Some(peer) = self.connections.get(&connection).map(|known| known.peer) else { return };
        self.swarm.behaviour_mut().proven.inner().gossip.remove_explicit_peer(&peer);
        match why {
            Why::Crowded | Why::Leaving | Why::TheyLeft => self.hang_up(connection),
            Why::Silent => {
                self.swarm.close_connection(connection);
            }
            Why::Revoked | Why::Offence => {
                self.block(peer);
                self.swarm.close_connection(connection);
            }
        }
    }

    /// Cuts a peer and keeps it out for a while.
    pub(super) fn block(&mut self, peer: PeerId) {
        self.counts.peers_cut.fetch_add(1, Ordering::Relaxed);
        self.blocked.insert(peer, self.now().boot + self.block_for);
        self.swarm.behaviour_mut().blocked.block_peer(peer);
        self.swarm.behaviour_mut().limits.remove_peer_id(&peer);
    }
}
