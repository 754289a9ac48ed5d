//! Finding others: dialling, calling out, the addresses of this machine, and what the swarm tells.

use std::time::Duration;

use libp2p::gossipsub;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, PeerId, mdns};

use super::behaviour::{AllEvent, ProvenEvent};
use super::gate::Told;
use super::hail::Call;
use super::peers::{is_quic, key_of, peer_of, port, worth_telling};
use super::task::Owner;
use crate::membership::{Frame, Input, Target};

impl Owner {
    pub(super) fn dial(&mut self, target: Target) {
        let opts = match &target {
            Target::Node { key, addresses } => {
                let mut addresses: Vec<Multiaddr> =
                    addresses.iter().filter_map(|address| address.parse().ok()).collect();
                addresses.sort_by_key(|address| !is_quic(address));
                let quic = addresses.iter().filter(|address| is_quic(address)).count().clamp(1, 4);
                let at_once = u8::try_from(quic).ok().and_then(std::num::NonZeroU8::new);
                peer_of(key).map(|peer| {
                    let opts = DialOpts::peer_id(peer).addresses(addresses);
                    // TCP is tried when QUIC has failed, not beside it.
                    opts.override_dial_concurrency_factor(at_once.unwrap_or(std::num::NonZeroU8::MIN)).build()
                })
            }
            Target::Rendezvous(address) => address
                .parse::<Multiaddr>()
                .ok()
                .map(|address| DialOpts::unknown_peer_id().address(address).build()),
        };
        let Some(opts) = opts else { return self.step(Input::DialFailed(target)) };
        let connection = opts.connection_id();
        self.dials.insert(connection, target.clone());
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%error, "cannot dial");
            if self.dials.remove(&connection).is_some() {
                self.step(Input::DialFailed(target));
            }
        }
    }

    pub(super) fn hail(&mut self, digest: u32) {
        let Some(key) = key_of(self.swarm.local_peer_id()) else { return };
        let call = Call {
            key,
            digest,
            quic_port: port(&self.listening, true),
            tcp_port: port(&self.listening, false),
        };
        if let Some(sockets) = &self.sockets
            && !self.listening.is_empty()
        {
            sockets.call(&call);
        }
    }

    pub(super) fn heard(&mut self, heard: std::io::Result<(Call, std::net::IpAddr)>) {
        match heard {
            Ok((call, from)) => {
                let addresses = call.addresses(from);
                self.step(Input::Sighted { key: call.key, addresses, digest: call.digest });
            }
            Err(error) => tracing::debug!(%error, "cannot hear the local network"),
        }
    }

    /// Calls out where it can now; what is new is called to.
    fn follow_interfaces(&mut self) {
        if let Some(sockets) = &mut self.sockets
            && sockets.follow_interfaces()
        {
            tracing::debug!("interfaces changed");
            self.step(Input::NewNetwork);
        }
    }

    /// Looks at interfaces and lets peers in again whose time is up.
    pub(super) fn every_while(&mut self) {
        let now = self.now().boot;
        self.follow_interfaces();
        let over: Vec<PeerId> =
            self.blocked.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        for peer in over {
            self.blocked.remove(&peer);
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
        self.notice_budget.retain(|_, (_, at)| now.saturating_sub(*at) < Duration::from_secs(60));
        if self.notice_budget.is_empty() {
            self.notice_strikes.clear();
        }
    }

    pub(super) fn swarm_event(&mut self, event: SwarmEvent<AllEvent>) {
        match event {
            SwarmEvent::Behaviour(AllEvent::Link(opened)) => self.opened(opened),
            SwarmEvent::Behaviour(AllEvent::Proven(Told::Answering(connection))) => {
                self.write(connection, &Frame::Ready);
            }
            SwarmEvent::Behaviour(AllEvent::Proven(Told::Inner(ProvenEvent::Gossip(
                gossipsub::Event::Message { propagation_source, message_id, message },
            )))) => {
                let acceptance = self.notice(propagation_source, &message);
                let gossip = &mut self.swarm.behaviour_mut().proven.inner().gossip;
                gossip.report_message_validation_result(&message_id, &propagation_source, acceptance);
            }
            SwarmEvent::Behaviour(AllEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, address) in found {
                    if let Some(key) = key_of(&peer) {
                        self.step(Input::Sighted { key, addresses: vec![address.to_string()], digest: 0 });
                    }
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, peer_id, .. } => {
                let dialled = self.dials.remove(&connection_id);
                self.gone(connection_id);
                // It ended before there was a link; the core is not to wait for it.
                if let Some(target) = dialled.filter(|_| !self.is_linked(&peer_id)) {
                    self.step(Input::DialFailed(target));
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                tracing::debug!(%error, "a dial failed");
                if let Some(target) = self.dials.remove(&connection_id) {
                    self.step(Input::DialFailed(target));
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.listening.push(address);
                self.addresses_changed();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.retain(|other| *other != address);
                self.addresses_changed();
            }
            _ => {}
        }
    }

    pub(super) fn addresses_changed(&mut self) {
        for waiting in self.wait_for_addresses.drain(..) {
            let _ = waiting.send(self.listening.clone());
        }
        self.step(Input::Addresses(worth_telling(&self.listening)));
        self.follow_interfaces();
    }
}
