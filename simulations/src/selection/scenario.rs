//! What a TOML file says of a recording: who moves how, what the cloudlets are, what is hidden from the handheld.

use std::time::Duration;

use serde::Deserialize;

/// Longest scenario file, bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Longest file of tracks, bytes.
pub const MAX_TRACK_BYTES: usize = 4 * 1024 * 1024;
/// Most decisions of a recording.
pub const MAX_DECISIONS: usize = 10_000;

/// A scenario of choices.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One line for people.
    pub name: String,
    /// Seed of the recording in the repository.
    pub seed: u64,
    /// Length, seconds.
    pub duration_s: f64,
    /// Choices within the last seconds are left out: their outcome would not be known.
    pub tail_s: f64,
    /// Recorded movement, relative to the scenario's file. Either this or `walk`.
    pub tracks: Option<String>,
    /// Random waypoints instead.
    pub walk: Option<Walk>,
    /// Numbers of the tracks' nodes that are cloudlets.
    #[serde(default)]
    pub cloudlets: Vec<u32>,
    /// Numbers of the tracks' nodes that carry handhelds.
    #[serde(default)]
    pub handhelds: Vec<u32>,
    /// Mean time between two tasks of a handheld, seconds.
    pub mean_between_tasks_s: f64,
    /// Most choices that are recorded.
    pub decisions: usize,
    /// The radio.
    pub radio: Radio,
    /// Kinds of cloudlets; node after node gets the next kind.
    pub kinds: Vec<Kind>,
    /// Kinds of tasks, each as likely.
    pub tasks: Vec<TaskKind>,
    /// What the handheld does not see.
    pub hidden: Hidden,
}

/// Random waypoints on a rectangle; cloudlets are numbered first.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Walk {
    pub width_m: f64,
    pub height_m: f64,
    pub cloudlets: u32,
    pub cloudlet_m_per_s: [f64; 2],
    pub handhelds: u32,
    pub handheld_m_per_s: [f64; 2],
    pub longest_pause_s: f64,
}

/// The radio between a handheld and a cloudlet.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Radio {
    /// Nominal range, which is what the handheld knows, metres.
    pub range_m: f64,
    /// Rate close by, bytes per second.
    pub near_bytes_per_s: f64,
    /// Rate at the end of the range; it falls with the square of the distance.
    pub far_bytes_per_s: f64,
    /// Round-trip time, milliseconds.
    pub rtt_ms: f64,
}

/// A kind of cloudlet.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// Cores.
    pub cores: u32,
    /// Speed of guest code, thousandths of a core under KVM.
    pub speed_permille: u32,
    /// Memory for instances, MiB.
    pub memory_mib: u64,
    /// What it holds of every service: `running`, `cached`, `base`.
    pub holds: Holds,
    /// Mean number of other clients' instances.
    pub mean_others: f64,
    /// Mean time that one of them is used, seconds.
    pub mean_use_s: f64,
}

/// What a cloudlet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Holds {
    Running,
    Cached,
    Base,
}

/// A kind of task.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see mesh::selection::Task")]
pub struct TaskKind {
    pub service: String,
    pub requests: u32,
    pub up_bytes: u64,
    pub down_bytes: u64,
    pub cpu_s: f64,
    pub memory_mib: u64,
    /// Overlay that the handheld carries, bytes.
    pub overlay_bytes: u64,
    /// Time to build the service from base and overlay at full speed, seconds.
    pub base_ready_s: f64,
    /// Time to start it from the cache at full speed, seconds.
    pub cached_ready_s: f64,
    /// Time on the handheld alone, seconds: what a failure costs.
    pub fallback_s: f64,
}

/// What the handheld does not see.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hidden {
    /// A link's true rate changes every so often, seconds …
    pub fading_s: f64,
    /// … to a factor from 1 minus to 1 plus this, beside what distance does.
    pub fading: f64,
    /// A measured rate or round-trip time is off by up to this share.
    pub measurement: f64,
    /// A pair's true range differs from the nominal one by up to this share.
    pub range: f64,
    /// A position is off by up to this in each direction, metres.
    pub position_m: f64,
    /// A velocity is off by up to this in each direction, metres per second.
    pub velocity_m_per_s: f64,
    /// The true time to be ready differs from the advertised one by up to this share.
    pub ready: f64,
    /// A load is up to this old, seconds.
    pub advert_interval_s: f64,
    /// Noticing that a contact has ended takes this long, seconds.
    pub notice_s: f64,
}

/// A scenario that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is too long.
    #[error("it has {0} bytes; at most {1} are read")]
    TooLong(usize, usize),
    /// It is no scenario.
    #[error("it is no scenario of choices")]
    Toml(#[from] toml::de::Error),
    /// A value is out of range.
    #[error("{0}")]
    Value(&'static str),
    /// A line of the tracks.
    #[error("line {line} of the tracks: {problem}")]
    Track {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The tracks lack a node.
    #[error("the tracks have no node {0}")]
    NoNode(u32),
    /// A service's name is none.
    #[error("'{0}' is no name of a service")]
    Service(String),
}

impl Scenario {
    /// Reads and checks a scenario.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::TooLong(text.len(), MAX_BYTES));
        }
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), Error> {
        let in_range = |number: f64, low: f64, high: f64| number >= low && number <= high;
        let must = |good: bool, what| if good { Ok(()) } else { Err(Error::Value(what)) };
        let Hidden { fading_s, fading, measurement, range, ready, advert_interval_s, .. } = self.hidden;
        must(in_range(self.duration_s, 1.0, 86_400.0), "duration_s must be from 1 to 86400")?;
        must(in_range(self.tail_s, 0.0, self.duration_s), "tail_s must be from 0 to duration_s")?;
        must(self.mean_between_tasks_s > 0.0, "mean_between_tasks_s must be above 0")?;
        must(self.decisions <= MAX_DECISIONS, "decisions must be at most 10000")?;
        must(self.radio.range_m > 0.0 && self.radio.far_bytes_per_s > 0.0, "the radio must reach and carry")?;
        must(!self.kinds.is_empty() && !self.tasks.is_empty(), "kinds and tasks must not be empty")?;
        must(
            self.kinds.iter().all(|kind| kind.cores > 0 && kind.speed_permille > 0),
            "a cloudlet must compute",
        )?;
        must(
            in_range(fading_s, 0.1, 1e6) && in_range(advert_interval_s, 0.1, 1e6),
            "times must be above 0.1",
        )?;
        let shares = [fading, measurement, range, ready];
        must(shares.iter().all(|share| in_range(*share, 0.0, 0.95)), "hidden shares must be from 0 to 0.95")?;
        must(self.tracks.is_some() != self.walk.is_some(), "give either tracks or walk")
    }

    /// Its length.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration_s)
    }
}
