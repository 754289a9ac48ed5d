//! Who may hold how many connections, and for how long without a proof.
//!
//! A connection that somebody else opened stands in the [`Crowd`] from its first packet until it has proved itself or
//! is gone. Whoever came in without a proof is shown out after [`Behaviour::patience`], whatever it keeps doing on
//! its connection. A proven peer holds a few connections, not any number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dummy::ConnectionHandler;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::crowd::{Crowd, Limits};

/// Most connections of one peer that has not proved itself: both sides may dial at once.
const PER_STRANGER: usize = 2;
/// Most connections of one member. A guess: one link, one that replaces it, and those of a node that crashed and came
/// back three times within the 20 s that QUIC waits.
const PER_MEMBER: usize = 8;
/// How often it is looked who has outstayed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// There is no room.
#[derive(Debug, thiserror::Error)]
#[error("too many connections without a proof from there, or too many connections of one peer")]
struct Full;

/// The behaviour.
pub(super) struct Behaviour {
    crowd: Crowd<ConnectionId>,
    patience: Duration,
    members: BTreeSet<PeerId>,
    peers: BTreeMap<PeerId, BTreeSet<ConnectionId>>,
    /// Connections without a proof, and since when.
    unproven: BTreeMap<ConnectionId, (PeerId, Instant)>,
    shown_out: VecDeque<(PeerId, ConnectionId)>,
    look: Option<Interval>,
}

impl Behaviour {
    pub(super) fn new(limits: Limits, patience: Duration) -> Self {
        Self {
            crowd: Crowd::new(limits),
            patience,
            members: BTreeSet::new(),
            peers: BTreeMap::new(),
            unproven: BTreeMap::new(),
            shown_out: VecDeque::new(),
            look: None,
        }
    }

    /// A peer has proved itself: it takes up no room of strangers.
    pub(super) fn bypass_peer_id(&mut self, peer: &PeerId) {
        self.members.insert(*peer);
        for connection in self.peers.get(peer).into_iter().flatten() {
            self.crowd.leave(*connection);
            self.unproven.remove(connection);
        }
    }

    /// A peer is a stranger again.
    pub(super) fn remove_peer_id(&mut self, peer: &PeerId) {
        self.members.remove(peer);
    }

    fn admit(&self, peer: PeerId) -> Result<ConnectionHandler, ConnectionDenied> {
        let most = if self.members.contains(&peer) { PER_MEMBER } else { PER_STRANGER };
        match self.peers.get(&peer) {
            Some(others) if others.len() >= most => Err(ConnectionDenied::new(Full)),
            _ => Ok(ConnectionHandler),
        }
    }

    fn established(&mut self, peer: PeerId, connection: ConnectionId) {
        self.peers.entry(peer).or_default().insert(connection);
        if self.members.contains(&peer) {
            self.crowd.leave(connection);
        } else {
            self.unproven.insert(connection, (peer, Instant::now()));
        }
    }

    fn closed(&mut self, peer: PeerId, connection: ConnectionId) {
        self.crowd.leave(connection);
        self.unproven.remove(&connection);
        if let Some(others) = self.peers.get_mut(&peer) {
            others.remove(&connection);
            if others.is_empty() {
                self.peers.remove(&peer);
            }
        }
    }

    fn show_out(&mut self) {
        let patience = self.patience;
        let late: Vec<(ConnectionId, PeerId)> = self
            .unproven
            .iter()
            .filter(|(_, (_, since))| since.elapsed() >= patience)
            .map(|(connection, (peer, _))| (*connection, *peer))
            .collect();
        for (connection, peer) in late {
            self.unproven.remove(&connection);
            self.shown_out.push_back((peer, connection));
        }
    }
}

/// Where somebody comes from; all who come by something else than IP are one.
fn ip(address: &Multiaddr) -> IpAddr {
    let ip = address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::from(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::from(ip)),
        _ => None,
    });
    ip.unwrap_or(IpAddr::from([0, 0, 0, 0]))
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.crowd.enter(connection, ip(remote)) { Ok(()) } else { Err(ConnectionDenied::new(Full)) }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(one) => self.established(one.peer_id, one.connection_id),
            FromSwarm::ConnectionClosed(one) => self.closed(one.peer_id, one.connection_id),
            FromSwarm::ListenFailure(failure) => self.crowd.leave(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let look = self.look.get_or_insert_with(|| {
            let mut look = tokio::time::interval(LOOK_EVERY);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            look
        });
        let mut is_time = false;
        // The last turn of the loop registers for the next tick.
        while look.poll_tick(cx).is_ready() {
            is_time = true;
        }
        if is_time {
            self.show_out();
        }
        match self.shown_out.pop_front() {
            Some((peer_id, connection)) => Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(connection),
            }),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::ConnectedPoint;
    use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};

    use super::*;

    const LIMITS: Limits = Limits { total: 6, per_address: 4, per_network: 5 };

    fn door() -> Behaviour {
        Behaviour::new(LIMITS, Duration::from_secs(6))
    }

    fn from(host: u8) -> Multiaddr {
        format!("/ip4/10.0.0.{host}/udp/1/quic-v1").parse().unwrap()
    }

    /// A connection from its first packet until it is established; `false` if it is refused.
    fn comes(door: &mut Behaviour, number: usize, peer: PeerId, remote: &Multiaddr) -> bool {
        let (id, local) = (ConnectionId::new_unchecked(number), from(99));
        if door.handle_pending_inbound_connection(id, &local, remote).is_err() {
            return false;
        }
        if door.handle_established_inbound_connection(id, peer, &local, remote).is_err() {
            door.crowd.leave(id);
            return false;
        }
        let endpoint = ConnectedPoint::Listener { local_addr: local, send_back_addr: remote.clone() };
        door.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: peer,
            connection_id: id,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
        true
    }

    fn goes(door: &mut Behaviour, number: usize, peer: PeerId) {
        let endpoint = ConnectedPoint::Listener { local_addr: from(99), send_back_addr: from(1) };
        door.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id: peer,
            connection_id: ConnectionId::new_unchecked(number),
            endpoint: &endpoint,
            cause: None,
            remaining_established: 0,
        }));
    }

    #[test]
    fn strangers_from_one_address_leave_room_and_nothing_of_them_is_kept() {
        let mut door = door();
        let strangers: Vec<PeerId> = (0..20).map(|_| PeerId::random()).collect();
        let came = |door: &mut Behaviour, first: usize, host| {
            (first..first + 10).filter(|n| comes(door, *n, strangers[n % 20], &from(host))).count()
        };
        assert_eq!(came(&mut door, 0, 1), 4);
        assert_eq!(came(&mut door, 10, 2), 1, "their network is full");
        assert!(comes(&mut door, 30, PeerId::random(), &"/ip4/10.9.0.1/tcp/1".parse().unwrap()));
        for (n, stranger) in strangers.iter().enumerate() {
            goes(&mut door, n, *stranger);
        }
        assert_eq!((door.crowd.len(), door.peers.len(), door.unproven.len()), (1, 1, 1));
    }

    #[test]
    fn members_take_no_room_of_strangers_and_have_a_few_connections_each() {
        let mut door = door();
        let member = PeerId::random();
        assert!(comes(&mut door, 0, member, &from(1)) && comes(&mut door, 1, member, &from(1)));
        assert!(!comes(&mut door, 2, member, &from(1)), "more than a stranger may have");
        door.bypass_peer_id(&member);
        assert!(door.crowd.is_empty() && door.unproven.is_empty());
        let more = (10..50).filter(|n| comes(&mut door, *n, member, &from(1))).count();
        assert_eq!((more, door.crowd.len()), (PER_MEMBER - 2, 0));
        door.remove_peer_id(&member);
        goes(&mut door, 0, member);
        assert!(!comes(&mut door, 60, member, &from(1)), "one who lost its place is a stranger");
    }

    #[tokio::test]
    async fn who_does_not_prove_itself_is_shown_out_in_time() {
        let patience = Duration::from_millis(300);
        let mut door = Behaviour::new(LIMITS, patience);
        let (stranger, member) = (PeerId::random(), PeerId::random());
        assert!(comes(&mut door, 0, stranger, &from(1)) && comes(&mut door, 1, member, &from(2)));
        door.bypass_peer_id(&member);
        let begin = Instant::now();
        let order = std::future::poll_fn(|cx| door.poll(cx)).await;
        let ToSwarm::CloseConnection { peer_id, .. } = order else { panic!("{order:?}") };
        assert_eq!(peer_id, stranger);
        assert!(begin.elapsed() >= patience, "{:?}", begin.elapsed());
        assert!(door.unproven.is_empty());
    }
}
