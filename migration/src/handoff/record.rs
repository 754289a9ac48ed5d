//! What a node must know after a restart.

use mesh::NodeId;
use serde::{Deserialize, Serialize};

use super::message::Grant;

/// A node's part in the life of one VM, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where the VM is, as far as this node can say.
    pub place: Place,
    /// What made this node the owner and has not been released by its source.
    pub accepted: Vec<Accepted>,
    /// Grants that an operator here declared dead, and whose they were: should one live, its holder is told.
    pub forced: Vec<(NodeId, Grant)>,
}

/// A grant that was committed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The reservation.
    pub grant: Grant,
    /// Whose it was.
    pub from: NodeId,
    /// The epoch that it began.
    pub epoch: u64,
}

/// Where a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Here. It runs, or is frozen for a handoff that has not been committed.
    Owner {
        /// Its epoch.
        epoch: u64,
    },
    /// Here or there: a commit may have left.
    InDoubt {
        /// Its epoch here; there it would be one more.
        epoch: u64,
        /// The destination.
        to: NodeId,
        /// The reservation.
        grant: Grant,
    },
    /// Our copy stands still: who gave us the VM has taken it back without us.
    Fenced {
        /// Its epoch there, at least.
        epoch: u64,
        /// Who took it.
        owner: NodeId,
    },
    /// Elsewhere.
    Gone {
        /// Its epoch there, when we last heard.
        epoch: u64,
        /// Who had it then.
        to: NodeId,
    },
    /// Never here; or lost.
    Unknown,
}

impl Place {
    /// The highest epoch that this node has seen the VM at.
    pub(super) fn epoch(&self) -> u64 {
        match self {
            Self::Owner { epoch } | Self::InDoubt { epoch, .. } | Self::Fenced { epoch, .. } => *epoch,
            Self::Gone { epoch, .. } => *epoch,
            Self::Unknown => 0,
        }
    }
}

impl Record {
    /// The VM was started here.
    pub fn started() -> Self {
        Self { place: Place::Owner { epoch: 1 }, accepted: Vec::new(), forced: Vec::new() }
    }

    /// Nothing is known of the VM.
    pub fn unknown() -> Self {
        Self { place: Place::Unknown, accepted: Vec::new(), forced: Vec::new() }
    }

    /// What to write down; nothing if it says nothing.
    pub(super) fn written(&self) -> Option<Self> {
        (*self != Self::unknown()).then(|| self.clone())
    }
}
