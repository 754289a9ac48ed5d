//! What was decided, and why: as text for the log, and as terms for the API.

use std::fmt;

use serde::Serialize;

use crate::NodeId;

/// Why an instance leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The cloudlet shuts down.
    Shutdown,
    /// The cloudlet is being emptied.
    Drain,
    /// Its power runs out.
    PowerLow,
    /// Its users go out of range.
    UserLeaves,
    /// The link to the destination is about to end; later it would be too late.
    LinkEnds,
    /// There is more CPU for it elsewhere.
    LoadBalance,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shutdown => "this cloudlet shuts down",
            Self::Drain => "this cloudlet is being emptied",
            Self::PowerLow => "power runs out here",
            Self::UserLeaves => "its users go out of range",
            Self::LinkEnds => "the link there is about to end",
            Self::LoadBalance => "it gets more CPU there",
        })
    }
}

/// Why a cloudlet cannot have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unfit {
    /// It is being emptied.
    Draining,
    /// It has not the memory.
    Memory,
    /// Nobody has estimated what the handoff would cost: it cannot run it, or there is no link.
    NoPlan,
    /// The guest changes faster than the link carries.
    TooBusy,
    /// Its own power is low.
    PowerLow,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "is being emptied",
            Self::Memory => "has not enough memory",
            Self::NoPlan => "cannot have it",
            Self::TooBusy => "the link is too slow for it",
            Self::PowerLow => "is low on power itself",
        })
    }
}

/// A figure that counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Term {
    /// Which: `value-here`, `value-there`, `arrives`, `downtime`, `link-time`, `threshold`.
    pub name: &'static str,
    /// Seconds, but for `arrives`, which is a chance from 0 to 1.
    pub value: f64,
}

/// A cloudlet that was considered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Considered {
    /// Which.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Why it was out of question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfit: Option<Unfit>,
    /// What would be gained, seconds of service.
    pub gain_s: f64,
    /// What that is made of.
    pub terms: Vec<Term>,
}

/// What becomes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// It goes there.
    Move {
        /// Where to.
        to: NodeId,
        /// Why.
        reason: Reason,
        /// Whether the policy may only say so.
        dry_run: bool,
    },
    /// It would be better there, and must wait: for a handoff that is under way, because it came lately, or until the
    /// reason has held for a while.
    Wait {
        /// Where to.
        to: NodeId,
        /// Why.
        reason: Reason,
        /// For what.
        until: Until,
    },
    /// It stays.
    Stay,
}

/// What a move waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// The end of other handoffs.
    OthersDone,
    /// It came lately.
    Stayed,
    /// The reason may pass.
    Settled,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// The instance.
    pub instance: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Everybody who was considered, the best first.
    pub considered: Vec<Considered>,
}

impl Decision {
    fn name(&self, node: NodeId) -> String {
        let named = self.considered.iter().find(|one| one.node == node);
        named.map_or_else(|| node.short(), |one| one.name.clone())
    }
}

impl fmt::Display for Considered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(unfit) = self.unfit {
            return write!(f, "{} {unfit}", self.name);
        }
        write!(f, "{} gains {:.1} s (", self.name, self.gain_s)?;
        for (place, term) in self.terms.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            match term.name {
                "arrives" => write!(f, "{comma}arrives {:.0} %", term.value * 100.0)?,
                name => write!(f, "{comma}{name} {:.1} s", term.value)?,
            }
        }
        f.write_str(")")
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.instance;
        match self.outcome {
            Outcome::Move { to, reason, dry_run } => {
                let would = if dry_run { "would move" } else { "moves" };
                write!(f, "{id} {would} to {}: {reason}", self.name(to))?;
            }
            Outcome::Wait { to, reason, until } => {
                let until = match until {
                    Until::OthersDone => "once other handoffs are done",
                    Until::Stayed => "once it has been here for a while",
                    Until::Settled => "if that lasts",
                };
                write!(f, "{id} will move to {} {until}: {reason}", self.name(to))?;
            }
            Outcome::Stay => write!(f, "{id} stays")?,
        }
        for one in &self.considered {
            write!(f, "; {one}")?;
        }
        Ok(())
    }
}
