//! Whether a candidate can serve a need at all.

use std::fmt;
use std::time::Duration;

use super::completion::joins;
use super::{Candidate, Completion, Need, Offer};

/// A reason why a candidate cannot serve a need.
#[derive(Debug, Clone, PartialEq)]
pub enum Infeasible {
    /// It has nothing of the service, and nobody knows how it could get it.
    ServiceNotOffered,
    /// It has the base system only, and the client has no overlay that makes the service of it.
    NoOverlay,
    /// Not enough memory is free for a new instance.
    MemoryShort {
        /// Memory that would have to be freed first, bytes.
        missing_bytes: u64,
    },
    /// It has fewer cores than one instance needs, busy or not.
    TooFewCores {
        /// CPU that it lacks, thousandths of a core.
        missing_millis: u32,
    },
    /// Its guests have another architecture.
    WrongArchitecture {
        /// Theirs.
        has: String,
    },
    /// The base system for the overlay is not there.
    NoBaseSystem {
        /// The one that is wanted.
        wanted: String,
    },
    /// The mission does not allow this client to use it.
    NotPermitted,
    /// It is being emptied and takes nobody new.
    Draining,
    /// The task would be done too late.
    TooLate {
        /// By how much.
        by: Duration,
    },
    /// The user's requirement is not met.
    Requirement {
        /// The expression.
        expression: String,
        /// What it looked at, or what was not known.
        figures: String,
    },
    /// The utility gives no score.
    NoScore {
        /// Why.
        why: String,
    },
}

impl Infeasible {
    /// Whether asking the candidate all the same may be worth it: what it lacked may be free by now, and nobody better may
    /// be there. What the user or the mission demands is not asked away.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::ServiceNotOffered
            | Self::NoOverlay
            | Self::MemoryShort { .. }
            | Self::TooFewCores { .. }
            | Self::WrongArchitecture { .. }
            | Self::NoBaseSystem { .. }
            | Self::Draining => true,
            Self::NotPermitted | Self::TooLate { .. } | Self::Requirement { .. } | Self::NoScore { .. } => {
                false
            }
        }
    }
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceNotOffered => f.write_str("does not offer the service"),
            Self::NoOverlay => {
                f.write_str("has the base system only, and this client has no overlay of the service")
            }
            Self::MemoryShort { missing_bytes } => {
                write!(f, "lacks {} MiB of free memory", missing_bytes.div_ceil(1 << 20))
            }
            Self::TooFewCores { missing_millis } => {
                write!(f, "lacks {:.1} cores", f64::from(*missing_millis) / 1000.0)
            }
            Self::WrongArchitecture { has } => write!(f, "runs {has} guests"),
            Self::NoBaseSystem { wanted } => write!(f, "has no base image of {wanted}"),
            Self::NotPermitted => f.write_str("this client may not use it"),
            Self::Draining => f.write_str("is draining and takes nobody new"),
            Self::TooLate { by } => write!(f, "would be done {:.1} s too late", by.as_secs_f64()),
            Self::Requirement { expression, figures } => {
                write!(f, "does not meet '{expression}' ({figures})")
            }
            Self::NoScore { why } => write!(f, "has no score: {why}"),
        }
    }
}

/// Every reason why `candidate` cannot serve `need`; none means that it can.
///
/// A contact that will hardly last is no reason: the completion is discounted for it, and a try that is soon over may beat
/// one that surely takes long. Who wants it to be one requires `completion.chance > 0.5`.
///
/// What a candidate does not say is given the benefit of the doubt: it will refuse by itself when it is asked. Who serves
/// already (`serves`) needs no new memory and may be draining, because it empties itself last of its present users.
pub fn infeasible(
    need: &Need,
    candidate: &Candidate,
    completion: Option<&Completion>,
    serves: bool,
) -> Vec<Infeasible> {
    let mut reasons = Vec::new();
    if candidate.permitted == Some(false) {
        reasons.push(Infeasible::NotPermitted);
    }
    if candidate.draining && !serves {
        reasons.push(Infeasible::Draining);
    }
    if completion.is_none() {
        let only_base = candidate.offer == Offer::Base && need.overlay_bytes.is_none();
        reasons.push(if only_base { Infeasible::NoOverlay } else { Infeasible::ServiceNotOffered });
    }
    reasons.extend(resources(need, candidate, serves));
    if let (Some(wanted), Some(has)) = (&need.architecture, &candidate.architecture)
        && wanted != has
    {
        reasons.push(Infeasible::WrongArchitecture { has: has.clone() });
    }
    if let (Offer::Nothing | Offer::Base, Some(wanted), Some(has)) =
        (candidate.offer, &need.guest_system, &candidate.guest_systems)
        && candidate.fetch.is_none()
        && !has.contains(wanted)
    {
        reasons.push(Infeasible::NoBaseSystem { wanted: wanted.clone() });
    }
    if let (Some(deadline), Some(completion)) = (need.deadline, completion)
        && completion.total > deadline
    {
        reasons.push(Infeasible::TooLate { by: completion.total.saturating_sub(deadline) });
    }
    reasons
}

fn resources(need: &Need, candidate: &Candidate, serves: bool) -> Vec<Infeasible> {
    if serves || joins(need, candidate) {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    let missing_bytes = need.memory_bytes.saturating_sub(candidate.load.memory_free_bytes);
    if missing_bytes > 0 {
        reasons.push(Infeasible::MemoryShort { missing_bytes });
    }
    // A busy processor makes an instance slow, which the completion counts; too few cores make it impossible.
    let missing_millis = need.cpu_millis.saturating_sub(candidate.load.cpu_total_millis);
    if missing_millis > 0 {
        reasons.push(Infeasible::TooFewCores { missing_millis });
    }
    reasons
}
