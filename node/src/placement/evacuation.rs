//! What becomes of each instance of a cloudlet that is emptied. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use mesh::NodeId;
use mesh::placement::{Decision, Outcome};
use migration::VmId;

use crate::handoff::{Phase, Status};
use crate::lifecycle::{self, Instance};

/// How long nobody may be able to take an instance before it is given up. A guess: an advert's way.
const NOBODY_FOR: Duration = Duration::from_secs(5);
/// How long a handoff may wait for its destination before another one is looked for. A guess.
const WAITS_FOR: Duration = Duration::from_secs(15);

/// How far an evacuation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Instances leave.
    Running,
    /// All have left that could.
    Done,
    /// Somebody ended it.
    Cancelled,
}

/// What becomes of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It will leave, and does not yet.
    Waits(String),
    /// It is on its way.
    Moves(NodeId),
    /// It runs there.
    Moved(NodeId),
    /// It was stopped meanwhile.
    Ended,
    /// It stays, and why.
    Stays(String),
}

impl Fate {
    fn is_open(&self) -> bool {
        matches!(self, Self::Waits(_) | Self::Moves(_))
    }
}

/// An evacuation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evacuation {
    /// The only destination, if one was named.
    pub to: Option<NodeId>,
    /// How far it is.
    pub state: State,
    /// What becomes of each instance.
    pub fates: BTreeMap<VmId, Fate>,
    /// When it ends at the latest.
    pub(super) until: Option<Duration>,
    /// Whether nobody new was taken before.
    pub(super) was_draining: bool,
    /// Where it sent each, and since when that waits for the destination.
    ordered: BTreeMap<VmId, (NodeId, Option<Duration>)>,
    /// Since when nobody can take it.
    stuck: BTreeMap<VmId, Duration>,
}

impl Evacuation {
    /// Begins.
    pub(super) fn new(to: Option<NodeId>, until: Option<Duration>, was_draining: bool) -> Self {
        Self {
            to,
            state: State::Running,
            fates: BTreeMap::new(),
            until,
            was_draining,
            ordered: BTreeMap::new(),
            stuck: BTreeMap::new(),
        }
    }

    /// Whether everything has left.
    pub fn is_complete(&self) -> bool {
        self.state == State::Done && !self.fates.values().any(|fate| matches!(fate, Fate::Stays(_)))
    }

    /// What it sent away.
    pub(super) fn ordered(&self) -> Vec<VmId> {
        self.ordered.keys().copied().collect()
    }

    /// What it sent to somebody who has not been in reach for too long.
    pub(super) fn overdue(&self, now: Duration) -> Vec<(VmId, NodeId)> {
        let is_overdue =
            |since: Option<Duration>| since.is_some_and(|at| now.saturating_sub(at) >= WAITS_FOR);
        let late = self.ordered.iter().filter(|(_, (_, since))| is_overdue(*since));
        late.map(|(vm, (to, _))| (*vm, *to)).collect()
    }

    /// It ends, whatever is left.
    pub(super) fn end(&mut self, state: State, why: &str) {
        self.state = state;
        for fate in self.fates.values_mut().filter(|fate| fate.is_open()) {
            *fate = Fate::Stays(why.to_owned());
        }
    }

    /// Takes note of how far everything is. `ordered` were sent away just now; `failures`: who did not take it, and why.
    pub(super) fn look(
        &mut self,
        now: Duration,
        instances: &[Instance],
        statuses: &[Status],
        decisions: &[Decision],
        ordered: &BTreeMap<VmId, NodeId>,
        failures: impl Fn(VmId) -> Vec<(NodeId, String)>,
    ) {
        for instance in instances.iter().filter(|instance| instance.is_live()) {
            self.fates.entry(instance.vm).or_insert_with(|| Fate::Waits("its turn".to_owned()));
        }
        self.ordered.extend(ordered.iter().map(|(vm, to)| (*vm, (*to, None))));
        let vms: Vec<VmId> = self.fates.keys().copied().collect();
        for vm in vms {
            let instance = instances.iter().find(|instance| instance.vm == vm);
            let is_here = instance.is_some_and(Instance::is_live);
            let status = statuses.iter().rev().find(|status| status.vm == vm);
            let decision = decisions.iter().find(|decision| decision.instance == vm.to_string());
            let fate = match (ordered.get(&vm), status) {
                (Some(to), _) => Fate::Moves(*to),
                (None, Some(status)) if !status.phase.is_end() => self.moving(now, vm, status),
                // One that is here has come back since it went.
                (None, Some(status)) if status.phase == Phase::Done && !is_here => Fate::Moved(status.to),
                _ => self.standing(now, vm, instance, decision, &failures),
            };
            self.fates.insert(vm, fate);
        }
        if !self.fates.values().any(Fate::is_open) {
            self.state = State::Done;
        }
    }

    fn moving(&mut self, now: Duration, vm: VmId, status: &Status) -> Fate {
        self.stuck.remove(&vm);
        let waits = matches!(status.phase, Phase::Waiting { .. });
        if let Some((_, since)) = self.ordered.get_mut(&vm) {
            *since = if waits { since.or(Some(now)) } else { None };
        }
        match &status.phase {
            Phase::Waiting { reason } => Fate::Waits(reason.clone()),
            _ => Fate::Moves(status.to),
        }
    }

    fn standing(
        &mut self,
        now: Duration,
        vm: VmId,
        instance: Option<&Instance>,
        decision: Option<&Decision>,
        failures: impl Fn(VmId) -> Vec<(NodeId, String)>,
    ) -> Fate {
        let Some(instance) = instance.filter(|instance| instance.is_live()) else { return Fate::Ended };
        if !matches!(instance.phase, lifecycle::Phase::Ready { .. }) {
            return Fate::Waits("it starts".to_owned());
        }
        if let Some(Outcome::Move { .. } | Outcome::Wait { .. }) = decision.map(|decision| &decision.outcome)
        {
            self.stuck.remove(&vm);
            return Fate::Waits("its turn".to_owned());
        }
        let since = *self.stuck.entry(vm).or_insert(now);
        let reason = nobody(decision, &failures(vm));
        if now.saturating_sub(since) < NOBODY_FOR { Fate::Waits(reason) } else { Fate::Stays(reason) }
    }
}

/// Why nobody takes it.
fn nobody(decision: Option<&Decision>, failures: &[(NodeId, String)]) -> String {
    let considered = decision.map(|decision| decision.considered.as_slice()).unwrap_or_default();
    if considered.is_empty() {
        return "no other cloudlet is in reach".to_owned();
    }
    let said = |node: &NodeId| failures.iter().find(|(of, _)| of == node).map(|(_, reason)| reason);
    let reasons = considered.iter().map(|one| match said(&one.node) {
        Some(reason) => format!("{}: {reason}", one.name),
        None => one.to_string(),
    });
    reasons.collect::<Vec<_>>().join("; ")
}

impl fmt::Display for Evacuation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |is: fn(&Fate) -> bool| self.fates.values().filter(|fate| is(fate)).count();
        let moved = count(|fate| matches!(fate, Fate::Moved(_)));
        let ended = count(|fate| matches!(fate, Fate::Ended));
        let stay = count(|fate| matches!(fate, Fate::Stays(_)));
        write!(f, "{moved} instances have left, {ended} have ended, {stay} stay")?;
        self.fates.iter().try_for_each(|(vm, fate)| match fate {
            Fate::Stays(why) => write!(f, "; {vm} stays: {why}"),
            _ => Ok(()),
        })
    }
}
