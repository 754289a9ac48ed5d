//! Decides for all instances of a cloudlet at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decision::{Considered, Decision, Outcome, Reason, Term, Unfit, Until};
use super::value::{Ends, Reaching, losses, power_ends, served, speed};
use super::{Cost, Instance, Mode, Other, Settings, Situation};
use crate::NodeId;

/// What a second of a full link costs, in seconds of service. Guess: others use the link, too.
const LINK_TIME: f64 = 0.1;
/// Part of the threshold that is left when the link is expected to end within [`LINK_ENDS_SOON`]: the chance does not come
/// again. Guess.
pub(super) const LAST_CHANCE: f64 = 0.5;
/// Guess: below [`crate::selection::contact::TURNING`], beyond which no end is expected, and enough for a handoff that needs
/// its stay, its settling and some seconds.
const LINK_ENDS_SOON: Duration = Duration::from_secs(90);

/// Remembers since when a move has been worth it, and nothing else.
#[derive(Debug, Clone)]
pub struct Policy {
    settings: Settings,
    since: BTreeMap<String, (NodeId, Duration)>,
}

/// A destination that is worth it.
struct Wish {
    place: usize,
    to: NodeId,
    reason: Reason,
    forced: bool,
    gain_s: f64,
}

impl Policy {
    /// With these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings, since: BTreeMap::new() }
    }

    /// Decides. `now` never goes backwards. One decision for each instance, in their order; none if it is disabled.
    pub fn decide(&mut self, now: Duration, situation: &Situation) -> Vec<Decision> {
        if self.settings.mode == Mode::Disabled {
            return Vec::new();
        }
        let mut left = situation.clone();
        let mut decisions = Vec::new();
        let mut wishes = Vec::new();
        for (place, instance) in situation.instances.iter().enumerate() {
            let considered = self.consider(instance, &left);
            let wish = self.wish(place, instance, situation, &considered);
            if let Some(wish) = &wish {
                // What comes there is counted before the next decides, or all would go to the same.
                left.take(instance, wish.to);
            }
            decisions.push(Decision { instance: instance.id.clone(), outcome: Outcome::Stay, considered });
            wishes.extend(wish);
        }
        let wanted: Vec<&String> = wishes.iter().map(|wish| &situation.instances[wish.place].id).collect();
        self.since.retain(|id, _| wanted.contains(&id));
        wishes.sort_by(|one, two| {
            (two.forced, two.gain_s)
                .partial_cmp(&(one.forced, one.gain_s))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        let mut free = self.settings.at_once.saturating_sub(situation.under_way);
        for wish in wishes {
            let instance = &situation.instances[wish.place];
            decisions[wish.place].outcome = self.outcome(now, instance, &wish, &mut free);
        }
        decisions
    }

    fn outcome(&mut self, now: Duration, instance: &Instance, wish: &Wish, free: &mut usize) -> Outcome {
        let Wish { to, reason, forced, .. } = *wish;
        let since = self.since.entry(instance.id.clone()).or_insert((to, now));
        if since.0 != to {
            *since = (to, now);
        }
        let settled = now.saturating_sub(since.1) >= self.settings.settle;
        let wait = |until| Outcome::Wait { to, reason, until };
        if !forced && instance.here_for < self.settings.stay {
            return wait(Until::Stayed);
        }
        if !forced && !settled {
            return wait(Until::Settled);
        }
        if *free == 0 {
            return wait(Until::OthersDone);
        }
        *free -= 1;
        Outcome::Move { to, reason, dry_run: self.settings.mode != Mode::Enabled }
    }

    /// Every other cloudlet, the best first.
    fn consider(&self, instance: &Instance, situation: &Situation) -> Vec<Considered> {
        let threshold = self.threshold(instance, self.stays(instance, situation));
        let mut all: Vec<Considered> =
            situation.others.iter().map(|other| self.weigh(instance, situation, other, threshold)).collect();
        all.sort_by(|one, two| {
            let key = |one: &Considered| (one.unfit.is_none(), one.gain_s);
            key(two).partial_cmp(&key(one)).unwrap_or(std::cmp::Ordering::Equal).then(one.node.cmp(&two.node))
        });
        all
    }

    fn speed_here(situation: &Situation) -> f64 {
        speed(situation.here.cpu_wanted_millis, situation.here.cpu_total_millis)
    }

    /// What it is worth to stay, seconds.
    fn stays(&self, instance: &Instance, situation: &Situation) -> f64 {
        let ends = Ends::here(situation, &self.settings);
        let horizon = self.settings.horizon;
        served(instance, &situation.reaching_here(), ends, Duration::ZERO, horizon)
            * Self::speed_here(situation)
    }

    /// Least gain for which it moves, seconds.
    fn threshold(&self, instance: &Instance, stays: f64) -> f64 {
        let lately = instance.moves.iter().filter(|ago| **ago < self.settings.remember).count();
        let doubled = 2_f64.powi(i32::try_from(lately).unwrap_or(i32::MAX).min(64));
        (self.settings.least_gain.as_secs_f64() + self.settings.margin * stays) * doubled
    }

    fn unfit(&self, instance: &Instance, situation: &Situation, other: &Other) -> Option<Unfit> {
        let site = &other.site;
        let forced = Self::forced(situation).is_some();
        match instance.costs.get(&site.node) {
            _ if site.draining => Some(Unfit::Draining),
            _ if site.memory_free_bytes < instance.memory_bytes => Some(Unfit::Memory),
            None => Some(Unfit::NoPlan),
            Some(cost) if !cost.feasible => Some(Unfit::TooBusy),
            _ if !forced && power_ends(site.power, &self.settings) == Some(Duration::ZERO) => {
                Some(Unfit::PowerLow)
            }
            _ => None,
        }
    }

    fn weigh(&self, instance: &Instance, situation: &Situation, other: &Other, threshold: f64) -> Considered {
        let site = &other.site;
        let unfit = self.unfit(instance, situation, other);
        let cost = instance.costs.get(&site.node).filter(|_| unfit.is_none());
        let Some(Cost { total, downtime, .. }) = cost.copied() else {
            let (node, name) = (site.node, site.name.clone());
            return Considered { node, name, unfit, gain_s: 0.0, terms: Vec::new() };
        };
        let horizon = self.settings.horizon;
        let (here, there) = (situation.reaching_here(), situation.reaching(other));
        let arrived = total.min(horizon);
        let left = Ends::here(situation, &self.settings);
        let after = served(instance, &here, left, arrived, horizon) * Self::speed_here(situation);
        let wanted = site.cpu_wanted_millis.saturating_add(instance.cpu_millis);
        let speed = speed(wanted, site.cpu_total_millis);
        let ends = Ends::of(site, &self.settings);
        let there = served(instance, &there, ends, arrived, horizon) * speed;
        // Whoever is cut off in the middle goes on where it was, and has lost the time of the link.
        let in_time = situation.shutdown.is_none_or(|end| total <= end);
        let arrives = if in_time { other.contact.chance(total) } else { 0.0 };
        let (still, link) = (downtime.as_secs_f64(), total.as_secs_f64() * LINK_TIME);
        let gain_s = arrives * (there - after - still) - link;
        let last = other.contact.expected().is_some_and(|expected| expected < LINK_ENDS_SOON);
        let threshold = if last { threshold * LAST_CHANCE } else { threshold };
        let terms = [
            ("value-there", there),
            ("value-here", after),
            ("arrives", arrives),
            ("downtime", still),
            ("link-time", link),
            ("threshold", threshold),
        ];
        let terms = terms.map(|(name, value)| Term { name, value }).to_vec();
        Considered { node: site.node, name: site.name.clone(), unfit: None, gain_s, terms }
    }

    fn forced(situation: &Situation) -> Option<Reason> {
        match situation.shutdown {
            Some(_) => Some(Reason::Shutdown),
            None if situation.here.draining => Some(Reason::Drain),
            None => None,
        }
    }

    /// Where the instance should go, if anywhere.
    fn wish(
        &self,
        place: usize,
        instance: &Instance,
        situation: &Situation,
        considered: &[Considered],
    ) -> Option<Wish> {
        let forced = Self::forced(situation);
        let term =
            |one: &Considered, name| one.terms.iter().find(|term| term.name == name).map(|term| term.value);
        let worth = |one: &&Considered| {
            let is_worth = match forced {
                // What stays is stopped: anywhere is better, however busy, if it gets there.
                Some(_) => term(one, "arrives").is_some_and(|chance| chance > 0.0),
                None => one.gain_s > term(one, "threshold").unwrap_or(f64::INFINITY),
            };
            one.unfit.is_none() && is_worth
        };
        let best = considered.iter().filter(|_| !instance.pinned).find(worth)?;
        let usual = self.threshold(instance, self.stays(instance, situation));
        let reason = match forced {
            Some(reason) => reason,
            // It would not have been enough without the link's end.
            None if best.gain_s <= usual => Reason::LinkEnds,
            None => self.reason(instance, situation),
        };
        Some(Wish { place, to: best.node, reason, forced: forced.is_some(), gain_s: best.gain_s })
    }

    /// What takes most of the service here.
    fn reason(&self, instance: &Instance, situation: &Situation) -> Reason {
        let ends = Ends::here(situation, &self.settings);
        let speed = Self::speed_here(situation);
        let (users, power, load) =
            losses(instance, &situation.reaching_here(), ends, speed, self.settings.horizon);
        match () {
            () if power >= users && power >= load => Reason::PowerLow,
            () if users >= load => Reason::UserLeaves,
            () => Reason::LoadBalance,
        }
    }
}

impl Situation {
    /// Users reach this cloudlet also through others.
    fn reaching_here(&self) -> Reaching<'_> {
        let through = self.others.iter().map(|other| (&other.site, &other.contact)).collect();
        Reaching { site: &self.here, through }
    }

    /// Users reach another cloudlet also through this one.
    fn reaching<'a>(&'a self, other: &'a Other) -> Reaching<'a> {
        Reaching { site: &other.site, through: vec![(&self.here, &other.contact)] }
    }

    /// Counts an instance as moved.
    fn take(&mut self, instance: &Instance, to: NodeId) {
        self.here.cpu_wanted_millis = self.here.cpu_wanted_millis.saturating_sub(instance.cpu_millis);
        if let Some(other) = self.others.iter_mut().find(|other| other.site.node == to) {
            let site = &mut other.site;
            site.cpu_wanted_millis = site.cpu_wanted_millis.saturating_add(instance.cpu_millis);
            site.memory_free_bytes = site.memory_free_bytes.saturating_sub(instance.memory_bytes);
        }
    }
}
