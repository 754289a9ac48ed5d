//! How well a candidate serves a need.

use super::{Candidate, Need};
use vm_images::manifest::Accelerator;

/// Judges candidates. An implementation must be a function of its arguments alone, so that handheld, node and
/// simulator agree.
pub trait Utility {
    /// The candidate's score and the terms that it is made of.
    fn score(&self, need: &Need, candidate: &Candidate) -> Scored;
}

/// A judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// 0 to 1, higher is better.
    pub score: f64,
    /// What it is made of.
    pub terms: Vec<Term>,
}

/// One part of a judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// What was measured.
    pub name: &'static str,
    /// Its worth, 0 to 1, higher is better.
    pub value: f64,
    /// Its share of the score; the shares add up to 1.
    pub share: f64,
    /// The figure behind it, with its unit, for people.
    pub figure: String,
}

/// The built-in measures. Each maps its figure to 0..1 with a *half point*, the figure that is worth 0.5: more is
/// always better, but ever less so. What is not known is worth nothing, so that silence gains nothing.
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
    /// Application-ready time: none for a running instance, else the estimate.
    ReadyTime,
}

/// Guess: one free core is the difference between an idle and a busy small cloudlet.
const CPU_HALF_MILLIS: f64 = 1000.0;
/// Guess: four idle instances of a 256 MiB Service VM.
const MEMORY_HALF_BYTES: f64 = 1024.0 * 1024.0 * 1024.0;
/// Guess: a Wi-Fi hop takes 2 to 5 ms, a loaded or a second hop about 20.
const RTT_HALF_MS: f64 = 20.0;
/// Guess: about where people begin to wait for an answer.
const READY_HALF_MS: f64 = 1000.0;
/// Guest code under KVM is the unit.
const KVM_PERMILLE: u32 = 1000;
/// TCG was measured to be about 12 times slower (see [`Accelerator::Tcg`]).
const TCG_PERMILLE: u32 = 83;
/// A guess for a cached service without an estimate: clones of the sample Service VM are ready in about this time.
const CACHED_READY_MS: f64 = 1000.0;

impl Measure {
    /// Its name in explanations and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuFree => "cpu_free",
            Self::CpuPerformance => "cpu_performance",
            Self::MemoryFree => "memory_free",
            Self::Rtt => "rtt",
            Self::ReadyTime => "ready_time",
        }
    }

    /// The candidate's worth by this measure, 0 to 1, and the figure behind it.
    pub fn judge(self, candidate: &Candidate) -> (f64, String) {
        match self {
            Self::CpuFree => {
                let free = candidate.load.cpu_free_millis();
                (
                    more_is_better(free.into(), CPU_HALF_MILLIS),
                    format!("{:.1} cores free", f64::from(free) / 1000.0),
                )
            }
            Self::CpuPerformance => {
                let (speed, source) = guest_speed(candidate);
                (more_is_better(speed.into(), KVM_PERMILLE.into()), format!("{speed} ‰ ({source})"))
            }
            Self::MemoryFree => {
                let free = candidate.load.memory_free_bytes;
                (more_is_better(free as f64, MEMORY_HALF_BYTES), format!("{} MiB free", free >> 20))
            }
            Self::Rtt => match candidate.link.rtt {
                None => (0.0, "not measured".to_owned()),
                Some(rtt) => {
                    let ms = rtt.as_secs_f64() * 1000.0;
                    (less_is_better(ms, RTT_HALF_MS), format!("{ms:.1} ms"))
                }
            },
            Self::ReadyTime => ready_time(candidate),
        }
    }
}

fn guest_speed(candidate: &Candidate) -> (u32, &'static str) {
    match (candidate.guest_speed_permille, candidate.accelerator) {
        (Some(speed), _) => (speed, "measured"),
        (None, Some(Accelerator::Kvm)) => (KVM_PERMILLE, "kvm"),
        (None, Some(Accelerator::Tcg)) => (TCG_PERMILLE, "tcg"),
        (None, None) => (0, "not known"),
    }
}

fn ready_time(candidate: &Candidate) -> (f64, String) {
    use super::Offer;
    match (candidate.offer, candidate.ready_time) {
        (Offer::Running, _) => (1.0, "running".to_owned()),
        (_, Some(time)) => {
            let ms = time.as_secs_f64() * 1000.0;
            (less_is_better(ms, READY_HALF_MS), format!("{ms:.0} ms expected"))
        }
        (Offer::Cached, None) => (less_is_better(CACHED_READY_MS, READY_HALF_MS), "cached".to_owned()),
        (Offer::Nothing, None) => (0.0, "not there".to_owned()),
    }
}

fn more_is_better(figure: f64, half: f64) -> f64 {
    figure / (figure + half)
}

fn less_is_better(figure: f64, half: f64) -> f64 {
    half / (figure + half)
}

/// A weighted mean of measures.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// Shares that add up to 1.
    shares: Vec<(Measure, f64)>,
}

/// Weights that make no mean.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("weights must be finite, none negative, and at least one above zero; got {0:?}")]
pub struct BadWeights(Vec<f64>);

impl Weighted {
    /// With these weights; only their ratios matter. A measure named twice counts twice.
    pub fn new(weights: &[(Measure, f64)]) -> Result<Self, BadWeights> {
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let sound = weights.iter().all(|(_, weight)| weight.is_finite() && *weight >= 0.0);
        if !sound || !sum.is_finite() || sum <= 0.0 {
            return Err(BadWeights(weights.iter().map(|(_, weight)| *weight).collect()));
        }
        let mut shares: Vec<_> = weights.iter().map(|(measure, weight)| (*measure, weight / sum)).collect();
        shares.sort_by_key(|(measure, _)| *measure);
        Ok(Self { shares })
    }

    /// By one measure alone.
    pub fn only(measure: Measure) -> Self {
        Self { shares: vec![(measure, 1.0)] }
    }
}

impl Default for Weighted {
    /// The shares are guesses, to be replaced by what the simulator finds: how soon the service is ready and how far
    /// away it is count most for a person who waits; then where it will run well.
    fn default() -> Self {
        Self {
            shares: vec![
                (Measure::CpuFree, 0.2),
                (Measure::CpuPerformance, 0.15),
                (Measure::MemoryFree, 0.1),
                (Measure::Rtt, 0.25),
                (Measure::ReadyTime, 0.3),
            ],
        }
    }
}

impl Utility for Weighted {
    fn score(&self, _need: &Need, candidate: &Candidate) -> Scored {
        let term = |(measure, share): &(Measure, f64)| {
            let (value, figure) = measure.judge(candidate);
            Term { name: measure.name(), value, share: *share, figure }
        };
        let terms: Vec<Term> = self.shares.iter().map(term).collect();
        let score = terms.iter().map(|term| term.value * term.share).sum();
        Scored { score, terms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_shares_add_up_to_one() {
        let sum: f64 = Weighted::default().shares.iter().map(|(_, share)| share).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    }

    #[test]
    fn weights_that_make_no_mean_are_refused() {
        let rtt = |weight| vec![(Measure::Rtt, weight)];
        for weights in [vec![], rtt(0.0), rtt(-1.0), rtt(f64::NAN), rtt(f64::INFINITY)] {
            assert!(Weighted::new(&weights).is_err(), "{weights:?}");
        }
        assert_eq!(Weighted::new(&rtt(5.0)), Ok(Weighted::only(Measure::Rtt)));
    }
}
