//! A survey on paper: what was wanted and who offered what, so that a choice can be replayed and argued over.
//!
//! These are frames of their own: the core's types may change, files stay readable. Whoever reads one caps its length
//! before ([`MAX_BYTES`]); [`Survey::unpack`] checks the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vm_images::ServiceId;
use vm_images::manifest::Accelerator;

use super::contact::ENDS;
use super::{Candidate, Contact, Current, Fetch, Instance, Link, Need, Offer, Power, Task, Tie};
use crate::NodeId;
use crate::advert::Load;

/// Version of the form.
pub const VERSION: u32 = 2;
/// Longest file, bytes. A candidate takes about 700.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Most candidates of a survey.
pub const MAX_CANDIDATES: usize = 1000;

/// What was wanted and who offered what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// [`VERSION`].
    pub version: u32,
    /// What was wanted.
    pub need: RecordedNeed,
    /// Who serves now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<RecordedCurrent>,
    /// Who offered what.
    pub candidates: Vec<RecordedCandidate>,
}

/// A survey that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSurvey {
    /// Of another version.
    #[error("the survey has version {0}; this software reads version {VERSION}")]
    Version(u32),
    /// Too many candidates.
    #[error("the survey has {0} candidates; at most {MAX_CANDIDATES} are read")]
    TooMany(usize),
    /// A node id that is none.
    #[error("'{0}' is no node id")]
    NodeId(String),
    /// Two candidates are the same node.
    #[error("the node {0} is in the survey twice")]
    Twice(NodeId),
}

/// See [`Need`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of Need")]
pub struct RecordedNeed {
    pub service: ServiceId,
    #[serde(default)]
    pub memory_bytes: u64,
    #[serde(default)]
    pub cpu_millis: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_system: Option<String>,
    #[serde(default)]
    pub private: bool,
    pub requests: u32,
    pub up_bytes: u64,
    pub down_bytes: u64,
    pub cpu_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_us: Option<u64>,
}

/// See [`Current`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of Current")]
pub struct RecordedCurrent {
    pub node: String,
    pub since_us: u64,
    /// Whether it serves no more and is only preferred.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub habit: bool,
}

/// See [`Candidate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of Candidate")]
pub struct RecordedCandidate {
    pub node: String,
    pub name: String,
    pub cpu_used_millis: u32,
    pub cpu_total_millis: u32,
    pub memory_free_bytes: u64,
    pub memory_total_bytes: u64,
    pub instances: u32,
    pub queue_length: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_age_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<RecordedAccelerator>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_speed_permille: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_systems: Option<BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes_per_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_dbm: Option<i16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<RecordedContact>,
    pub offer: RecordedOffer,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<RecordedFetch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<RecordedPower>,
    #[serde(default)]
    pub draining: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permitted: Option<bool>,
}

/// See [`Accelerator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the variants are those of Accelerator")]
pub enum RecordedAccelerator {
    Kvm,
    Tcg,
}

/// See [`Offer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the variants are those of Offer")]
pub enum RecordedOffer {
    Nothing,
    Base,
    Cached,
    Running,
}

/// See [`Contact`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the variants are those of Contact")]
pub enum RecordedContact {
    Predicted { lasts_us: u64 },
    Forecast { ends_us: [u64; ENDS] },
    History { median_us: u64, lasted_us: u64 },
}

/// See [`Fetch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of Fetch")]
pub struct RecordedFetch {
    pub bytes: u64,
    pub from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes_per_s: Option<u64>,
}

/// See [`Power`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the variants are those of Power")]
pub enum RecordedPower {
    External,
    Battery { charge_permille: u16 },
}

impl Survey {
    /// Puts a survey on paper.
    pub fn of(need: &Need, candidates: &[Candidate], current: Option<Current>) -> Self {
        let current = current.map(|current| RecordedCurrent {
            node: current.node.to_string(),
            since_us: us(current.since),
            habit: current.tie == Tie::Habit,
        });
        Self {
            version: VERSION,
            need: RecordedNeed::of(need),
            current,
            candidates: candidates.iter().map(RecordedCandidate::of).collect(),
        }
    }

    /// What [`super::Policy::choose`] takes.
    pub fn unpack(&self) -> Result<(Need, Vec<Candidate>, Option<Current>), BadSurvey> {
        if self.version != VERSION {
            return Err(BadSurvey::Version(self.version));
        }
        if self.candidates.len() > MAX_CANDIDATES {
            return Err(BadSurvey::TooMany(self.candidates.len()));
        }
        let candidates =
            self.candidates.iter().map(RecordedCandidate::unpack).collect::<Result<Vec<_>, _>>()?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = candidates.iter().find(|one| !seen.insert(one.node)) {
            return Err(BadSurvey::Twice(twice.node));
        }
        let current = match &self.current {
            None => None,
            Some(one) => Some(Current {
                node: node(&one.node)?,
                since: Duration::from_micros(one.since_us),
                tie: if one.habit { Tie::Habit } else { Tie::Session },
            }),
        };
        Ok((self.need.unpack(), candidates, current))
    }
}

impl RecordedNeed {
    fn of(need: &Need) -> Self {
        let Task { requests, up_bytes, down_bytes, cpu } = need.task;
        Self {
            service: need.service.clone(),
            memory_bytes: need.memory_bytes,
            cpu_millis: need.cpu_millis,
            architecture: need.architecture.clone(),
            guest_system: need.guest_system.clone(),
            private: need.instance == Instance::Own,
            requests,
            up_bytes,
            down_bytes,
            cpu_us: us(cpu),
            overlay_bytes: need.overlay_bytes,
            deadline_us: need.deadline.map(us),
            fallback_us: need.fallback.map(us),
        }
    }

    fn unpack(&self) -> Need {
        let cpu = Duration::from_micros(self.cpu_us);
        let Self { requests, up_bytes, down_bytes, .. } = *self;
        Need {
            service: self.service.clone(),
            memory_bytes: self.memory_bytes,
            cpu_millis: self.cpu_millis,
            architecture: self.architecture.clone(),
            guest_system: self.guest_system.clone(),
            instance: if self.private { Instance::Own } else { Instance::Shared },
            task: Task { requests, up_bytes, down_bytes, cpu },
            overlay_bytes: self.overlay_bytes,
            deadline: self.deadline_us.map(Duration::from_micros),
            fallback: self.fallback_us.map(Duration::from_micros),
        }
    }
}

impl RecordedCandidate {
    fn of(one: &Candidate) -> Self {
        let contact = match one.contact {
            Contact::Unknown => None,
            Contact::Predicted { lasts } => Some(RecordedContact::Predicted { lasts_us: us(lasts) }),
            Contact::Forecast { ends } => Some(RecordedContact::Forecast { ends_us: ends.map(us) }),
            Contact::History { median, lasted } => {
                Some(RecordedContact::History { median_us: us(median), lasted_us: us(lasted) })
            }
        };
        Self {
            node: one.node.to_string(),
            name: one.name.clone(),
            cpu_used_millis: one.load.cpu_used_millis,
            cpu_total_millis: one.load.cpu_total_millis,
            memory_free_bytes: one.load.memory_free_bytes,
            memory_total_bytes: one.load.memory_total_bytes,
            instances: one.load.instances,
            queue_length: one.load.queue_length,
            load_age_us: one.load_age.map(us),
            accelerator: one.accelerator.map(|accelerator| match accelerator {
                Accelerator::Kvm => RecordedAccelerator::Kvm,
                Accelerator::Tcg => RecordedAccelerator::Tcg,
            }),
            guest_speed_permille: one.guest_speed_permille,
            architecture: one.architecture.clone(),
            guest_systems: one.guest_systems.clone(),
            rtt_us: one.link.rtt.map(us),
            rate_bytes_per_s: one.link.rate_bytes_per_s,
            signal_dbm: one.link.signal_dbm,
            hops: one.link.hops,
            contact,
            offer: match one.offer {
                Offer::Nothing => RecordedOffer::Nothing,
                Offer::Base => RecordedOffer::Base,
                Offer::Cached => RecordedOffer::Cached,
                Offer::Running => RecordedOffer::Running,
            },
            ready_us: one.ready_time.map(us),
            fetch: one.fetch.clone().map(|Fetch { bytes, from, rate_bytes_per_s }| RecordedFetch {
                bytes,
                from,
                rate_bytes_per_s,
            }),
            power: one.power.map(|power| match power {
                Power::External => RecordedPower::External,
                Power::Battery { charge_permille } => RecordedPower::Battery { charge_permille },
            }),
            draining: one.draining,
            permitted: one.permitted,
        }
    }

    fn unpack(&self) -> Result<Candidate, BadSurvey> {
        let duration = Duration::from_micros;
        let load = Load {
            cpu_used_millis: self.cpu_used_millis,
            cpu_total_millis: self.cpu_total_millis,
            memory_free_bytes: self.memory_free_bytes,
            memory_total_bytes: self.memory_total_bytes,
            instances: self.instances,
            queue_length: self.queue_length,
        };
        let link = Link {
            rtt: self.rtt_us.map(duration),
            rate_bytes_per_s: self.rate_bytes_per_s,
            signal_dbm: self.signal_dbm,
            hops: self.hops,
        };
        let offer = match self.offer {
            RecordedOffer::Nothing => Offer::Nothing,
            RecordedOffer::Base => Offer::Base,
            RecordedOffer::Cached => Offer::Cached,
            RecordedOffer::Running => Offer::Running,
        };
        Ok(Candidate {
            load_age: self.load_age_us.map(duration),
            accelerator: self.accelerator.map(|accelerator| match accelerator {
                RecordedAccelerator::Kvm => Accelerator::Kvm,
                RecordedAccelerator::Tcg => Accelerator::Tcg,
            }),
            guest_speed_permille: self.guest_speed_permille,
            architecture: self.architecture.clone(),
            guest_systems: self.guest_systems.clone(),
            contact: match self.contact {
                None => Contact::Unknown,
                Some(RecordedContact::Predicted { lasts_us }) => {
                    Contact::Predicted { lasts: duration(lasts_us) }
                }
                Some(RecordedContact::Forecast { ends_us }) => {
                    Contact::Forecast { ends: ends_us.map(duration) }
                }
                Some(RecordedContact::History { median_us, lasted_us }) => {
                    Contact::History { median: duration(median_us), lasted: duration(lasted_us) }
                }
            },
            ready_time: self.ready_us.map(duration),
            fetch: self.fetch.clone().map(|RecordedFetch { bytes, from, rate_bytes_per_s }| Fetch {
                bytes,
                from,
                rate_bytes_per_s,
            }),
            power: self.power.map(|power| match power {
                RecordedPower::External => Power::External,
                RecordedPower::Battery { charge_permille } => Power::Battery { charge_permille },
            }),
            draining: self.draining,
            permitted: self.permitted,
            ..Candidate::unknown(node(&self.node)?, &self.name, load, link, offer)
        })
    }
}

fn node(text: &str) -> Result<NodeId, BadSurvey> {
    text.parse().map_err(|_| BadSurvey::NodeId(text.chars().take(100).collect()))
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
