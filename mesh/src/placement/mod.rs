//! Whether a running service should move to another cloudlet, and to which. Pure: the node and the simulator decide alike.
//!
//! Everything is counted in one unit, seconds of service within a horizon:
//!
//! ```text
//! value(site) = ∫ from 0 to horizon of  reach(t) × life(t)  dt  ×  speed
//!   reach   chance that its users reach the site, directly or (counted less) through another cloudlet
//!   life    1 until the site shuts down, is empty of power, or has been drained
//!   speed   share of the CPU that it wants
//! gain = chance that the handoff comes to its end × (value if it moves − value if it stays) − cost
//! cost = downtime + a share of the time that the link is full
//! ```
//!
//! It moves if the gain is above a threshold. What keeps it from moving to and fro:
//!
//! * the threshold is above zero, and grows with the value of staying ([`Settings::margin`]);
//! * every move of the last while doubles it ([`Settings::remember`]). No gain is greater than the horizon, so in
//!   any window of that length an instance moves at most [`Settings::most_moves`] times, whatever the figures do;
//! * it stays for a while after it came ([`Settings::stay`]), and a reason must hold for a while ([`Settings::settle`]);
//! * a decision counts what it will take from the destination before the next is made.
//!
//! A site that shuts down or is drained is left whatever these say, as long as anything is gained.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::NodeId;
use crate::advert::{Advert, Power, Presence};
use crate::selection::contact::Contact;

mod decision;
mod policy;
mod value;

pub use decision::{Considered, Decision, Outcome, Reason, Term, Unfit, Until};
pub use policy::Policy;

/// What the policy may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It is not asked.
    Disabled,
    /// It says what it would do.
    #[default]
    DryRun,
    /// It does it.
    Enabled,
}

/// How it decides. All defaults are guesses but for the horizon: four fifths of 12,000 recorded contacts were over within
/// five minutes (see [`crate::selection::contact`]), so beyond that nothing is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// What it may do.
    pub mode: Mode,
    /// How far it looks ahead.
    pub horizon: Duration,
    /// Least gain.
    pub least_gain: Duration,
    /// Least gain beyond that, as a share of the value of staying.
    pub margin: f64,
    /// How long an instance stays where it came to.
    pub stay: Duration,
    /// How long a destination must have been worth it.
    pub settle: Duration,
    /// How long a move is remembered against the next.
    pub remember: Duration,
    /// A battery with no more than this counts as about to be empty, percent.
    pub power_low_percent: u8,
    /// Most handoffs that go out at a time.
    pub at_once: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::DryRun,
            horizon: Duration::from_secs(300),
            least_gain: Duration::from_secs(5),
            margin: 0.1,
            stay: Duration::from_secs(60),
            settle: Duration::from_secs(5),
            remember: Duration::from_secs(600),
            power_low_percent: 15,
            at_once: 1,
        }
    }
}

impl Settings {
    /// Most moves of one instance within [`Self::remember`], other than away from sites that end: from so many on, the
    /// threshold is above any gain.
    pub fn most_moves(&self) -> u32 {
        let least = self.least_gain.as_secs_f64() * policy::LAST_CHANCE;
        let ratio = self.horizon.as_secs_f64() / least.max(0.001);
        (0..64)
            .find(|moves| 2_f64.powi(*moves) >= ratio)
            .and_then(|moves| u32::try_from(moves).ok())
            .unwrap_or(64)
    }
}

/// Everything that is known at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Situation {
    /// The cloudlet that decides.
    pub here: Site,
    /// When it will shut down, from now.
    pub shutdown: Option<Duration>,
    /// Its instances that are ready.
    pub instances: Vec<Instance>,
    /// Others of the mission, each with the link to it.
    pub others: Vec<Other>,
    /// Handoffs that are under way.
    pub under_way: usize,
}

/// A cloudlet.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Which.
    pub node: NodeId,
    /// Name for people.
    pub name: String,
    /// CPU that what runs there wants, thousandths of a core; more than there is means that all of it is slow.
    pub cpu_wanted_millis: u32,
    /// CPU that there is.
    pub cpu_total_millis: u32,
    /// Memory for new instances, bytes.
    pub memory_free_bytes: u64,
    /// What it runs on.
    pub power: Power,
    /// Whether it is being emptied.
    pub draining: bool,
}

impl Site {
    /// As it says of itself.
    pub fn of(advert: &Advert) -> Self {
        let load = &advert.load;
        Self {
            node: advert.node,
            name: advert.name.clone(),
            cpu_wanted_millis: load.cpu_used_millis,
            cpu_total_millis: load.cpu_total_millis,
            memory_free_bytes: load.memory_free_bytes,
            power: advert.power,
            draining: advert.presence != Presence::Serving,
        }
    }
}

/// Another cloudlet.
#[derive(Debug, Clone, PartialEq)]
pub struct Other {
    /// What it says of itself.
    pub site: Site,
    /// How long the link to it is likely to last.
    pub contact: Contact,
}

/// An instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// How long it has been here.
    pub here_for: Duration,
    /// How long ago it was moved, each time that is remembered, here and elsewhere.
    pub moves: Vec<Duration>,
    /// CPU that it wants, thousandths of a core.
    pub cpu_millis: u32,
    /// Memory that it needs, bytes.
    pub memory_bytes: u64,
    /// Its users. Nobody is taken to be somebody who reaches every cloudlet alike.
    pub users: Vec<User>,
    /// What a handoff to each other cloudlet is estimated to cost (`migration::handoff::plan`); others cannot have it.
    pub costs: BTreeMap<NodeId, Cost>,
    /// Whether it is being moved already, or must not be.
    pub pinned: bool,
}

/// How a user reaches cloudlets: how long each contact is likely to last. Cloudlets that are not named are out of range.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct User {
    /// By cloudlet.
    pub contacts: BTreeMap<NodeId, Contact>,
}

/// What a handoff is estimated to cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// From now until it runs there.
    pub total: Duration,
    /// How long it stands still.
    pub downtime: Duration,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Whether it can be done at all: `false` where the guest changes faster than the link carries, or the link carries
    /// nothing.
    pub feasible: bool,
}

#[cfg(test)]
mod tests;
