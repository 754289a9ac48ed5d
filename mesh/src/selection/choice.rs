//! The choice, and its explanation.

use std::cmp::Ordering;
use std::fmt;

use super::feasibility::{Infeasible, infeasible};
use super::utility::{Scored, Term, Utility};
use super::{Candidate, Need};
use crate::NodeId;

/// The cloudlet that serves now, if one does, and what a change must be worth.
///
/// Without a margin two cloudlets that are about equally good would pass a user to and fro with every small change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Current {
    /// The one that serves now.
    pub node: NodeId,
    /// By how much another's score must be higher, 0 to 1.
    pub margin: f64,
}

impl Current {
    /// Guess: more than the noise of a measured round-trip time and of the load between two adverts.
    pub const DEFAULT_MARGIN: f64 = 0.1;
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
    /// Its score, 0 to 1; of one that cannot serve, what it would have been.
    pub score: f64,
    /// What the score is made of.
    pub terms: Vec<Term>,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is the best.
    Best,
    /// It serves now, and no other is better by the margin.
    Stays,
    /// Another was chosen.
    Lost {
        /// How far its score is below that of the chosen one; negative if it is higher but not by the margin.
        behind: f64,
        /// Where it lost most: name of the term and the score that this cost.
        most_by: Option<(&'static str, f64)>,
    },
    /// It cannot serve the need.
    Cannot(Vec<Infeasible>),
}

/// Chooses among `candidates` for `need`; `current` is who serves now.
///
/// Of equal scores the smaller node id wins, so that everybody who has the same information decides alike.
pub fn choose(
    need: &Need,
    candidates: &[Candidate],
    utility: &dyn Utility,
    current: Option<Current>,
) -> Choice {
    let mut able: Vec<(&Candidate, Scored)> = Vec::new();
    let mut unable: Vec<(&Candidate, Scored, Vec<Infeasible>)> = Vec::new();
    for candidate in candidates {
        let scored = utility.score(need, candidate);
        let reasons = infeasible(need, candidate);
        if reasons.is_empty() {
            able.push((candidate, scored))
        } else {
            unable.push((candidate, scored, reasons))
        }
    }
    able.sort_by(|one, two| rank((one.0, &one.1), (two.0, &two.1)));
    unable.sort_by(|one, two| rank((one.0, &one.1), (two.0, &two.1)));
    let stays = move_current_first(&mut able, current);
    let mut considered: Vec<Considered> = Vec::with_capacity(candidates.len());
    for (place, (candidate, scored)) in able.iter().enumerate() {
        let verdict = match place {
            0 if stays => Verdict::Stays,
            0 => Verdict::Best,
            _ => lost(scored, &able[0].1),
        };
        considered.push(entry(candidate, scored, verdict));
    }
    let cannot = |(candidate, scored, reasons): &(&Candidate, Scored, Vec<Infeasible>)| {
        entry(candidate, scored, Verdict::Cannot(reasons.clone()))
    };
    considered.extend(unable.iter().map(cannot));
    Choice { chosen: able.first().map(|(candidate, _)| candidate.node), considered }
}

/// Best first, and a total order whatever the scores are.
fn rank(one: (&Candidate, &Scored), two: (&Candidate, &Scored)) -> Ordering {
    let tie = (one.0.node, &one.0.name, one.0.link.rtt).cmp(&(two.0.node, &two.0.name, two.0.link.rtt));
    two.1.score.total_cmp(&one.1.score).then(tie)
}

/// Puts the current one first unless another beats it by the margin; says whether it stays although another is better.
fn move_current_first(able: &mut [(&Candidate, Scored)], current: Option<Current>) -> bool {
    let Some(current) = current else { return false };
    let Some(place) = able.iter().position(|(candidate, _)| candidate.node == current.node) else {
        return false;
    };
    if place == 0 || able[0].1.score >= able[place].1.score + current.margin {
        return false;
    }
    able[..=place].rotate_right(1);
    true
}

fn lost(loser: &Scored, winner: &Scored) -> Verdict {
    let cost = |(ours, theirs): (&Term, &Term)| (ours.name, (theirs.value - ours.value) * theirs.share);
    let most_by = loser
        .terms
        .iter()
        .zip(&winner.terms)
        .map(cost)
        .max_by(|one, two| one.1.total_cmp(&two.1))
        .filter(|one| one.1 > 0.0);
    Verdict::Lost { behind: winner.score - loser.score, most_by }
}

fn entry(candidate: &Candidate, scored: &Scored, verdict: Verdict) -> Considered {
    Considered {
        node: candidate.node,
        name: candidate.name.clone(),
        verdict,
        score: scored.score,
        terms: scored.terms.clone(),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("chosen: the best"),
            Self::Stays => f.write_str("chosen: serves now, and no other is better by the margin"),
            Self::Lost { behind, most_by } => {
                if *behind < 0.0 {
                    write!(f, "better by {:.3}, which is not worth a change", -behind)?;
                } else if *behind == 0.0 {
                    f.write_str("equally good, but its node id is larger")?;
                } else {
                    write!(f, "lost by {behind:.3}")?;
                }
                match most_by {
                    Some((term, cost)) => write!(f, ", most by {term} ({cost:.3})"),
                    None => Ok(()),
                }
            }
            Self::Cannot(reasons) => {
                f.write_str("cannot: ")?;
                for (place, reason) in reasons.iter().enumerate() {
                    write!(f, "{}{reason}", if place == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Choice {
    /// Every candidate on a line of its own, its terms below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.considered {
            writeln!(f, "{} ({})  score {:.3}  {}", one.name, one.node.short(), one.score, one.verdict)?;
            for term in &one.terms {
                let Term { name, value, share, figure } = term;
                writeln!(f, "    {name:<16} {value:.3} x {share:.2} = {:.3}   {figure}", value * share)?;
            }
        }
        Ok(())
    }
}
