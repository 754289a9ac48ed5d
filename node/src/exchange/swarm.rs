//! The exchange over the mesh: [`Peers`] by libp2p, and the streams that members open.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use mesh::NodeId;
use mesh::exchange::policy::Holdings;
use mesh::exchange::wire;
use mesh::membership::Reach;
use mesh::swarm::{Handle, PeerId, Stream, StreamProtocol, key_of};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

use super::{ByteStream, Exchange, Peers, talk};

/// The mesh as the exchange sees it.
#[derive(Clone)]
pub struct SwarmPeers(Handle);

impl SwarmPeers {
    /// Over this mesh.
    pub fn new(mesh: Handle) -> Self {
        Self(mesh)
    }
}

impl Peers for SwarmPeers {
    fn members(&self) -> BTreeMap<NodeId, Holdings> {
        let members = self.0.members();
        let members = members.borrow();
        let in_reach = members
            .iter()
            .filter(|(_, member)| matches!(member.reach, Reach::Neighbour { .. } | Reach::Far { .. }));
        in_reach
            .map(|(node, member)| {
                let advert = &member.advert;
                let holdings = Holdings {
                    images: advert.images.clone(),
                    sizes: advert.sizes.clone(),
                    base_images: advert.base_images.clone(),
                };
                (*node, holdings)
            })
            .collect()
    }

    fn rates(&self) -> BTreeMap<NodeId, u64> {
        let members = self.0.members();
        let members = members.borrow();
        let own = members.values().find(|member| member.reach == Reach::Own);
        let links = own.into_iter().flat_map(|own| &own.advert.links);
        links.filter_map(|(node, link)| Some((*node, link.rate_bytes_per_s?))).collect()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let mut members = self.0.members();
        members.mark_unchanged();
        Box::pin(async move {
            if members.changed().await.is_err() {
                // The mesh has ended: nothing will ever change.
                std::future::pending::<()>().await;
            }
        })
    }

    fn open(&self, node: NodeId) -> BoxFuture<'_, io::Result<ByteStream>> {
        Box::pin(HeldStream::open(&self.0, node, wire::PROTOCOL, talk::OPEN_LIMIT))
    }

    fn measured(&self, node: NodeId, bytes_per_s: u64) {
        let mesh = self.0.clone();
        // Only a hint: if the mesh has ended, nobody needs it.
        tokio::spawn(async move { drop(mesh.report_rate(node, bytes_per_s).await) });
    }
}

/// Keeps the link to a node while it lives.
struct Held {
    mesh: Handle,
    node: NodeId,
}

impl Held {
    async fn new(mesh: Handle, node: NodeId) -> io::Result<Self> {
        mesh.hold(node, true).await.map_err(io::Error::other)?;
        Ok(Self { mesh, node })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (mesh, node) = (self.mesh.clone(), self.node);
        // Outside of a runtime the whole program is ending, and the mesh with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(mesh.hold(node, false).await) });
        }
    }
}

/// A stream whose link is kept for as long as it is open.
pub(crate) struct HeldStream {
    stream: Compat<Stream>,
    _held: Held,
}

impl HeldStream {
    /// Opens a stream of a protocol to a member.
    pub(crate) async fn open(
        mesh: &Handle,
        node: NodeId,
        protocol: &'static str,
        limit: Duration,
    ) -> io::Result<ByteStream> {
        let held = Held::new(mesh.clone(), node).await?;
        let protocol = StreamProtocol::new(protocol);
        let stream = mesh.open_stream(node, protocol, limit).await.map_err(io::Error::other)?;
        Ok(Box::new(Self { stream: stream.compat(), _held: held }))
    }
}

impl AsyncRead for HeldStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for HeldStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// How long members may take to learn of somebody who opens a stream. A guess: its certificate came before, over the
/// same connection.
const LEARN_LIMIT: Duration = Duration::from_secs(5);

/// Serves every stream that members open, until the mesh ends or the future is dropped. `false`: somebody serves
/// them already.
pub async fn serve_swarm(exchange: Exchange, mesh: Handle) -> bool {
    let Some(mut streams) = mesh.accept_streams(StreamProtocol::new(wire::PROTOCOL)) else { return false };
    let mut tasks = JoinSet::new();
    // The streams do not end with the mesh: every handle keeps their source alive.
    let mut members = mesh.members();
    let mesh_ended = async move { while members.changed().await.is_ok() {} };
    tokio::pin!(mesh_ended);
    loop {
        tokio::select! {
            () = &mut mesh_ended => return true,
            next = streams.next() => {
                let Some((peer, stream)) = next else { return true };
                let (exchange, mesh) = (exchange.clone(), mesh.clone());
                tasks.spawn(async move {
                    // Unproven peers have no streams (the gate); one that is not known yet is about to be.
                    if let Some(node) = node_of(&mesh, peer).await {
                        exchange.serve(node, Box::new(stream.compat())).await;
                    }
                });
            }
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "serving images to a peer ended in a panic");
                }
            }
        }
    }
}

pub(crate) async fn node_of(mesh: &Handle, peer: PeerId) -> Option<NodeId> {
    let key = key_of(&peer)?;
    let mut members = mesh.members();
    let waiting = members.wait_for(|members| members.values().any(|member| member.key == key));
    let known = tokio::time::timeout(LEARN_LIMIT, waiting).await.ok()?.ok()?;
    known.iter().find(|(_, member)| member.key == key).map(|(node, _)| *node)
}
