//! What the rest of the program sees of the mesh.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libp2p::{Multiaddr, Stream, StreamProtocol};
use libp2p_stream::{Control, IncomingStreams, OpenStreamError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{Error, peers};
use crate::NodeId;
use crate::advert::Advert;
use crate::membership::{Event, Members, Reach};
use crate::trust::revocation;

/// A notice from a node to everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Who sent it; proved by its signature.
    pub from: NodeId,
    /// What.
    pub bytes: Arc<[u8]>,
}

/// What has gone over links since the start. Payload: headers of QUIC, TCP and IP are not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames sent.
    pub frames_sent: u64,
    /// Bytes of those.
    pub bytes_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Bytes of those.
    pub bytes_received: u64,
    /// Connections that were cut because the peer did not prove itself or broke the rules.
    pub peers_cut: u64,
    /// Notices received that were good.
    pub notices: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) frames_sent: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) frames_received: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) peers_cut: AtomicU64,
    pub(super) notices: AtomicU64,
}

/// What the owner is asked.
pub(super) enum Ask {
    Local(Box<Advert>),
    Rate { node: NodeId, bytes_per_s: u64 },
    Revoke { statement: Vec<u8>, reply: oneshot::Sender<()> },
    Announce { bytes: Vec<u8>, reply: oneshot::Sender<bool> },
    Connect { node: NodeId },
    Hold { node: NodeId, is_held: bool },
    Neighbours(oneshot::Sender<BTreeMap<NodeId, Option<Duration>>>),
    Listening(oneshot::Sender<Vec<Multiaddr>>),
    Leave(oneshot::Sender<()>),
}

/// Why there is no stream to a node.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Nobody of that name is known and in reach.
    #[error("node {0} is not in reach")]
    NotInReach(NodeId),
    /// No connection came about in time.
    #[error("no connection to node {0} within {1:?}")]
    Timeout(NodeId, Duration),
    /// The node does not speak that protocol, or the connection broke.
    #[error("cannot open a stream to node {node}")]
    Open {
        /// The node.
        node: NodeId,
        /// Why.
        #[source]
        source: OpenStreamError,
    },
    /// The mesh has ended.
    #[error("the mesh has ended")]
    Ended,
}

/// The mesh. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) node: NodeId,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) members: watch::Receiver<Arc<Members>>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) notices: broadcast::Sender<Notice>,
    pub(super) counts: Arc<Counts>,
    pub(super) control: Control,
}

impl Handle {
    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Says something else of this node from now on. The core decides when that is worth sending.
    pub async fn set_local(&self, advert: Advert) -> Result<(), Error> {
        self.ask(Ask::Local(Box::new(advert))).await
    }

    /// Everybody who is known, always the newest.
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    /// What happens from now on. A receiver that falls 1024 events behind is told that it missed some.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Notices from now on.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// Sends a notice of at most 8 KiB to everybody; `false` if nobody is connected. Nobody repeats it for those who
    /// are away: what must be known later belongs into the advert.
    pub async fn announce(&self, bytes: Vec<u8>) -> Result<bool, Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Announce { bytes, reply }).await?;
        answer.await.map_err(|_| Error::Ended)
    }

    /// Spreads signed revocations, as [`revocation::encode`] writes them. They are kept, and given to everybody who lacks them;
    /// what nobody signed is passed over.
    pub async fn revoke(&self, encoded: Vec<u8>) -> Result<(), Error> {
        // One by one: a frame takes single statements of a bounded length.
        for statement in revocation::decode(&encoded).unwrap_or_default() {
            let (reply, answer) = oneshot::channel();
            self.ask(Ask::Revoke { statement: revocation::encode([&statement]), reply }).await?;
            answer.await.map_err(|_| Error::Ended)?;
        }
        Ok(())
    }

    /// The neighbours, with the measured round trip.
    pub async fn neighbours(&self) -> Result<BTreeMap<NodeId, Option<Duration>>, Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Neighbours(reply)).await?;
        answer.await.map_err(|_| Error::Ended)
    }

    /// The addresses that this node listens on, as soon as there are any.
    pub async fn listening(&self) -> Result<Vec<Multiaddr>, Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Listening(reply)).await?;
        answer.await.map_err(|_| Error::Ended)
    }

    /// Tells how fast a transfer with a neighbour was, so that adverts take a fair share of that link.
    pub async fn report_rate(&self, node: NodeId, bytes_per_s: u64) -> Result<(), Error> {
        self.ask(Ask::Rate { node, bytes_per_s }).await
    }

    /// Says goodbye to everybody and ends the mesh.
    pub async fn leave(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Leave(reply)).await?;
        answer.await.map_err(|_| Error::Ended)
    }

    /// A stream to a proven node, over the link to it or a new connection. The link is kept for as long as it is
    /// held (see [`Handle::hold`]).
    pub async fn open_stream(
        &self,
        node: NodeId,
        protocol: StreamProtocol,
        timeout: Duration,
    ) -> Result<Stream, StreamError> {
        let key = self.members.borrow().get(&node).map(|member| member.key);
        let peer = key.as_ref().and_then(peers::peer_of).ok_or(StreamError::NotInReach(node))?;
        let mut members = self.members.clone();
        let is_neighbour = |members: &Arc<Members>| {
            matches!(members.get(&node).map(|member| member.reach), Some(Reach::Neighbour { .. }))
        };
        if !is_neighbour(&members.borrow()) {
            self.ask(Ask::Connect { node }).await.map_err(|_| StreamError::Ended)?;
        }
        let opening = async {
            members.wait_for(is_neighbour).await.map_err(|_| StreamError::Ended)?;
            let stream = self.control.clone().open_stream(peer, protocol).await;
            stream.map_err(|source| StreamError::Open { node, source })
        };
        let opened = tokio::time::timeout(timeout, opening).await;
        opened.map_err(|_| StreamError::Timeout(node, timeout))?
    }

    /// Keeps the link to a node although there may be enough others, or lets go of it again. Count your holds.
    pub async fn hold(&self, node: NodeId, is_held: bool) -> Result<(), Error> {
        self.ask(Ask::Hold { node, is_held }).await
    }

    /// Streams that proven peers open for this protocol; `None` if somebody takes them already. Which node a peer is,
    /// [`super::key_of`] and [`Handle::members`] tell.
    pub fn accept_streams(&self, protocol: StreamProtocol) -> Option<IncomingStreams> {
        self.control.clone().accept(protocol).ok()
    }

    /// What has gone over links.
    pub fn counters(&self) -> Counters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &*self.counts;
        Counters {
            frames_sent: read(&counts.frames_sent),
            bytes_sent: read(&counts.bytes_sent),
            frames_received: read(&counts.frames_received),
            bytes_received: read(&counts.bytes_received),
            peers_cut: read(&counts.peers_cut),
            notices: read(&counts.notices),
        }
    }

    async fn ask(&self, ask: Ask) -> Result<(), Error> {
        self.asks.send(ask).await.map_err(|_| Error::Ended)
    }
}
