//! How far a fetch is.

use std::collections::BTreeMap;

use mesh::NodeId;
use vm_images::ImageId;

/// How far a fetch is. Bytes are of the image that is being fetched now: the parents come first, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The image that was asked for.
    pub image: ImageId,
    /// Name and short id of what is being fetched now, as soon as it is known.
    pub label: Option<String>,
    /// What is being done.
    pub phase: Phase,
    /// Length of all parts, bytes.
    pub total_bytes: u64,
    /// Of these here, bytes; holes count.
    pub here_bytes: u64,
    /// Of these found in other images of the store, bytes.
    pub reused_bytes: u64,
    /// What came over the wire for the whole fetch, parents included, bytes.
    pub wire_bytes: u64,
    /// The same for each peer.
    pub by_peer: BTreeMap<NodeId, u64>,
    /// Peers that blocks come from now.
    pub peers: usize,
}

/// What a fetch is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Others are fetched first.
    Queued,
    /// Nobody in reach gives it. Goes on by itself when somebody comes.
    Waiting,
    /// Asking for manifests and lists, and looking what is here.
    Preparing,
    /// Blocks come in.
    Fetching,
    /// Everything is here; it is read and checked once more, and appears in the store.
    Publishing,
    /// It is in the store.
    Done,
    /// It ended, for this reason; the chain of causes in one line.
    Failed(String),
}

impl Phase {
    /// Whether nothing more will happen.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Done | Self::Failed(_))
    }
}

impl Progress {
    pub(super) fn queued(image: ImageId) -> Self {
        Self {
            image,
            label: None,
            phase: Phase::Queued,
            total_bytes: 0,
            here_bytes: 0,
            reused_bytes: 0,
            wire_bytes: 0,
            by_peer: BTreeMap::new(),
            peers: 0,
        }
    }

    pub(super) fn received(&mut self, node: NodeId, bytes: u64) {
        self.wire_bytes += bytes;
        *self.by_peer.entry(node).or_default() += bytes;
    }
}
