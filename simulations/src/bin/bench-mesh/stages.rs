//! What is done with one lab: join, idle, change, crash.

use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use simulations::lab::Counters;
use simulations::stats::Summary;

use crate::clock::{now, pass, seconds};
use crate::fleet::Fleet;
use crate::report::{Changes, Crashes, Idle, Spread};
use crate::system::System;

/// Longest time that joining may take. Narrow links with loss need most of it.
const JOIN_LIMIT: Duration = Duration::from_secs(120);
/// Longest time that one change may take. Who has not heard by then is counted as missed.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);
/// Longest time that one crash may take to be known; serf's WAN profile needs about 50 s.
const CRASH_LIMIT: Duration = Duration::from_secs(90);
/// No further crash after so long.
const CRASHES_END: Duration = Duration::from_secs(40);

/// Waits until everybody sees everybody; how long it took since `started`. `None`: it did not happen.
pub fn join(fleet: &Fleet, started: Instant) -> anyhow::Result<Option<f64>> {
    let count = fleet.len();
    let complete = fleet.wait(JOIN_LIMIT, |nodes| nodes.iter().all(|node| node.sees() == count));
    let joined = complete.then(|| seconds(started, now()));
    fleet.check()?;
    Ok(joined)
}

/// What the nodes send when nothing happens, from now on for `window`.
pub fn idle(fleet: &mut Fleet, window: Duration) -> anyhow::Result<Idle> {
    let before = (fleet.lab.counters()?, alarms(fleet));
    pass(window);
    let counted = fleet.lab.counters()?.since(&before.0);
    let after = alarms(fleet);
    fleet.check()?;
    let mut idle = sent(fleet, &counted);
    idle.false_alarms = after.0 - before.1.0;
    idle.links_given_up = after.1 - before.1.1;
    idle.links_per_node = links(fleet)?;
    Ok(idle)
}

/// How often nodes said until now that somebody had gone, and that they gave up a silent link.
fn alarms(fleet: &Fleet) -> (usize, usize) {
    fleet.nodes().iter().fold((0, 0), |(gone, links), node| (gone + node.alarms, links + node.silences))
}

/// What was sent by each living node.
pub fn sent(fleet: &Fleet, counted: &Counters) -> Idle {
    let window_s = counted.at.as_secs_f64();
    let names: Vec<String> = fleet.alive().into_iter().map(|index| fleet.host_name(index)).collect();
    let hosts: Vec<_> = names.iter().filter_map(|name| counted.host(name)).collect();
    let mut rates: Vec<f64> = hosts.iter().map(|host| host.sent.ip_bytes as f64 / window_s).collect();
    rates.sort_by(f64::total_cmp);
    let per_node = |sum: u64| sum as f64 / window_s / hosts.len() as f64;
    Idle {
        window_s,
        bytes_per_s_mean: per_node(hosts.iter().map(|host| host.sent.ip_bytes).sum()),
        bytes_per_s_least: rates.first().copied().unwrap_or(f64::NAN),
        bytes_per_s_most: rates.last().copied().unwrap_or(f64::NAN),
        group_bytes_per_s_mean: per_node(hosts.iter().map(|host| host.sent_group.ip_bytes).sum()),
        frames_per_s_mean: per_node(hosts.iter().map(|host| host.sent.frames).sum()),
        links_per_node: None,
        false_alarms: 0,
        links_given_up: 0,
    }
}

/// Mean number of links, if the system tells.
fn links(fleet: &mut Fleet) -> anyhow::Result<Option<f64>> {
    if fleet.system != System::Cloudlets {
        return Ok(None);
    }
    let alive = fleet.alive();
    for index in &alive {
        fleet.tell(*index, "status")?;
    }
    fleet.wait(Duration::from_secs(5), |nodes| alive.iter().all(|index| nodes[*index].links.is_some()));
    let links: Vec<usize> = fleet.nodes().iter().filter_map(|node| node.links).collect();
    Ok((!links.is_empty()).then(|| links.iter().sum::<usize>() as f64 / links.len() as f64))
}

/// One change: how long each of the others took to know of it, seconds, and how many did not.
pub fn change(
    fleet: &mut Fleet,
    rng: &mut ChaCha8Rng,
    tag: &str,
    holds_back: bool,
) -> anyhow::Result<(Vec<f64>, usize)> {
    let alive = fleet.alive();
    let Some(origin) = alive.choose(rng).copied() else { anyhow::bail!("nobody is alive") };
    let began = fleet.change(origin, tag, holds_back)?;
    let others: Vec<usize> = alive.into_iter().filter(|index| *index != origin).collect();
    fleet.wait(CHANGE_LIMIT, |nodes| others.iter().all(|index| nodes[*index].heard.contains_key(tag)));
    fleet.check()?;
    let nodes = fleet.nodes();
    let times: Vec<f64> = others
        .iter()
        .filter_map(|index| nodes[*index].heard.get(tag))
        .map(|at| seconds(began, *at))
        .collect();
    let missed = others.len() - times.len();
    Ok((times, missed))
}

/// Collects changes of one lab.
#[derive(Default)]
pub struct Collected {
    times: Vec<f64>,
    lasts: Vec<f64>,
    missed: usize,
}

impl Collected {
    pub fn add(&mut self, (times, missed): (Vec<f64>, usize)) {
        self.lasts.extend(times.iter().copied().max_by(f64::total_cmp));
        self.times.extend(times);
        self.missed += missed;
    }

    pub fn changes(&self) -> Changes {
        Changes {
            seconds: Spread::of(&self.times),
            last_of_each: Spread::of(&self.lasts),
            missed: self.missed,
            lasts: self.lasts.clone(),
        }
    }
}

/// Kills nodes one after another, never the one that the others joined by.
pub fn crashes(fleet: &mut Fleet, rng: &mut ChaCha8Rng, most: usize) -> anyhow::Result<Crashes> {
    let began = now();
    let (mut neighbours, mut everybody, mut missed) = (Vec::new(), Vec::new(), 0);
    let mut count = 0;
    while count < most && began.elapsed() < CRASHES_END {
        let candidates: Vec<usize> = fleet.alive().into_iter().filter(|index| *index != 0).collect();
        // Two that are left cannot tell much of a third.
        let Some(victim) = candidates.choose(rng).copied().filter(|_| candidates.len() > 2) else { break };
        let called = fleet.nodes()[victim].called.clone().unwrap_or_default();
        let at = fleet.kill(victim)?;
        count += 1;
        let alive = fleet.alive();
        let is_after = |time: Option<&Instant>| time.is_some_and(|time| *time >= at);
        fleet.wait(CRASH_LIMIT, |nodes| alive.iter().all(|index| is_after(nodes[*index].gone.get(&called))));
        fleet.check()?;
        let nodes = fleet.nodes();
        let since = |time: &Instant| (*time >= at).then(|| seconds(at, *time));
        let known: Vec<f64> =
            alive.iter().filter_map(|index| nodes[*index].gone.get(&called)).filter_map(since).collect();
        missed += alive.len() - known.len();
        everybody.extend(known);
        neighbours
            .extend(alive.iter().filter_map(|index| nodes[*index].parted.get(&called)).filter_map(since));
    }
    let neighbours = (!neighbours.is_empty()).then(|| Spread::of(&neighbours));
    Ok(Crashes { count, neighbours, everybody: Spread::of(&everybody), missed })
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let Summary { count, median, p95, max } = Summary::of(values);
        Self { count, median, p95, last: max }
    }
}
