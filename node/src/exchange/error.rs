//! What can go wrong with an exchange.

use mesh::NodeId;
use mesh::exchange::wire::{self, Refusal};
use vm_images::{ImageId, store};

/// Why an image was not fetched. What is here of it stays, and the next fetch goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused the image (its signer is not trusted), or has no room.
    #[error("the image store refused it")]
    Store(#[source] store::Error),
    /// Nothing came for a long time.
    #[error(
        "nothing came for {seconds} s ({holders} nodes in reach hold it); {here} bytes are here already. \
         Run the same again when a cloudlet that has it is in reach"
    )]
    Patience {
        /// How long, seconds.
        seconds: u64,
        /// How many members are said to hold it.
        holders: usize,
        /// What is here, bytes.
        here: u64,
    },
    /// Somebody ended it.
    #[error("it was ended; what is here stays, and the same command goes on with it")]
    Cancelled,
    /// More layers than any recipe makes.
    #[error("image {0} has too many parents")]
    TooDeep(ImageId),
    /// A task of ours ended in a panic.
    #[error("a task of the exchange panicked")]
    Panicked(#[source] tokio::task::JoinError),
    /// The exchange has ended.
    #[error("the exchange of images has ended, as the daemon is ending")]
    Ended,
}

/// Why an image cannot be named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Neither an id nor a service.
    #[error(
        "'{wanted}' is neither an image's id (64 hexadecimal digits, or the first six or more) nor a service"
    )]
    NoName {
        /// What was asked for.
        wanted: String,
    },
    /// There is nobody to ask.
    #[error(
        "no other cloudlet is in reach, so nobody can be asked for '{wanted}'; `cloudlet mesh` shows who is"
    )]
    Alone {
        /// What was asked for.
        wanted: String,
    },
    /// No member holds one.
    #[error("none of the {members} cloudlets in reach that may be asked holds an image of '{wanted}'")]
    NobodyHasIt {
        /// Of what.
        wanted: String,
        /// How many members may be asked.
        members: usize,
    },
    /// Members hold different ones.
    #[error("cloudlets in reach hold different images of '{wanted}'; name one by its id: {}", shown(images))]
    Several {
        /// Of what.
        wanted: String,
        /// Which, and how many members hold each.
        images: Vec<(ImageId, usize)>,
    },
}

fn shown(images: &[(ImageId, usize)]) -> String {
    let each = images.iter().map(|(image, count)| format!("{image} (on {count})"));
    each.collect::<Vec<_>>().join(", ")
}

/// Why a peer gave nothing (more).
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// It is not in reach, or the stream broke.
    #[error("the stream to node {node} broke")]
    Stream {
        node: NodeId,
        #[source]
        source: std::io::Error,
    },
    /// It took too long.
    #[error("node {0} did not answer in time")]
    Timeout(NodeId),
    /// It said no.
    #[error("node {node} refused: {refusal}")]
    Refused { node: NodeId, refusal: Refusal },
    /// Bytes that are no frames.
    #[error("node {node} sent what is no frame of this protocol")]
    Frame {
        node: NodeId,
        #[source]
        source: wire::Error,
    },
    /// A frame that was not asked for, or that is not true.
    #[error("node {node} sent {what}")]
    Untrue { node: NodeId, what: &'static str },
}

impl PeerError {
    /// Whether the peer is not to be asked again.
    pub(super) fn is_lie(&self) -> bool {
        matches!(self, Self::Frame { .. } | Self::Untrue { .. })
    }
}
