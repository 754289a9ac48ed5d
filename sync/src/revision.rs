//! One change to a mission object, without its content.

use std::time::Duration;

use mesh::NodeId;

use crate::key::{ContentId, Key};
use crate::version::Version;

/// How urgent, lowest first: the precedences of military messages (ACP 121).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Normal traffic.
    Routine = 0,
    /// Faster than normal traffic.
    Priority = 1,
    /// Situations that gravely affect the mission.
    Immediate = 2,
    /// First contact with the enemy, loss of life: before everything else.
    Flash = 3,
}

impl Priority {
    /// Every priority, lowest first.
    pub const ALL: [Self; 4] = [Self::Routine, Self::Priority, Self::Immediate, Self::Flash];
}

/// What a change made of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Body {
    /// It has this content now.
    Content {
        /// Digest of the content.
        id: ContentId,
        /// Length of the content.
        bytes: u64,
    },
    /// It was deleted. Kept like any other change, or a peer that has not heard of it would bring the object back.
    Deleted,
}

impl Body {
    /// Bytes of content that a peer needs.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Content { bytes, .. } => *bytes,
            Self::Deleted => 0,
        }
    }
}

/// One change to a mission object. Small: content travels apart from it, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Which object.
    pub key: Key,
    /// What it has seen, this change included.
    pub version: Version,
    /// Writer's mission clock. Decides between concurrent changes where the last writer wins; nothing else.
    pub written: Duration,
    /// Who made the change.
    pub author: NodeId,
    /// What it made of the object.
    pub body: Body,
    /// How urgent it is to others.
    pub priority: Priority,
    /// Mission time from which on it is of no use to others. `None`: it stays useful.
    pub deadline: Option<Duration>,
}

impl Revision {
    /// What decides between concurrent revisions where the last writer wins. Total: equal only for equal revisions.
    pub(crate) fn last_writer_order(&self) -> (Duration, NodeId, &Self) {
        (self.written, self.author, self)
    }
}
