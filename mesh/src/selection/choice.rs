//! The choice: feasibility, then utility, then whether a change pays.

use std::cmp::Ordering;
use std::time::Duration;

use super::completion::{Completion, Role, completion};
use super::expression::{Expression, Facts};
use super::feasibility::{Infeasible, infeasible};
use super::utility::{Scored, Term, Utility};
use super::{Candidate, Need};
use crate::NodeId;

/// The cloudlet that serves now, or served last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// Which one.
    pub node: NodeId,
    /// For how long already.
    pub since: Duration,
    /// What ties the client to it.
    pub tie: Tie,
}

/// What ties a client to the cloudlet that serves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tie {
    /// An open session: it is ready there, and to leave means to move its state.
    #[default]
    Session,
    /// It served before and holds nothing of the client any more. It starts like the others and costs nothing to leave, but
    /// two that are about equally good would pass the client to and fro from one session to the next.
    Habit,
}

/// What a change must be worth. Without this, two cloudlets that are about equally good would pass a user to and fro with
/// every small change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hysteresis {
    /// By how much another's score must be higher: of a built-in utility, whose scores are 0 to 1, this much; of an
    /// expression, this share of the larger of the two scores.
    pub margin: f64,
    /// What a change takes; the completion of everybody who does not serve now is later by this.
    pub moving: Duration,
    /// Who has served for less stays, if it can.
    pub hold: Duration,
}

impl Hysteresis {
    /// On the logarithmic scale of [`super::Measure::Completion`], 0.02 asks for a completion that is about a fifth
    /// sooner. Guess: more than the noise of a measured rate and of the load between two adverts.
    pub const DEFAULT_MARGIN: f64 = 0.02;
    /// Guess: a handoff of a small Service VM over a fair link.
    pub const DEFAULT_MOVING: Duration = Duration::from_secs(2);
    /// Guess: one interval of adverts, before which nothing new can be known.
    pub const DEFAULT_HOLD: Duration = Duration::from_secs(10);
}

impl Default for Hysteresis {
    fn default() -> Self {
        Self { margin: Self::DEFAULT_MARGIN, moving: Self::DEFAULT_MOVING, hold: Self::DEFAULT_HOLD }
    }
}

/// Who was chosen, and why not the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The one that serves; `None` if none can.
    pub chosen: Option<NodeId>,
    /// Every candidate: the chosen one first, then the losers from good to bad, then those that cannot.
    pub considered: Vec<Considered>,
}

/// A candidate and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Considered {
    /// Which one.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Its score; of one that cannot serve, what it would have been. `None`: it cannot be judged.
    pub score: Option<f64>,
    /// What the score is made of.
    pub terms: Vec<Term>,
    /// When it would have done the task; `None`: it has no way to the service.
    pub completion: Option<Completion>,
    /// What was known of it: name and figure, for people.
    pub facts: Vec<(&'static str, String)>,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is the best.
    Best,
    /// It serves now, or served last, and no other is so much better that a change pays.
    Stays,
    /// It serves now, and has done so for too short a time to leave it.
    Held,
    /// Another was chosen.
    Lost {
        /// How far its score is below that of the chosen one; negative if it is higher but not by the margin.
        behind: f64,
        /// Where it lost most: name of the term and the score that this cost.
        most_by: Option<(String, f64)>,
    },
    /// It cannot serve the need.
    Cannot(Vec<Infeasible>),
}

/// Chooses among `candidates` for `need` with the default [`Hysteresis`] and no requirement of the user;
/// `current` is who serves now. [`super::Policy::choose`] has the rest.
///
/// Of equal scores the smaller node id wins, so that everybody who has the same information decides alike.
pub fn choose(
    need: &Need,
    candidates: &[Candidate],
    utility: &dyn Utility,
    current: Option<Current>,
) -> Choice {
    decide(need, candidates, &Rules { utility, require: None, hysteresis: Hysteresis::default() }, current)
}

/// What a choice goes by.
pub(super) struct Rules<'a> {
    pub(super) utility: &'a dyn Utility,
    pub(super) require: Option<&'a Expression>,
    pub(super) hysteresis: Hysteresis,
}

/// A candidate with everything that is found out about it alone.
struct Judged<'a> {
    candidate: &'a Candidate,
    completion: Option<Completion>,
    scored: Scored,
    reasons: Vec<Infeasible>,
}

impl Judged<'_> {
    fn score(&self) -> f64 {
        self.scored.score.unwrap_or(f64::NEG_INFINITY)
    }

    /// Best first, and a total order whatever the scores are.
    fn rank(&self, other: &Self) -> Ordering {
        let (one, two) = (self.candidate, other.candidate);
        let tie = (one.node, &one.name, one.link.rtt).cmp(&(two.node, &two.name, two.link.rtt));
        other.score().total_cmp(&self.score()).then(tie)
    }

    fn entry(self, verdict: Verdict) -> Considered {
        Considered {
            node: self.candidate.node,
            name: self.candidate.name.clone(),
            verdict,
            score: self.scored.score,
            terms: self.scored.terms,
            completion: self.completion,
            facts: self.candidate.facts(),
        }
    }
}

pub(super) fn decide(
    need: &Need,
    candidates: &[Candidate],
    rules: &Rules<'_>,
    current: Option<Current>,
) -> Choice {
    // Who is not in reach any more costs nothing to leave.
    let current = current.filter(|current| candidates.iter().any(|one| one.node == current.node));
    let judged = candidates.iter().map(|candidate| judge(need, candidate, rules, current));
    let (mut able, mut unable): (Vec<_>, Vec<_>) = judged.partition(|judged| judged.reasons.is_empty());
    able.sort_by(Judged::rank);
    unable.sort_by(Judged::rank);
    let kept = keep_current(&mut able, rules, current);
    let chosen = able.first().map(|judged| judged.candidate.node);
    let verdicts: Vec<Verdict> = able
        .iter()
        .enumerate()
        .map(|(place, judged)| match (place, &able[0]) {
            (0, _) => kept.clone().unwrap_or(Verdict::Best),
            (_, winner) => lost(&judged.scored, &winner.scored),
        })
        .collect();
    let mut considered: Vec<Considered> =
        able.into_iter().zip(verdicts).map(|(judged, verdict)| judged.entry(verdict)).collect();
    considered.extend(unable.into_iter().map(|mut judged| {
        let reasons = std::mem::take(&mut judged.reasons);
        judged.entry(Verdict::Cannot(reasons))
    }));
    Choice { chosen, considered }
}

fn judge<'a>(
    need: &Need,
    candidate: &'a Candidate,
    rules: &Rules<'_>,
    current: Option<Current>,
) -> Judged<'a> {
    let role = match current {
        None | Some(Current { tie: Tie::Habit, .. }) => Role::New,
        Some(current) if current.node == candidate.node => Role::Serves,
        Some(_) => Role::Elsewhere { moving: rules.hysteresis.moving },
    };
    let completion = completion(need, candidate, role);
    let mut reasons = infeasible(need, candidate, completion.as_ref(), role == Role::Serves);
    let facts = Facts { need, candidate, completion: completion.as_ref() };
    reasons.extend(rules.require.and_then(|require| unmet(require, &facts)));
    let scored = rules.utility.score(need, candidate, completion.as_ref());
    if scored.score.is_none() {
        let why = scored.terms.first().map_or_else(String::new, |term| term.figure.clone());
        reasons.push(Infeasible::NoScore { why });
    }
    Judged { candidate, completion, scored, reasons }
}

/// The requirement, if it is not met. One that looks at what is not known is not met.
fn unmet(require: &Expression, facts: &Facts<'_>) -> Option<Infeasible> {
    let figures = match require.flag(facts) {
        Ok(true) => return None,
        Ok(false) => require.figures(facts),
        Err(no_value) => no_value.to_string(),
    };
    Some(Infeasible::Requirement { expression: require.source().to_owned(), figures })
}

/// Puts the current one first unless it may be left and another beats it by the margin; says why it is kept, if it is
/// although another is better.
fn keep_current(able: &mut [Judged<'_>], rules: &Rules<'_>, current: Option<Current>) -> Option<Verdict> {
    let current = current?;
    let place = able.iter().position(|judged| judged.candidate.node == current.node)?;
    if place == 0 {
        return None;
    }
    let (best, ours) = (able[0].score(), able[place].score());
    let lead = rules.utility.lead(rules.hysteresis.margin, best, ours);
    let kept = if current.since < rules.hysteresis.hold {
        Verdict::Held
    } else if best >= ours + lead {
        return None;
    } else {
        Verdict::Stays
    };
    able[..=place].rotate_right(1);
    Some(kept)
}

fn lost(loser: &Scored, winner: &Scored) -> Verdict {
    let cost = |(ours, theirs): (&Term, &Term)| {
        (ours.name.to_string(), theirs.value * theirs.share - ours.value * ours.share)
    };
    let most_by = loser
        .terms
        .iter()
        .zip(&winner.terms)
        .map(cost)
        .max_by(|one, two| one.1.total_cmp(&two.1))
        .filter(|one| one.1 > 0.0);
    let behind = match (winner.score, loser.score) {
        (Some(winner), Some(loser)) => winner - loser,
        _ => 0.0,
    };
    Verdict::Lost { behind, most_by }
}
