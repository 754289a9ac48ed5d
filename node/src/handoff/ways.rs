//! The way to other cloudlets: libp2p streams of the mesh, or what a test puts in their place.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use mesh::NodeId;
use mesh::membership::{Members, Reach};
use mesh::swarm::{Handle, StreamProtocol};
use tokio::task::JoinSet;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;

use super::{Handoffs, wire};
use crate::exchange::{ByteStream, HeldStream, node_of};

/// Longest time for opening a stream. A guess: a connection may have to be made first, over a satellite.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Other cloudlets as handoffs see them.
pub trait Ways: Send + Sync {
    /// Opens a stream to a proven member; its [`Handoffs::accept`] gets the other end.
    fn open(&self, node: NodeId) -> BoxFuture<'_, io::Result<ByteStream>>;

    /// Whether a member is there, as far as is known.
    fn is_there(&self, node: NodeId) -> bool;

    /// The measured round trip to a member.
    fn round_trip(&self, node: NodeId) -> Option<Duration>;

    /// Address of a member's API, as it says.
    fn api(&self, node: NodeId) -> Option<String>;

    /// All that the members say of themselves; nobody where nothing is known but the ways.
    fn members(&self) -> Arc<Members> {
        Arc::default()
    }
}

/// The mesh.
pub struct SwarmWays(pub Handle);

impl SwarmWays {
    fn with<T>(&self, node: NodeId, read: impl FnOnce(&mesh::membership::Member) -> T) -> Option<T> {
        self.0.members().borrow().get(&node).map(read)
    }
}

impl Ways for SwarmWays {
    fn open(&self, node: NodeId) -> BoxFuture<'_, io::Result<ByteStream>> {
        Box::pin(HeldStream::open(&self.0, node, wire::PROTOCOL, OPEN_LIMIT))
    }

    fn is_there(&self, node: NodeId) -> bool {
        self.with(node, |member| matches!(member.reach, Reach::Neighbour { .. } | Reach::Far { .. }))
            .unwrap_or(false)
    }

    fn round_trip(&self, node: NodeId) -> Option<Duration> {
        self.with(node, |member| match member.reach {
            Reach::Neighbour { rtt } => rtt,
            _ => None,
        })?
    }

    fn api(&self, node: NodeId) -> Option<String> {
        self.with(node, |member| member.advert.api.first().cloned())?
    }

    fn members(&self) -> Arc<Members> {
        self.0.members().borrow().clone()
    }
}

/// Takes every stream that members open, until the mesh ends or `stop` is cancelled. `false`: somebody takes them already.
pub async fn accept_swarm(handoffs: Handoffs, mesh: Handle, stop: CancellationToken) -> bool {
    let Some(mut streams) = mesh.accept_streams(StreamProtocol::new(wire::PROTOCOL)) else { return false };
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return true,
            next = streams.next() => {
                let Some((peer, stream)) = next else { return true };
                let (handoffs, mesh) = (handoffs.clone(), mesh.clone());
                tasks.spawn(async move {
                    // Unproven peers have no streams (the gate); one that is not known yet is about to be.
                    if let Some(node) = node_of(&mesh, peer).await {
                        handoffs.accept(node, Box::new(stream.compat())).await;
                    }
                });
            }
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "taking a stream of a handoff ended in a panic");
                }
            }
        }
    }
}
