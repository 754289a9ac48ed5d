//! Keeps a behaviour from hearing of a connection, and the connection from reaching the behaviour, until it is opened.
//!
//! [`Gated`] wraps a behaviour. A new connection gets an empty handler that speaks no protocol; the wrapped behaviour
//! hears nothing of it. [`Gated::open`] lets the wrapped behaviour make its handler and tells it that the connection
//! was established. So a peer that has proved nothing can neither subscribe nor send nor ask.
//!
//! Both sides open at their own time, and a protocol that is asked for too early is taken as not spoken at all. So an
//! opened connection first only answers; it reports that ([`Told::Answering`]), the other side is told over the link,
//! and [`Gated::go`] lets the wrapped behaviour ask.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use futures_util::future::Either as Output;
use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::derive_prelude::Either;
use libp2p::swarm::handler::{
    AddressChange, ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
    InboundUpgradeSend, ListenUpgradeError,
};
use libp2p::swarm::handler::{SendWrapper, SubstreamProtocol};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

/// A connection that is not open yet: how it came about.
enum Waiting {
    Inbound { local: Multiaddr, remote: Multiaddr },
    Outbound { address: Multiaddr, role: Endpoint, port_use: PortUse },
}

/// The wrapper.
pub(super) struct Gated<B: NetworkBehaviour> {
    inner: B,
    waiting: BTreeMap<ConnectionId, (PeerId, Waiting, Option<ConnectedPoint>)>,
    open: BTreeMap<ConnectionId, PeerId>,
    orders: VecDeque<(PeerId, ConnectionId, Order<THandler<B>>)>,
    answering: VecDeque<ConnectionId>,
    waker: Option<Waker>,
}

impl<B: NetworkBehaviour> Gated<B> {
    pub(super) fn new(inner: B) -> Self {
        Self {
            inner,
            waiting: BTreeMap::new(),
            open: BTreeMap::new(),
            orders: VecDeque::new(),
            answering: VecDeque::new(),
            waker: None,
        }
    }

    /// The wrapped behaviour.
    pub(super) fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    /// Opens a connection; `false` if there is none, or the wrapped behaviour wants none.
    pub(super) fn open(&mut self, connection: ConnectionId) -> bool {
        let Some((peer, how, Some(endpoint))) = self.waiting.remove(&connection) else { return false };
        let handler = match &how {
            Waiting::Inbound { local, remote } => {
                self.inner.handle_established_inbound_connection(connection, peer, local, remote)
            }
            Waiting::Outbound { address, role, port_use } => {
                self.inner.handle_established_outbound_connection(connection, peer, address, *role, *port_use)
            }
        };
        let Ok(handler) = handler else { return false };
        let other_established = self.count(peer);
        self.open.insert(connection, peer);
        self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: peer,
            connection_id: connection,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established,
        }));
        self.order(peer, connection, Order::Open(Box::new(handler)));
        true
    }

    /// The other side answers: from now on the wrapped behaviour may ask.
    pub(super) fn go(&mut self, connection: ConnectionId) {
        if let Some(peer) = self.open.get(&connection).copied() {
            self.order(peer, connection, Order::Go);
        }
    }

    fn order(&mut self, peer: PeerId, connection: ConnectionId, order: Order<THandler<B>>) {
        self.orders.push_back((peer, connection, order));
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn count(&self, peer: PeerId) -> usize {
        self.open.values().filter(|other| **other == peer).count()
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gated<B> {
    type ConnectionHandler = Handler<THandler<B>>;
    type ToSwarm = Told<B::ToSwarm>;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let how = Waiting::Inbound { local: local.clone(), remote: remote.clone() };
        self.waiting.insert(connection, (peer, how, None));
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let how = Waiting::Outbound { address: address.clone(), role, port_use };
        self.waiting.insert(connection, (peer, how, None));
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                if let Some((_, _, endpoint)) = self.waiting.get_mut(&established.connection_id) {
                    *endpoint = Some(established.endpoint.clone());
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.waiting.remove(&closed.connection_id);
                if let Some(peer) = self.open.remove(&closed.connection_id) {
                    let remaining_established = self.count(peer);
                    let closed = ConnectionClosed { remaining_established, ..closed };
                    self.inner.on_swarm_event(FromSwarm::ConnectionClosed(closed));
                }
            }
            FromSwarm::AddressChange(change) => {
                if self.open.contains_key(&change.connection_id) {
                    self.inner.on_swarm_event(FromSwarm::AddressChange(change));
                }
            }
            FromSwarm::ListenFailure(failure) => {
                // Another behaviour refused it after this one had been asked.
                self.waiting.remove(&failure.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.waiting.remove(&failure.connection_id);
                self.inner.on_swarm_event(FromSwarm::DialFailure(failure));
            }
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Told::Inner(event) => self.inner.on_connection_handler_event(peer, connection, event),
            Told::Answering(()) => {
                self.answering.push_back(connection);
                self.wake();
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, event)) = self.orders.pop_front() {
            let handler = NotifyHandler::One(connection);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
        }
        if let Some(connection) = self.answering.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(Told::Answering(connection)));
        }
        self.waker = Some(cx.waker().clone());
        self.inner.poll(cx).map(|event| event.map_in(Order::Inner).map_out(Told::Inner))
    }
}

/// What is said of a connection: by what is inside, or that it answers now.
#[derive(Debug)]
pub(super) enum Told<T, C = ConnectionId> {
    Inner(T),
    Answering(C),
}

/// What a handler is told.
pub(super) enum Order<H: ConnectionHandler> {
    /// From now on be this.
    Open(Box<H>),
    /// The other side answers.
    Go,
    /// For the handler inside.
    Inner(H::FromBehaviour),
}

impl<H: ConnectionHandler> std::fmt::Debug for Order<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(_) => f.write_str("Open"),
            Self::Go => f.write_str("Go"),
            Self::Inner(event) => f.debug_tuple("Inner").field(event).finish(),
        }
    }
}

/// Nothing, until it is told what to be.
pub(super) struct Handler<H> {
    inner: Option<H>,
    /// Whether it is still to be said that this answers.
    is_new: bool,
    /// Whether the other side answers.
    may_ask: bool,
    waker: Option<Waker>,
}

impl<H> Default for Handler<H> {
    fn default() -> Self {
        Self { inner: None, is_new: false, may_ask: false, waker: None }
    }
}

impl<H> Handler<H> {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

type Inbound<P> = Either<SendWrapper<P>, SendWrapper<DeniedUpgrade>>;

impl<H: ConnectionHandler> ConnectionHandler for Handler<H> {
    type FromBehaviour = Order<H>;
    type ToBehaviour = Told<H::ToBehaviour, ()>;
    type InboundProtocol = Inbound<H::InboundProtocol>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = Either<H::InboundOpenInfo, ()>;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        match &self.inner {
            Some(inner) => inner
                .listen_protocol()
                .map_upgrade(|upgrade| Either::Left(SendWrapper(upgrade)))
                .map_info(Either::Left),
            None => SubstreamProtocol::new(Either::Right(SendWrapper(DeniedUpgrade)), Either::Right(())),
        }
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.as_ref().is_some_and(ConnectionHandler::connection_keep_alive)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if std::mem::take(&mut self.is_new) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Told::Answering(())));
        }
        match &mut self.inner {
            Some(inner) if self.may_ask => inner.poll(cx).map(|event| event.map_custom(Told::Inner)),
            _ => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        inner.poll_close(cx).map(|event| event.map(Told::Inner))
    }

    fn on_behaviour_event(&mut self, order: Self::FromBehaviour) {
        match order {
            Order::Open(handler) => {
                self.inner = Some(*handler);
                self.is_new = true;
                self.wake();
            }
            Order::Go => {
                self.may_ask = true;
                self.wake();
            }
            Order::Inner(event) => {
                if let Some(inner) = &mut self.inner {
                    inner.on_behaviour_event(event);
                }
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        let Some(inner) = &mut self.inner else { return };
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                let (Output::Left(protocol), Either::Left(info)) = (protocol, info) else { return };
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                let (Either::Left(info), Some(error)) = (info, left::<H>(error)) else { return };
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info })
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error })
            }
            ConnectionEvent::AddressChange(AddressChange { new_address }) => {
                ConnectionEvent::AddressChange(AddressChange { new_address })
            }
            ConnectionEvent::LocalProtocolsChange(change) => ConnectionEvent::LocalProtocolsChange(change),
            ConnectionEvent::RemoteProtocolsChange(change) => ConnectionEvent::RemoteProtocolsChange(change),
            _ => return,
        };
        inner.on_connection_event(event);
    }
}

fn left<H: ConnectionHandler>(
    error: Either<
        <H::InboundProtocol as InboundUpgradeSend>::Error,
        <SendWrapper<DeniedUpgrade> as libp2p::core::upgrade::InboundUpgrade<libp2p::swarm::Stream>>::Error,
    >,
) -> Option<<H::InboundProtocol as InboundUpgradeSend>::Error> {
    error.left()
}
