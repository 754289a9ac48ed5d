//! Instances that move to other cloudlets.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Sends an instance to another cloudlet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HandoffTo {
    /// Node id or name of the cloudlet.
    pub to: String,
    /// Before or after others that go to the same cloudlet.
    #[serde(default)]
    pub priority: Priority,
}

/// What goes first over a link that several handoffs use. An instance that stands still goes before all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Priority {
    /// After the others.
    Low,
    /// Neither; who began first goes first.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// A move of an instance, as the cloudlet sees it that it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Handoff {
    /// The instance.
    pub instance: Uuid,
    /// Node id of the cloudlet that it goes to, text form of `mesh::NodeId`.
    pub to: String,
    /// Before or after others that go to the same cloudlet.
    #[serde(default)]
    pub priority: Priority,
    /// How far it is.
    pub state: HandoffState,
    /// Tries, this one included.
    pub attempts: u32,
    /// What went over the link, in all tries, bytes.
    pub sent_bytes: u64,
    /// Of the memory: looked at in the first pass, bytes.
    pub scanned_bytes: u64,
    /// Length of the memory, bytes; 0 before it is known.
    pub memory_bytes: u64,
    /// How much longer it will take, as far as can be said, milliseconds.
    pub eta_ms: Option<u64>,
    /// From the order until now, or its end, milliseconds.
    pub total_ms: u64,
    /// How long the instance stood still: from before it was paused until the word came that it runs there, milliseconds.
    pub downtime_ms: Option<u64>,
    /// Why it waits, or has failed, for people.
    pub reason: Option<String>,
}

/// How far a handoff is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HandoffState {
    /// The other cloudlet is being asked.
    Offering,
    /// Pages travel; the instance serves on here.
    Precopy,
    /// The rest travels; the instance stands still.
    Frozen,
    /// The other cloudlet rebuilds it and compares; it stands still.
    Verifying,
    /// It is the other cloudlet's as soon as that says so; it stands still.
    Committing,
    /// It could not be done now and will be tried again; the instance serves on here.
    Waiting,
    /// It serves there.
    Done,
    /// Nothing came of it; the instance serves on here.
    Failed,
    /// Somebody stopped it; the instance serves on here.
    Cancelled,
}

impl HandoffState {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}
