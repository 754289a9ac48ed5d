//! One raw stream per connection: opened by the side that dialled, taken by the other side, once.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{DeniedUpgrade, ReadyUpgrade};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    Stream, StreamProtocol, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, swarm};

use futures_util::future::Either as Output;

/// The name says the version of [`crate::wire::frame`].
const PROTOCOL: StreamProtocol = StreamProtocol::new("/cloudlet/link/2");

/// A connection's stream is there.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    /// Whether this side dialled.
    pub(super) is_dialer: bool,
    /// The stream; `None`: the other side does not speak this protocol.
    pub(super) stream: Option<Stream>,
}

/// The behaviour.
#[derive(Default)]
pub(super) struct Behaviour {
    opened: VecDeque<Opened>,
    waker: Option<Waker>,
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Opened;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(false))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(true))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        (is_dialer, stream): THandlerOutEvent<Self>,
    ) {
        self.opened.push_back(Opened { peer, connection, is_dialer, stream });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(opened) = self.opened.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(opened));
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Opens or takes the stream of one connection.
pub(super) struct Handler {
    is_dialer: bool,
    /// Whether the stream was asked for, or taken.
    is_used: bool,
    result: Option<Option<Stream>>,
}

impl Handler {
    fn new(is_dialer: bool) -> Self {
        Self { is_dialer, is_used: false, result: None }
    }
}

type Inbound = swarm::derive_prelude::Either<ReadyUpgrade<StreamProtocol>, DeniedUpgrade>;

impl ConnectionHandler for Handler {
    type FromBehaviour = std::convert::Infallible;
    type ToBehaviour = (bool, Option<Stream>);
    type InboundProtocol = Inbound;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        let upgrade = if self.is_dialer || self.is_used {
            Inbound::Right(DeniedUpgrade)
        } else {
            Inbound::Left(ReadyUpgrade::new(PROTOCOL))
        };
        SubstreamProtocol::new(upgrade, ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if let Some(stream) = self.result.take() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour((self.is_dialer, stream)));
        }
        if self.is_dialer && !self.is_used {
            self.is_used = true;
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                if let Output::Left(stream) = protocol
                    && !std::mem::replace(&mut self.is_used, true)
                {
                    self.result = Some(Some(stream));
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.result = Some(Some(protocol));
            }
            ConnectionEvent::DialUpgradeError(_) => self.result = Some(None),
            _ => {}
        }
    }
}
