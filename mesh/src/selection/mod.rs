//! Which of several cloudlets serves a need best, and why the others do not.
//!
//! ```text
//! candidates ──► feasibility: can it at all? ──► utility: how well? ──► hysteresis: worth a change? ──► Choice
//!                      │ no: every reason              │ every term
//!                      └───────────────────────────────┴──────────────────────► in the Choice, for people
//! ```
//!
//! Pure and deterministic: the same candidates in any order give the same [`Choice`]. Every term is between 0 and 1 and
//! depends on its own candidate only, so a candidate that is added or removed never changes the others' order.
//! [`Utility`] is a trait; [`Weighted`] is the built-in one.

use std::time::Duration;

use vm_images::ServiceId;
use vm_images::manifest::Accelerator;

use crate::NodeId;
use crate::advert::{Advert, Load, Summary};

mod choice;
mod feasibility;
mod utility;

pub use choice::{Choice, Considered, Current, Verdict, choose};
pub use feasibility::{Infeasible, infeasible};
pub use utility::{BadWeights, Measure, Scored, Term, Utility, Weighted};

/// What a client or another node wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The service.
    pub service: ServiceId,
    /// Memory that a new instance needs, bytes; 0 if it is not known.
    pub memory_bytes: u64,
    /// CPU that one busy instance needs, thousandths of a core; 0 if it is not known.
    pub cpu_millis: u32,
    /// Machine architecture that the guest must have, as `uname -m` says it.
    pub architecture: Option<String>,
    /// Base system that must be there, as `ID-VERSION_ID` of os-release. Only for provisioning by overlay; a cached or
    /// running service brings its system along.
    pub guest_system: Option<String>,
    /// Whether an instance that others use will do.
    pub instance: Instance,
}

impl Need {
    /// The service and nothing special.
    pub fn of(service: ServiceId) -> Self {
        Self {
            service,
            memory_bytes: 0,
            cpu_millis: 0,
            architecture: None,
            guest_system: None,
            instance: Instance::Shared,
        }
    }
}

/// Whether an instance that others use will do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Instance {
    /// Yes; a running one with room needs no further resources.
    #[default]
    Shared,
    /// No; a new one is made.
    Own,
}

/// A cloudlet that may serve the need, with everything that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Which one.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// How busy it is.
    pub load: Load,
    /// What executes its guests' code.
    pub accelerator: Option<Accelerator>,
    /// Measured speed of guest code, see [`crate::advert::Capabilities::guest_speed_permille`].
    pub guest_speed_permille: Option<u32>,
    /// Machine architecture of its guests.
    pub architecture: Option<String>,
    /// Base systems that it holds; `None` if it does not say.
    pub guest_systems: Option<std::collections::BTreeSet<String>>,
    /// The way to it.
    pub link: Link,
    /// What it has of the wanted service.
    pub offer: Offer,
    /// Application-ready time that it or the asker expects.
    pub ready_time: Option<Duration>,
}

/// The way between the asker and a candidate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Round-trip time of a small request; `None`: not measured.
    pub rtt: Option<Duration>,
    /// Measured rate, bytes per second.
    pub rate_bytes_per_s: Option<u64>,
}

/// What a candidate has of the wanted service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offer {
    /// Nothing. It serves only if somebody knows how long provisioning would take.
    Nothing,
    /// A cached image: a new instance can be started at once.
    Cached,
    /// A running instance with room.
    Running,
}

impl Candidate {
    /// From a whole advert.
    pub fn from_advert(advert: &Advert, need: &Need, link: Link) -> Self {
        let held = advert.services.get(&need.service);
        let capabilities = &advert.capabilities;
        Self {
            node: advert.node,
            name: advert.name.clone(),
            load: advert.load,
            accelerator: Some(capabilities.accelerator),
            guest_speed_permille: capabilities.guest_speed_permille,
            architecture: Some(capabilities.architecture.clone()),
            guest_systems: Some(capabilities.guest_systems.clone()),
            link,
            offer: match held {
                None => Offer::Nothing,
                Some(held) if held.ready_instances == 0 => Offer::Cached,
                Some(_) => Offer::Running,
            },
            ready_time: held.and_then(|held| held.ready_time),
        }
    }

    /// From the hints of a TXT record, which name services but not how ready they are.
    pub fn from_summary(name: &str, summary: &Summary, need: &Need, link: Link) -> Self {
        let held = summary.services.contains(&need.service);
        Self {
            node: summary.node,
            name: name.to_owned(),
            load: summary.load,
            accelerator: summary.accelerator,
            guest_speed_permille: None,
            architecture: None,
            guest_systems: None,
            link,
            offer: if held { Offer::Cached } else { Offer::Nothing },
            ready_time: None,
        }
    }
}
