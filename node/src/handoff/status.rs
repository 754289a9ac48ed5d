//! What people are told about a handoff.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh::NodeId;
use migration::VmId;
use migration::handoff::share::Priority;

/// How far a handoff is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The destination is being asked.
    Offering,
    /// Pages travel; the VM runs here.
    Precopy,
    /// The rest travels; the VM stands still.
    Frozen,
    /// The destination rebuilds it and compares; the VM stands still.
    Verifying,
    /// It is the destination's, as soon as that says so; the VM stands still.
    Committing,
    /// It could not be done now and is tried again; the VM runs here.
    Waiting {
        /// Why not now.
        reason: String,
    },
    /// It runs there.
    Done,
    /// Nothing came of it; the VM runs here.
    Failed {
        /// Why.
        reason: String,
    },
    /// Somebody wanted it stopped; the VM runs here.
    Cancelled,
}

impl Phase {
    /// Whether nothing more will happen.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Done | Self::Failed { .. } | Self::Cancelled)
    }
}

/// A handoff as its source sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The VM.
    pub vm: VmId,
    /// Where it goes.
    pub to: NodeId,
    /// Before or after others that go there.
    pub priority: Priority,
    /// How far it is.
    pub phase: Phase,
    /// Tries, this one included.
    pub attempts: u32,
    /// What went over the link, in all tries, bytes.
    pub sent_bytes: u64,
    /// Of the VM's memory: bytes that were looked at in the first pass, and all.
    pub scanned_bytes: u64,
    /// Length of the VM's memory, bytes.
    pub memory_bytes: u64,
    /// How much longer it will take, as far as can be said.
    pub eta: Option<Duration>,
    /// From the order until now, or its end.
    pub total: Duration,
    /// How long the VM stood still, as seen from here: until the word came that it runs there.
    pub downtime: Option<Duration>,
}

/// Counters that a sender moves.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub sent_bytes: AtomicU64,
    pub seen_blocks: AtomicU64,
    pub memory_blocks: AtomicU64,
    /// What the try that came to its end has measured.
    pub measured: OnceLock<Measured>,
}

/// What a sender measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// What the link carried while there was something to carry, bytes each second.
    pub rate_bytes_s: Option<f64>,
    /// What went over it after the first pass, bytes, and how long the guest had time to make that.
    pub late: (u64, Duration),
    /// What went over it while the VM stood still, bytes.
    pub still_bytes: u64,
}

impl Figures {
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
