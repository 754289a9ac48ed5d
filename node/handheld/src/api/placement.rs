//! Whether and where to instances move: what it would cost, what was decided, and cloudlets that are emptied.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What it would cost to send an instance to another cloudlet, with all that this is made of. Bytes are those on the link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HandoffPlan {
    /// The instance.
    pub instance: Uuid,
    /// Node id of the destination, text form of `mesh::NodeId`.
    pub to: String,
    /// What the destination holds of its images.
    pub destination_holds: Holds,
    /// Images that must travel first, bytes at most: they are packed on the way. The instance serves on meanwhile.
    pub images_bytes: u64,
    /// What is not in the image of its memory and devices; of an earlier handoff, everything.
    pub memory_bytes: Figure,
    /// What it wrote to its disk, before reduction.
    pub disk_bytes: Figure,
    /// What an earlier try left there, bytes; it is not sent again.
    pub kept_bytes: u64,
    /// What the guest adds while it runs, bytes each second.
    pub dirty_bytes_per_s: Figure,
    /// What the link carries, bytes each second.
    pub rate_bytes_per_s: Figure,
    /// Round trip of the link, milliseconds.
    pub rtt_ms: Figure,
    /// What standing still takes beside the link, milliseconds.
    pub fixed_ms: Figure,
    /// How long the contact is expected to last, milliseconds; none: nobody knows.
    pub contact_rest_ms: Option<u64>,
    /// How long the images take, milliseconds.
    pub images_ms: u64,
    /// Passes over what the destination lacks while the instance serves on.
    pub rounds: Vec<PlannedRound>,
    /// What travels while it stands still.
    pub last: PlannedRound,
    /// All bytes, the images included.
    pub bytes: u64,
    /// How long it stands still, milliseconds.
    pub downtime_ms: u64,
    /// From now until it serves there, milliseconds.
    pub total_ms: u64,
    /// Whether it can be done.
    pub verdict: PlanVerdict,
    /// With `by-instalments`: time that is lacking in this contact, milliseconds.
    pub short_by_ms: Option<u64>,
    /// Why the destination would not take it, as far as it says, for people.
    pub against: Option<String>,
}

/// What a destination holds of an instance's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Holds {
    /// The Service VM's own: only what the guest changed travels.
    Service,
    /// The base image that it was made from.
    Base,
    /// Nothing.
    Nothing,
}

/// A figure, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Figure {
    /// How much.
    pub value: f64,
    /// Where it comes from.
    pub source: FigureSource,
}

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FigureSource {
    /// It was measured.
    Measured,
    /// An earlier handoff showed it.
    Earlier,
    /// It is what others were like; a guess.
    Assumed,
}

/// One pass over what is lacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlannedRound {
    /// Bytes on the link.
    pub bytes: u64,
    /// Its time, milliseconds.
    pub ms: u64,
}

/// Whether a handoff can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PlanVerdict {
    /// It is done before the contact ends.
    Fits,
    /// The contact ends before; what was sent is kept there, and a later contact goes on.
    ByInstalments,
    /// The guest changes faster than the link carries.
    TooBusy,
    /// The destination is out of reach.
    NoLink,
}

/// Says that a destination is gone for good, so that an instance in doubt serves on here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForceHandoff {
    /// Must be true: the caller vouches that the other cloudlet does not run the instance and never will. If that is wrong, two
    /// copies serve until the two cloudlets meet, and what users did at the other one is lost then.
    pub destination_is_gone_for_good: bool,
}

/// Sends every instance away and takes nobody new.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Evacuate {
    /// Node id or name of the only destination; without it, each instance goes to the best.
    #[serde(default)]
    pub to: Option<String>,
    /// It ends after this long, as it is, seconds; without it, when all have left that can.
    #[serde(default)]
    pub limit_s: Option<u64>,
}

/// How far the emptying of a cloudlet is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Evacuation {
    /// How far it is.
    pub state: EvacuationState,
    /// Whether everything has left.
    pub complete: bool,
    /// What becomes of each instance.
    pub instances: Vec<Leaving>,
}

/// How far the emptying of a cloudlet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EvacuationState {
    /// Instances leave.
    Running,
    /// All have left that could.
    Done,
    /// Somebody ended it; the cloudlet takes users again if it did before.
    Cancelled,
}

/// What becomes of an instance of a cloudlet that is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Leaving {
    /// Which.
    pub instance: Uuid,
    /// How far it is.
    pub fate: Fate,
    /// Node id of where it goes.
    pub to: Option<String>,
    /// Why it waits or stays, for people.
    pub reason: Option<String>,
}

/// What becomes of an instance of a cloudlet that is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Fate {
    /// It will leave.
    Waits,
    /// It is on its way.
    Moves,
    /// It serves there.
    Moved,
    /// It was stopped meanwhile.
    Ended,
    /// It stays here.
    Stays,
}

/// What was decided last of where instances should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Placement {
    /// What may be done without anybody asking.
    pub automatic: Automatic,
    /// One for each instance that is ready; none where instances never move by themselves.
    pub decisions: Vec<Decided>,
}

/// What may be done without anybody asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Automatic {
    /// Nothing.
    Off,
    /// It is only said what would be done.
    DryRun,
    /// Instances move.
    On,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Decided {
    /// The instance.
    pub instance: Uuid,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Node id of where it goes, would go, or will go.
    pub to: Option<String>,
    /// Why: `shutdown`, `drain`, `power-low`, `user-leaves`, `link-ends` or `load-balance`.
    pub reason: Option<String>,
    /// All of it, for people.
    pub explanation: String,
    /// Everybody who was considered, the best first.
    pub considered: Vec<Candidate>,
}

/// What becomes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Outcome {
    /// It moves.
    Move,
    /// It would move, if that were allowed.
    WouldMove,
    /// It will move, unless the reason passes.
    Wait,
    /// It stays.
    Stay,
}

/// A cloudlet that an instance could go to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Candidate {
    /// Its node id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Why it is out of question, for people.
    pub unfit: Option<String>,
    /// What would be gained, seconds of service.
    pub gain_s: f64,
    /// What that is made of, seconds; `arrives` is a chance.
    pub terms: BTreeMap<String, f64>,
}
