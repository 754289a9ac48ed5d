//! Who has what, and streams to them: what the exchange needs of the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use futures_util::future::BoxFuture;
use mesh::NodeId;
use mesh::exchange::policy::Holdings;
use tokio::io::{AsyncRead, AsyncWrite};
use vm_images::ImageId;

/// Both directions of a stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream to or from a peer that has proved who it is.
pub type ByteStream = Box<dyn Duplex>;

/// The mesh, as far as the exchange uses it.
pub trait Peers: Send + Sync + 'static {
    /// The members in reach, without this node, and what each says to hold.
    fn members(&self) -> BTreeMap<NodeId, Holdings>;

    /// Ends when [`Peers::members`] may have changed.
    fn changed(&self) -> BoxFuture<'_, ()>;

    /// Opens a stream for [`mesh::exchange::wire::PROTOCOL`].
    fn open(&self, node: NodeId) -> BoxFuture<'_, io::Result<ByteStream>>;

    /// What links to members were measured to carry, bytes per second.
    fn rates(&self) -> BTreeMap<NodeId, u64> {
        BTreeMap::new()
    }

    /// Is told how fast blocks came from a peer, bytes per second: a measurement of the link to it.
    fn measured(&self, node: NodeId, bytes_per_s: u64) {
        let _ = (node, bytes_per_s);
    }
}

/// Who holds an image: who says so, and who holds an image that is made of it.
pub(super) fn holders(members: &BTreeMap<NodeId, Holdings>, chain: &[ImageId]) -> BTreeSet<NodeId> {
    let holds = |held: &Holdings| chain.iter().any(|image| held.holds(*image));
    members.iter().filter(|(_, held)| holds(held)).map(|(node, _)| *node).collect()
}
