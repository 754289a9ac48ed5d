//! The built-in measures: each maps a figure of a candidate to a worth between 0 and 1.
//!
//! Most have a *half point*, the figure that is worth 0.5: more is always better, but ever less so. What is not known is
//! worth nothing, so that silence gains nothing.

use std::time::Duration;

use super::completion::guest_speed;
use super::{Candidate, Completion, Need, Power};

/// A built-in measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// CPU that nobody uses.
    CpuFree,
    /// Speed of guest code on one core.
    CpuPerformance,
    /// Memory that instances may claim.
    MemoryFree,
    /// Round-trip time.
    Rtt,
    /// Strength at which the cloudlet is received.
    Signal,
    /// Measured rate of the link.
    Rate,
    /// How long until the service is ready, queue and payload included.
    ReadyTime,
    /// Requests for instances that wait there already.
    Queue,
    /// What the task takes from the client's battery.
    Energy,
    /// What is left of the cloudlet's battery.
    Power,
    /// How long the contact is expected to last.
    Contact,
    /// When the whole task is expected to be done, failure by a lost contact counted in.
    Completion,
}

/// What a measure is, for people who choose among them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct About {
    /// Unit of the figure.
    pub unit: &'static str,
    /// The figure that is worth 0.5, in that unit; `None` if the worth is no such curve.
    pub half_point: Option<f64>,
    /// Where the constants come from.
    pub source: &'static str,
}

/// Draw of a handheld that waits, watts. Table I of "Tactical Cloudlets": 10.3 J in 8.2 s (face), 14.9 J in 12.2 s
/// (speech), 109.3 J in 94.1 s.
const WAITING_W: f64 = 1.2;
/// Energy of the handheld's radio for a byte, joules. The same table: VM synthesis of object recognition (332 MB, 175.7 s,
/// 333.3 J) and of speech (147 MB, 99.0 s, 172.5 J), without the waiting, give 0.37 J/MB both.
const RADIO_J_PER_BYTE: f64 = 0.37e-6;
/// Half the worth of [`Measure::Completion`] on its logarithmic scale is not a constant; this is where the scale begins.
const COMPLETION_KNEE_S: f64 = 0.1;
/// And this is where it ends.
const COMPLETION_WORST_S: f64 = 3600.0;
/// Received strength that is worth nothing and everything, dBm. IEEE 802.11 asks for sensitivity of -82 dBm at the lowest
/// OFDM rate and -65 dBm at 54 Mbit/s; 15 dB above that nothing more is to be had.
const SIGNAL_DBM: (f64, f64) = (-82.0, -50.0);

impl Measure {
    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::CpuFree,
        Self::CpuPerformance,
        Self::MemoryFree,
        Self::Rtt,
        Self::Signal,
        Self::Rate,
        Self::ReadyTime,
        Self::Queue,
        Self::Energy,
        Self::Power,
        Self::Contact,
        Self::Completion,
    ];

    /// Its name in explanations and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuFree => "cpu_free",
            Self::CpuPerformance => "cpu_performance",
            Self::MemoryFree => "memory_free",
            Self::Rtt => "rtt",
            Self::Signal => "signal",
            Self::Rate => "rate",
            Self::ReadyTime => "ready_time",
            Self::Queue => "queue",
            Self::Energy => "energy",
            Self::Power => "power",
            Self::Contact => "contact",
            Self::Completion => "completion",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }

    /// Its unit, half point and source.
    pub fn about(self) -> About {
        let about = |unit, half_point, source| About { unit, half_point: Some(half_point), source };
        let curve = |unit, source| About { unit, half_point: None, source };
        match self {
            Self::CpuFree => about(
                "cores",
                1.0,
                "guess: one free core is the difference between an idle and a busy small cloudlet",
            ),
            Self::CpuPerformance => {
                about("‰ of a core under KVM", 1000.0, "KVM is the unit; TCG was measured at 83")
            }
            Self::MemoryFree => about("MiB", 1024.0, "guess: four idle instances of a 256 MiB Service VM"),
            Self::Rtt => {
                about("ms", 20.0, "guess: a Wi-Fi hop takes 2 to 5 ms, a loaded or second hop about 20")
            }
            Self::Signal => {
                curve("dBm", "IEEE 802.11 OFDM receiver sensitivity: -82 is worth 0, -50 is worth 1")
            }
            Self::Rate => about("kB/s", 750.0, "6 Mbit/s, the lowest rate of 802.11a/g"),
            Self::ReadyTime => about("ms", 1000.0, "guess: about where people begin to wait"),
            Self::Queue => about("requests", 1.0, "one ahead doubles the time to be ready"),
            Self::Energy => about("J", 10.0, "Table I of Tactical Cloudlets: a cached VM cost 10 to 15 J"),
            Self::Power => curve("% of a charge", "external power is worth 1, a battery its charge"),
            Self::Contact => {
                about("s", 28.0, "median of 688 contacts of vehicles at 300 m recorded with SUMO")
            }
            Self::Completion => {
                curve("s", "logarithmic, 0 s is worth 1 and an hour 0: the same factor costs the same")
            }
        }
    }

    /// Its worth for `candidate`, 0 to 1, and the figure behind it with its unit.
    pub fn judge(self, need: &Need, candidate: &Candidate, completion: Option<&Completion>) -> (f64, String) {
        let half = self.about().half_point.unwrap_or(1.0);
        let (load, link) = (&candidate.load, &candidate.link);
        match self {
            Self::CpuFree => {
                let cores = f64::from(load.cpu_free_millis()) / 1000.0;
                (more_is_better(cores, half), format!("{cores:.1} cores free"))
            }
            Self::CpuPerformance => {
                let (speed, source) = guest_speed(candidate);
                let value = if source == "assumed" { 0.0 } else { more_is_better(speed.into(), half) };
                (value, format!("{speed} ‰ ({source})"))
            }
            Self::MemoryFree => {
                let mib = load.memory_free_bytes as f64 / f64::from(1 << 20);
                (more_is_better(mib, half), format!("{mib:.0} MiB free"))
            }
            Self::Rtt => told(link.rtt.map(ms), |rtt| (less_is_better(rtt, half), format!("{rtt:.1} ms"))),
            Self::Signal => told(link.signal_dbm, |dbm| (signal(dbm.into()), format!("{dbm} dBm"))),
            Self::Rate => told(link.rate_bytes_per_s, |rate| {
                let rate = rate as f64 / 1000.0;
                (more_is_better(rate, half), format!("{rate:.0} kB/s"))
            }),
            Self::ReadyTime => reached(completion, |completion| {
                let ready = completion.until_ready();
                (less_is_better(ms(ready), half), format!("{:.0} ms", ms(ready)))
            }),
            Self::Queue => {
                let ahead = load.queue_length;
                (less_is_better(ahead.into(), half), format!("{ahead} ahead"))
            }
            Self::Energy => reached(completion, |completion| {
                let joules = energy_j(need, completion);
                (less_is_better(joules, half), format!("{joules:.2} J of the client"))
            }),
            Self::Power => told(candidate.power, |power| match power {
                Power::External => (1.0, "external power".to_owned()),
                Power::Battery { charge_permille } => {
                    let charge = f64::from(charge_permille.min(1000)) / 1000.0;
                    (charge, format!("battery at {:.0} %", charge * 100.0))
                }
            }),
            Self::Contact => told(candidate.contact.expected(), |lasts| {
                (more_is_better(lasts.as_secs_f64(), half), format!("{:.0} s expected", lasts.as_secs_f64()))
            }),
            Self::Completion => reached(completion, |completion| {
                (sooner_is_better(completion.expected), completion.summary())
            }),
        }
    }
}

impl Completion {
    /// Everything until the service is ready.
    pub fn until_ready(&self) -> Duration {
        let before = ["moving", "queue", "payload", "fetch", "ready"];
        let parts = self.parts.iter().filter(|part| before.contains(&part.name));
        parts.fold(Duration::ZERO, |sum, part| sum.saturating_add(part.time))
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let lasts = match self.contact {
            None => "contact not known".to_owned(),
            Some(contact) => format!("contact {:.0} s", contact.as_secs_f64()),
        };
        let (expected, total) = (self.expected.as_secs_f64(), self.total.as_secs_f64());
        format!(
            "{expected:.2} s expected ({total:.2} s if the contact lasts, {:.0} %, {lasts})",
            self.chance * 100.0
        )
    }
}

/// What the task takes from the client's battery, joules.
pub(super) fn energy_j(need: &Need, completion: &Completion) -> f64 {
    let task = &need.task;
    let mut bytes = (task.up_bytes as f64 + task.down_bytes as f64) * f64::from(task.requests);
    if completion.parts.iter().any(|part| part.name == "payload") {
        bytes += need.overlay_bytes.unwrap_or(0) as f64;
    }
    completion.expected.as_secs_f64() * WAITING_W + bytes * RADIO_J_PER_BYTE
}

fn told<T>(figure: Option<T>, judge: impl FnOnce(T) -> (f64, String)) -> (f64, String) {
    figure.map_or_else(|| (0.0, "not known".to_owned()), judge)
}

fn reached(
    completion: Option<&Completion>,
    judge: impl FnOnce(&Completion) -> (f64, String),
) -> (f64, String) {
    completion.map_or_else(|| (0.0, "not there".to_owned()), judge)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn more_is_better(figure: f64, half: f64) -> f64 {
    figure / (figure + half)
}

fn less_is_better(figure: f64, half: f64) -> f64 {
    half / (figure + half)
}

fn signal(dbm: f64) -> f64 {
    let (nothing, everything) = SIGNAL_DBM;
    ((dbm - nothing) / (everything - nothing)).clamp(0.0, 1.0)
}

/// Logarithmic: a completion that is later by the same factor costs the same, a second or a minute long.
fn sooner_is_better(time: Duration) -> f64 {
    let on_scale = |seconds: f64| (1.0 + seconds / COMPLETION_KNEE_S).ln();
    (1.0 - on_scale(time.as_secs_f64()) / on_scale(COMPLETION_WORST_S)).clamp(0.0, 1.0)
}
