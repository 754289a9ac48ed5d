//! Whether a candidate can serve a need at all.

use std::fmt;

use super::{Candidate, Instance, Need, Offer};

/// A reason why a candidate cannot serve a need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Infeasible {
    /// It has nothing of the service, and nobody knows how it could get it.
    ServiceNotOffered,
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
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceNotOffered => f.write_str("does not offer the service"),
            Self::MemoryShort { missing_bytes } => {
                write!(f, "lacks {} MiB of free memory", missing_bytes.div_ceil(1 << 20))
            }
            Self::TooFewCores { missing_millis } => {
                write!(f, "lacks {:.1} cores", f64::from(*missing_millis) / 1000.0)
            }
            Self::WrongArchitecture { has } => write!(f, "runs {has} guests"),
            Self::NoBaseSystem { wanted } => write!(f, "has no base image of {wanted}"),
        }
    }
}

/// Every reason why `candidate` cannot serve `need`; none means that it can.
///
/// What a candidate does not say is given the benefit of the doubt: it will refuse by itself when it is asked.
pub fn infeasible(need: &Need, candidate: &Candidate) -> Vec<Infeasible> {
    let mut reasons = Vec::new();
    if candidate.offer == Offer::Nothing && candidate.ready_time.is_none() {
        reasons.push(Infeasible::ServiceNotOffered);
    }
    let joins = candidate.offer == Offer::Running && need.instance == Instance::Shared;
    let missing_bytes = need.memory_bytes.saturating_sub(candidate.load.memory_free_bytes);
    if !joins && missing_bytes > 0 {
        reasons.push(Infeasible::MemoryShort { missing_bytes });
    }
    // A busy processor makes an instance slow, which the utility weighs; too few cores make it impossible.
    let missing_millis = need.cpu_millis.saturating_sub(candidate.load.cpu_total_millis);
    if !joins && missing_millis > 0 {
        reasons.push(Infeasible::TooFewCores { missing_millis });
    }
    if let (Some(wanted), Some(has)) = (&need.architecture, &candidate.architecture)
        && wanted != has
    {
        reasons.push(Infeasible::WrongArchitecture { has: has.clone() });
    }
    if let (Offer::Nothing, Some(wanted), Some(has)) =
        (candidate.offer, &need.guest_system, &candidate.guest_systems)
        && !has.contains(wanted)
    {
        reasons.push(Infeasible::NoBaseSystem { wanted: wanted.clone() });
    }
    reasons
}
