//! Connections to the API of one cloudlet by way of another.
//!
//! ```text
//!   handheld ── TLS to A ──► A: GET /peers/B/tunnel ── stream /cloudlet/api/1 ──► B: its API server
//!            └───────────────────────── TLS to B, both certificates ───────────────────────────┘
//! ```
//!
//! A carries bytes that it cannot read and decides only whether its own client may use it as a way. B treats the stream as
//! a connection that it accepted: certificate, permissions and revocations are B's to check. A stream leads to B itself and
//! never further, so there are no loops; who wants to go over two cloudlets asks B for the next tunnel, inside the first.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use mesh::NodeId;
use mesh::swarm::{IncomingStreams, PeerId, Stream, StreamError, StreamProtocol, key_of};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use super::Peers;
use crate::places::{Place, Places};

/// What the streams are called.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/cloudlet/api/1");
/// How long the way to another cloudlet may take to come about. Guess: a new connection needs three round trips.
const OPEN_LIMIT: Duration = Duration::from_secs(4);
/// Most connections that one cloudlet may have brought here at a time. Guess: the tunnels of a few handhelds, and far from
/// all connections that the API takes ([`crate::api::MAX_CONNECTIONS`]).
const MAX_BROUGHT: usize = 128;

/// Most streams whose cloudlet has not said who it is. Guess: as many as one may bring.
const MAX_UNNAMED: usize = MAX_BROUGHT;

/// Bytes by way of the mesh.
pub type ByPeer = Compat<Stream>;

/// A connection that another cloudlet brought.
pub struct Relayed {
    /// Its bytes.
    pub(crate) stream: ByPeer,
    /// Who brought it.
    pub(crate) by: NodeId,
    /// What it takes up.
    pub(crate) place: Place<NodeId>,
}

/// The connections that other cloudlets bring.
pub struct Relays {
    streams: IncomingStreams,
    peers: Peers,
    places: Places<NodeId>,
    /// Streams of cloudlets that have not said yet who they are.
    unnamed: FuturesUnordered<BoxFuture<'static, Option<(NodeId, Stream)>>>,
}

impl Relays {
    /// The next one; `None` when the mesh has ended.
    pub(crate) async fn next(&mut self) -> Option<Relayed> {
        loop {
            let (by, stream) = tokio::select! {
                arrived = self.streams.next() => {
                    let (peer, stream) = arrived?;
                    if self.unnamed.len() < MAX_UNNAMED {
                        self.unnamed.push(named(self.peers.clone(), peer, stream).boxed());
                    }
                    continue;
                }
                Some(named) = self.unnamed.next() => match named {
                    Some(named) => named,
                    None => continue,
                },
            };
            match self.places.enter(by, MAX_BROUGHT) {
                Some(place) => return Some(Relayed { stream: stream.compat(), by, place }),
                None => tracing::debug!(%by, "it brings more connections than one cloudlet may"),
            }
        }
    }
}

/// Whose stream it is. Only proven members get this far, but on a new link the first stream may come before the advert.
async fn named(peers: Peers, peer: PeerId, stream: Stream) -> Option<(NodeId, Stream)> {
    let key = key_of(&peer)?;
    let mut members = peers.handle.members();
    let known = members.wait_for(|members| members.values().any(|member| member.key == key));
    let known = tokio::time::timeout(OPEN_LIMIT, known).await.ok()?.ok()?;
    let (node, _) = known.iter().find(|(_, member)| member.key == key)?;
    Some((*node, stream))
}

impl Peers {
    /// What other cloudlets bring to this one's API; `None` if somebody takes it already.
    pub fn relayed(&self) -> Option<Relays> {
        let streams = self.handle.accept_streams(PROTOCOL)?;
        Some(Relays {
            streams,
            peers: self.clone(),
            places: Places::default(),
            unnamed: FuturesUnordered::new(),
        })
    }

    /// A connection to the API of another cloudlet, over the link to it or a new one.
    pub async fn open_api(&self, node: NodeId) -> Result<ByPeer, StreamError> {
        Ok(self.handle.open_stream(node, PROTOCOL, OPEN_LIMIT).await?.compat())
    }
}
