//! How much later than with perfect knowledge.
//!
//! For a choice, the *oracle* takes the cloudlet with the soonest true completion. A policy names its cloudlets from best
//! to worst; the first that does not refuse serves, refusals cost their time. Then
//!
//! ```text
//! regret of a choice = (completion with the policy − completion with the oracle) / completion with the oracle
//! ```
//!
//! and the regret of a policy is the mean over all choices (*mean relative completion-time regret*). Only moments with at
//! least two cloudlets that can serve count: where there is nothing to choose, everybody is right. *Total* is the same
//! of the sums, in which long tasks weigh more.

use mesh::selection::record::BadSurvey;
use mesh::selection::{Candidate, Completion, Need, Offer, Policy, Scored, Utility, choose};
use rand::RngExt;
use serde::Serialize;

use super::recording::{Decision, End};
use crate::random::{self, Purpose};

/// Who chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chooser {
    /// The default policy of [`mesh::selection`].
    Ours,
    /// The ranker `CpuBasedRanker` of KD-Cloudlet: `100 * cores - usage`.
    KdCpuFree,
    /// Its `CpuPerformanceRanker`: `(100 * cores - usage) * speed / 100`.
    KdCpuPerformance,
    /// Its `MemoryRanker`: free memory.
    KdMemory,
    /// The smallest true distance.
    Nearest,
    /// Any; the mean over [`RANDOM_DRAWS`] draws.
    Random,
}

/// Draws of the random chooser for each choice.
pub const RANDOM_DRAWS: u64 = 20;

/// Every chooser.
pub const CHOOSERS: [Chooser; 6] = [
    Chooser::Ours,
    Chooser::KdCpuFree,
    Chooser::KdCpuPerformance,
    Chooser::KdMemory,
    Chooser::Nearest,
    Chooser::Random,
];

impl Chooser {
    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours (default)",
            Self::KdCpuFree => "KD-Cloudlet CPU free",
            Self::KdCpuPerformance => "KD-Cloudlet CPU performance",
            Self::KdMemory => "KD-Cloudlet memory",
            Self::Nearest => "nearest",
            Self::Random => "random",
        }
    }

    /// Candidates from best to worst, by place in the survey.
    fn order(self, decision: &Decision, need: &Need, candidates: &[Candidate], draw: u64) -> Vec<usize> {
        let order = match self {
            Self::Ours => return by_utility(need, candidates, &Policy::default()),
            Self::KdCpuFree | Self::KdCpuPerformance | Self::KdMemory => {
                by_utility(need, candidates, &KdRanker(self))
            }
            Self::Nearest => sorted(candidates.len(), |place| f64::from(decision.truth[place].distance_m)),
            Self::Random => {
                let mut rng = random::stream(decision.at_us ^ draw << 48, Purpose::Others, decision.handheld);
                let lots: Vec<f64> = candidates.iter().map(|_| rng.random()).collect();
                sorted(candidates.len(), |place| lots[place])
            }
        };
        holders_first(order, candidates)
    }
}

fn sorted(many: usize, key: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut places: Vec<usize> = (0..many).collect();
    places.sort_by(|one, two| key(*one).total_cmp(&key(*two)).then(one.cmp(two)));
    places
}

/// As KD-Cloudlet does it: asked are those that have the service; only if there are none, the others.
fn holders_first(mut order: Vec<usize>, candidates: &[Candidate]) -> Vec<usize> {
    order.sort_by_key(|place| candidates[*place].offer < Offer::Cached);
    order
}

/// As the handheld asks them: whoever seems unable comes last.
fn by_utility(need: &Need, candidates: &[Candidate], utility: &dyn Utility) -> Vec<usize> {
    let choice = choose(need, candidates, utility, None);
    let place = |node| candidates.iter().position(|candidate| candidate.node == node);
    choice.considered.iter().filter_map(|one| place(one.node)).collect()
}

/// KD-Cloudlet's rankers (github.com/SEI-TTG, `client-lib`, `rank/*.java`) as utilities. Its speed is the processor's in
/// MHz; here it is that of guest code, which is proportional to it between machines of one make.
struct KdRanker(Chooser);

impl Utility for KdRanker {
    fn score(&self, _: &Need, candidate: &Candidate, _: Option<&Completion>) -> Scored {
        let free_percent = f64::from(candidate.load.cpu_free_millis()) / 10.0;
        let speed = f64::from(candidate.guest_speed_permille.unwrap_or(0));
        let score = match self.0 {
            Chooser::KdCpuPerformance => free_percent * speed / 100.0,
            Chooser::KdMemory => candidate.load.memory_free_bytes as f64,
            _ => free_percent,
        };
        Scored { score: Some(score), terms: Vec::new() }
    }
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Who chose.
    pub chooser: &'static str,
    /// Choices.
    pub choices: usize,
    /// Mean relative completion-time regret.
    pub mean: f64,
    /// The same of the sums.
    pub total: f64,
    /// Largest regret of a choice.
    pub worst: f64,
    /// Share of choices that were the oracle's, or as good.
    pub right: f64,
    /// Share of tasks whose contact was lost.
    pub broken: f64,
}

/// The table for recorded choices: everybody, and the oracle's own line first.
pub fn table(decisions: &[Decision]) -> Result<Vec<Line>, BadSurvey> {
    let mut lines = vec![oracle(decisions)];
    for chooser in CHOOSERS {
        lines.push(line(chooser, decisions)?);
    }
    Ok(lines)
}

/// What the default policy does with recorded choices.
pub fn ours(decisions: &[Decision]) -> Result<Line, BadSurvey> {
    line(Chooser::Ours, decisions)
}

fn oracle(decisions: &[Decision]) -> Line {
    let broken = decisions.iter().filter(|one| best(one).is_some_and(|(_, end)| end == End::Broken)).count();
    let share = broken as f64 / decisions.len().max(1) as f64;
    Line {
        chooser: "oracle",
        choices: decisions.len(),
        mean: 0.0,
        total: 0.0,
        worst: 0.0,
        right: 1.0,
        broken: share,
    }
}

/// The soonest true completion.
fn best(decision: &Decision) -> Option<(u64, End)> {
    let served = decision.truth.iter().filter(|truth| truth.end != End::Refused);
    served.map(|truth| (truth.after_us, truth.end)).min_by_key(|(after, _)| *after)
}

fn line(chooser: Chooser, decisions: &[Decision]) -> Result<Line, BadSurvey> {
    let draws = if chooser == Chooser::Random { RANDOM_DRAWS } else { 1 };
    let (mut regrets, mut ours_us, mut oracle_us, mut broken) = (Vec::new(), 0.0, 0.0, 0_usize);
    for decision in decisions {
        let (need, candidates, _) = decision.survey.unpack()?;
        let Some((soonest, _)) = best(decision) else { continue };
        for draw in 0..draws {
            let order = chooser.order(decision, &need, &candidates, draw);
            let Some((after, end)) = follow(decision, &order) else { continue };
            regrets.push((after as f64 - soonest as f64) / soonest.max(1) as f64);
            ours_us += after as f64;
            oracle_us += soonest as f64;
            broken += usize::from(end == End::Broken);
        }
    }
    let many = regrets.len().max(1) as f64;
    Ok(Line {
        chooser: chooser.name(),
        choices: decisions.len(),
        mean: regrets.iter().sum::<f64>() / many,
        total: ours_us / f64::max(oracle_us, 1.0) - 1.0,
        worst: regrets.iter().copied().fold(0.0, f64::max),
        right: regrets.iter().filter(|regret| **regret < 1e-9).count() as f64 / many,
        broken: broken as f64 / many,
    })
}

/// Goes down the order until one serves. `None` if all refuse, which a recording never has.
fn follow(decision: &Decision, order: &[usize]) -> Option<(u64, End)> {
    let mut spent = 0;
    for place in order {
        let truth = decision.truth.get(*place)?;
        spent += truth.after_us;
        if truth.end != End::Refused {
            return Some((spent, truth.end));
        }
    }
    None
}
