//! Counters by name, and what was counted between two moments.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Snapshot, Topology};
use crate::medium::counters::{Host, Pair, Tally};

/// What hosts sent and received, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counters {
    /// Time since the lab's start; after [`Counters::since`], the time between.
    pub at: Duration,
    /// By host.
    pub hosts: BTreeMap<String, Host>,
    /// By sender and receiver; pairs out of reach are not there.
    pub pairs: BTreeMap<(String, String), Pair>,
    /// Frames dropped because too many were on their way in the whole lab.
    pub overload_frames: u64,
}

impl Counters {
    pub(super) fn new(topology: &Topology, snapshot: Snapshot) -> Self {
        let name = |number: usize| topology.hosts[number].name.clone();
        let pairs = snapshot
            .links
            .iter()
            .map(|link| ((name(usize::from(link.from.0)), name(usize::from(link.to.0))), link.counters));
        Self {
            at: snapshot.at,
            hosts: snapshot.hosts.iter().enumerate().map(|(number, host)| (name(number), *host)).collect(),
            pairs: pairs.collect(),
            overload_frames: snapshot.overload_frames,
        }
    }

    /// Of one host.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.get(name)
    }

    /// Of one ordered pair.
    pub fn pair(&self, from: &str, to: &str) -> Option<&Pair> {
        self.pairs.get(&(from.to_owned(), to.to_owned()))
    }

    /// What all hosts put on the air: every frame once, however many heard it.
    pub fn sent(&self) -> Tally {
        let mut sum = Tally::default();
        self.hosts.values().for_each(|host| sum += host.sent);
        sum
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let host = |name: &String| earlier.hosts.get(name).copied().unwrap_or_default();
        let pair = |names: &(String, String)| earlier.pairs.get(names).copied().unwrap_or_default();
        Self {
            at: self.at.saturating_sub(earlier.at),
            hosts: self.hosts.iter().map(|(name, now)| (name.clone(), *now - host(name))).collect(),
            pairs: self.pairs.iter().map(|(names, now)| (names.clone(), *now - pair(names))).collect(),
            overload_frames: self.overload_frames.saturating_sub(earlier.overload_frames),
        }
    }
}
