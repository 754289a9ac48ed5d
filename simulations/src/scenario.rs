//! Scenarios: what a TOML file says of a simulated mission. `scenarios/` holds examples.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use vm_images::ServiceId;

use crate::provisioning::{Application, CachedVm, Mechanism};

/// Longest scenario file that is read, bytes.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Most nodes of a scenario. Contacts are computed for each pair of handheld and cloudlet.
pub const MAX_NODES: usize = 10_000;

/// A simulated mission.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One line for people; the report repeats it.
    pub name: String,
    /// Seed of everything random, where the command line names none.
    pub seed: u64,
    /// Simulated time, seconds, above 0 and at most 30 days.
    pub duration_s: f64,
    /// Where nodes go and how far they reach. Either this or `trace`.
    pub movement: Option<Movement>,
    /// Recorded contacts. Either this or `movement`.
    pub trace: Option<Trace>,
    /// Links while there is contact.
    pub link: Link,
    /// Time between two adverts of a cloudlet, seconds; what handhelds choose by is up to this old.
    pub advert_interval_s: f64,
    /// Cloudlets, in groups of equal ones.
    pub cloudlets: Vec<Cloudlets>,
    /// Handhelds.
    pub handhelds: Handhelds,
    /// Services that handhelds ask for.
    pub services: Vec<Service>,
    /// What handhelds do.
    pub workload: Workload,
    /// Data that handhelds collect for the cloudlets. Default: none.
    pub mission_data: Option<MissionData>,
}

/// Where nodes go and how far they reach: random waypoints on a rectangle.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Movement {
    /// East-west extent, metres, above 0.
    pub width_m: f64,
    /// North-south extent, metres, above 0.
    pub height_m: f64,
    /// Distance up to which handheld and cloudlet have contact, metres, above 0.
    pub radio_range_m: f64,
}

/// Recorded contacts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// File in the form of The ONE's connectivity reports (`<seconds> CONN <node> <node> up|down`), relative to the
    /// scenario's file.
    pub file: String,
    /// Numbers of the trace's nodes that are cloudlets, as many as the groups of cloudlets have together. All others
    /// are handhelds.
    pub cloudlet_nodes: Vec<u32>,
}

/// Links while there is contact. Every link has its rate for itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// What a link carries, bytes per second, above 0.
    pub rate_bytes_per_s: u64,
    /// Time that a message takes one way, milliseconds.
    pub latency_ms: u64,
}

/// How fast nodes move. Not used with a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// Slowest, metres per second. Default: 0; 0 for both means that the node stays where it is.
    #[serde(default)]
    pub slowest_m_per_s: f64,
    /// Fastest, metres per second. Default: 0.
    #[serde(default)]
    pub fastest_m_per_s: f64,
    /// Longest pause at a waypoint, seconds. Default: 0.
    #[serde(default)]
    pub longest_pause_s: f64,
}

/// A group of equal cloudlets.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cloudlets {
    /// How many, at least 1.
    pub count: u32,
    /// Memory for instances of each, MiB, above 0.
    pub memory_mib: u64,
    /// CPU of each, cores, at least 1.
    pub cores: u32,
    /// What each holds of which service; a service that is not named cannot be had there.
    #[serde(default)]
    pub holds: BTreeMap<ServiceId, Mechanism>,
    /// How fast they move. Default: they stay.
    #[serde(default)]
    pub speed: Speed,
}

/// The handhelds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handhelds {
    /// How many, at least 1. With a trace: left out, the trace says it.
    pub count: Option<u32>,
    /// How fast they move. Default: they stay.
    #[serde(default)]
    pub speed: Speed,
}

/// A service that handhelds ask for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// The application of the paper whose figures it has.
    pub figures: Application,
    /// Memory that one instance needs on the cloudlet, MiB, above 0.
    pub needs_memory_mib: u64,
    /// CPU that one instance needs on the cloudlet, thousandths of a core.
    pub needs_cpu_millis: u32,
}

/// What handhelds do.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Mean time between two requests of one handheld, seconds, above 0; exponentially distributed.
    pub mean_between_requests_s: f64,
    /// Mean time that an instance is used once it is ready, seconds, above 0; exponentially distributed.
    pub mean_use_s: f64,
    /// Where the time of a Cached VM comes from: `measured` (default) or `paper`.
    #[serde(default)]
    pub cached_vm: CachedVm,
}

/// Data that handhelds collect and hand over to the cloudlets that they meet.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissionData {
    /// Mean time between two objects of one handheld, seconds, above 0; exponentially distributed.
    pub mean_between_objects_s: f64,
    /// Length of the smallest object, bytes, above 0.
    pub smallest_bytes: u64,
    /// Length of the largest object, bytes; lengths are distributed evenly.
    pub largest_bytes: u64,
    /// Time after which an object is of no use, seconds, above 0.
    pub useful_s: f64,
    /// How long handhelds expect a contact to last when they plan, seconds, above 0.
    pub expected_contact_s: f64,
}

/// A scenario that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not TOML, or not a scenario.
    #[error("the scenario cannot be read")]
    Toml(#[source] toml::de::Error),
    /// A value out of its range.
    #[error("{field} must be {rule}")]
    Range {
        /// Name of the field.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// Longer than [`MAX_BYTES`].
    #[error("the scenario has {0} bytes; at most {MAX_BYTES} are read")]
    TooLong(usize),
}

impl Scenario {
    /// Reads and checks a scenario.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::TooLong(text.len()));
        }
        let scenario: Self = toml::from_str(text).map_err(Error::Toml)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Simulated time.
    pub fn duration(&self) -> Duration {
        seconds(self.duration_s)
    }

    /// Time between two adverts of a cloudlet.
    pub fn advert_interval(&self) -> Duration {
        seconds(self.advert_interval_s)
    }

    /// How many cloudlets the groups have together.
    pub fn cloudlet_count(&self) -> usize {
        self.cloudlets.iter().map(|group| group.count as usize).sum()
    }

    fn check(&self) -> Result<(), Error> {
        let rules = [self.check_world(), self.check_services(), self.check_nodes(), self.check_workload()];
        rules.into_iter().collect()
    }

    fn check_world(&self) -> Result<(), Error> {
        must(
            self.duration_s > 0.0 && self.duration_s <= 30.0 * 86_400.0,
            "duration_s",
            "above 0 and at most 2592000",
        )?;
        must(time(self.advert_interval_s), "advert_interval_s", TIME)?;
        must(
            self.movement.is_some() != self.trace.is_some(),
            "[movement] or [trace]",
            "there, and not both",
        )?;
        if let Some(movement) = &self.movement {
            must(size(movement.width_m), "movement.width_m", SIZE)?;
            must(size(movement.height_m), "movement.height_m", SIZE)?;
            must(size(movement.radio_range_m), "movement.radio_range_m", SIZE)?;
        }
        must(self.link.rate_bytes_per_s > 0, "link.rate_bytes_per_s", "above 0")?;
        must(self.link.latency_ms <= 60_000, "link.latency_ms", "at most 60000")
    }

    fn check_nodes(&self) -> Result<(), Error> {
        must(!self.cloudlets.is_empty(), "[[cloudlets]]", "there at least once")?;
        for group in &self.cloudlets {
            must((1..=1_000_000).contains(&group.count), "cloudlets.count", "1 to 1000000")?;
            must((1..=MAX_MIB).contains(&group.memory_mib), "cloudlets.memory_mib", MIB)?;
            must((1..=4096).contains(&group.cores), "cloudlets.cores", "1 to 4096")?;
            check_speed(&group.speed)?;
            let known = |id: &ServiceId| self.services.iter().any(|service| service.id == *id);
            must(group.holds.keys().all(known), "cloudlets.holds", "about services that [[services]] lists")?;
        }
        check_speed(&self.handhelds.speed)?;
        let handhelds = match (&self.trace, self.handhelds.count) {
            (None, Some(count)) if count > 0 => count as usize,
            (None, _) => return must(false, "handhelds.count", "1 or more"),
            (Some(trace), None) => {
                let distinct: BTreeSet<u32> = trace.cloudlet_nodes.iter().copied().collect();
                let same =
                    distinct.len() == self.cloudlet_count() && distinct.len() == trace.cloudlet_nodes.len();
                must(
                    same,
                    "trace.cloudlet_nodes",
                    "as many different nodes as [[cloudlets]] count together",
                )?;
                0
            }
            (Some(_), Some(_)) => {
                return must(false, "handhelds.count", "left out with a trace, which says it");
            }
        };
        must(
            handhelds.saturating_add(self.cloudlet_count()) <= MAX_NODES,
            "all counts together",
            "at most 10000",
        )
    }

    fn check_services(&self) -> Result<(), Error> {
        must(!self.services.is_empty(), "[[services]]", "there at least once")?;
        let ids: BTreeSet<&ServiceId> = self.services.iter().map(|service| &service.id).collect();
        must(ids.len() == self.services.len(), "services.id", "different for each service")?;
        let fits = |service: &Service| (1..=MAX_MIB).contains(&service.needs_memory_mib);
        must(self.services.iter().all(fits), "services.needs_memory_mib", MIB)
    }

    fn check_workload(&self) -> Result<(), Error> {
        must(time(self.workload.mean_between_requests_s), "workload.mean_between_requests_s", TIME)?;
        must(time(self.workload.mean_use_s), "workload.mean_use_s", TIME)?;
        let Some(data) = &self.mission_data else { return Ok(()) };
        must(time(data.mean_between_objects_s), "mission_data.mean_between_objects_s", TIME)?;
        must(time(data.useful_s), "mission_data.useful_s", TIME)?;
        must(time(data.expected_contact_s), "mission_data.expected_contact_s", TIME)?;
        let sizes = 1..=1 << 40;
        must(sizes.contains(&data.smallest_bytes), "mission_data.smallest_bytes", "1 to 2^40")?;
        let largest = data.smallest_bytes..=1 << 40;
        must(largest.contains(&data.largest_bytes), "mission_data.largest_bytes", "smallest_bytes to 2^40")
    }
}

const MAX_MIB: u64 = 1 << 30;
const MIB: &str = "1 to 2^30";
const SIZE: &str = "above 0 and at most 10000000 (metres)";
const TIME: &str = "at least 0.001 and at most 2592000 (seconds)";

fn size(metres: f64) -> bool {
    metres > 0.0 && metres <= 1e7
}

fn time(seconds: f64) -> bool {
    (0.001..=30.0 * 86_400.0).contains(&seconds)
}

fn check_speed(speed: &Speed) -> Result<(), Error> {
    let slowest = (0.0..=1000.0).contains(&speed.slowest_m_per_s);
    must(slowest, "speed.slowest_m_per_s", "0 to 1000")?;
    // Random waypoints with a slowest speed of almost zero never settle: some legs last for ever.
    let moves = speed.fastest_m_per_s == 0.0 || speed.slowest_m_per_s >= 0.1;
    must(moves, "speed.slowest_m_per_s", "at least 0.1 for nodes that move")?;
    let fastest = (speed.slowest_m_per_s..=1000.0).contains(&speed.fastest_m_per_s);
    must(fastest, "speed.fastest_m_per_s", "slowest_m_per_s to 1000")?;
    must((0.0..=86_400.0).contains(&speed.longest_pause_s), "speed.longest_pause_s", "0 to 86400")
}

fn must(holds: bool, field: &'static str, rule: &'static str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Range { field, rule }) }
}

/// A checked number of seconds as a duration.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../scenarios/patrol.toml");

    #[test]
    fn every_value_out_of_range_is_named() {
        assert!(Scenario::from_toml(GOOD).is_ok());
        for (from, to, named) in [
            ("duration_s = 7200", "duration_s = 0", "duration_s"),
            ("duration_s = 7200", "duration_s = inf", "duration_s"),
            ("advert_interval_s = 10", "advert_interval_s = 0", "advert_interval_s"),
            ("[movement]", "[trace]\nfile = 'x'\ncloudlet_nodes = []\n[movement]", "[movement] or [trace]"),
            ("radio_range_m = 250", "radio_range_m = nan", "movement.radio_range_m"),
            ("rate_bytes_per_s = 750000", "rate_bytes_per_s = 0", "link.rate_bytes_per_s"),
            ("slowest_m_per_s = 0.5", "slowest_m_per_s = 0.01", "speed.slowest_m_per_s"),
            ("slowest_m_per_s = 0.5", "slowest_m_per_s = 50", "speed.fastest_m_per_s"),
            ("count = 24", "count = 0", "handhelds.count"),
            ("count = 24", "count = 10000", "all counts together"),
            ("memory_mib = 4096", "memory_mib = 0", "cloudlets.memory_mib"),
            ("id = \"face\"", "id = \"speech\"", "services.id"),
            ("id = \"face\"", "id = \"fare\"", "cloudlets.holds"),
            ("mean_use_s = 120", "mean_use_s = 0", "workload.mean_use_s"),
            ("largest_bytes = 2000000", "largest_bytes = 1", "mission_data.largest_bytes"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let error = Scenario::from_toml(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.starts_with(named), "{to}: {error}");
        }
    }

    #[test]
    fn typing_errors_are_named_with_their_line() {
        let error = Scenario::from_toml(&GOOD.replacen("latency_ms", "latency", 1)).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("latency") && cause.contains("line"), "{cause}");
    }
}
