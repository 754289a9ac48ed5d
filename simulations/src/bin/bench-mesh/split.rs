//! A long split into two halves, changes on both sides, and the time until all is one again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::clock::{now, pass, seconds};
use crate::fleet::{Fleet, Node};
use crate::report::Split;
use crate::stages;
use crate::system::{Radio, System};

/// Longest time that merging may take before it counts as failed.
const MERGE_LIMIT: Duration = Duration::from_secs(300);
/// Longest time that a half may take to see that the other has gone: a crash's, and more.
const GONE_LIMIT: Duration = Duration::from_secs(120);

/// All systems side by side, each in a lab of its own.
pub fn all(arguments: &Arguments) -> anyhow::Result<Vec<Split>> {
    std::thread::scope(|scope| {
        let systems = arguments.split_systems();
        let threads: Vec<_> =
            systems.into_iter().map(|system| scope.spawn(move || split(arguments, system))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn split(arguments: &Arguments, system: System) -> anyhow::Result<Split> {
    let count = usize::from(arguments.split_nodes);
    let name = format!("split-{}", system.slug());
    let started = now();
    let mut fleet = Fleet::start(system, Radio::Full, count, &arguments.node, &name)?;
    if stages::join(&fleet, started)?.is_none() {
        anyhow::bail!("{} did not join before the split", system.title());
    }
    pass(arguments.settle());
    let hosts: Vec<String> = (0..count).map(|index| fleet.host_name(index)).collect();
    let is_first = |index: usize| index.is_multiple_of(2);
    let half = |first: bool| (0..count).filter(move |index| is_first(*index) == first);
    let names = |first: bool| half(first).map(|index| hosts[index].as_str()).collect::<Vec<_>>();
    fleet.lab.split(&[names(true), names(false)])?;
    let began = now();
    println!("split of {count} {}: begins, for {} s", system.title(), arguments.split_s);
    let sees_half =
        |nodes: &[Node]| (0..count).all(|index| nodes[index].sees() == half(is_first(index)).count());
    let end = Duration::from_secs(arguments.split_s);
    fleet.wait(end.min(GONE_LIMIT), sees_half);
    let mut expected = BTreeMap::new();
    let change = |fleet: &mut Fleet, expected: &mut BTreeMap<String, String>, index: usize| {
        if system != System::Cloudlets {
            return anyhow::Ok(());
        }
        let tag = format!("split-{index}");
        fleet.change(index, &tag, true)?;
        expected.extend(fleet.nodes()[index].called.clone().map(|called| (called, tag)));
        Ok(())
    };
    // One of each half early, and one of each shortly before the end.
    change(&mut fleet, &mut expected, 0)?;
    change(&mut fleet, &mut expected, 1)?;
    let before = fleet.lab.counters()?;
    pass(end.saturating_sub(began.elapsed() + Duration::from_secs(10)));
    let idle = stages::sent(&fleet, &fleet.lab.counters()?.since(&before));
    change(&mut fleet, &mut expected, 2)?;
    change(&mut fleet, &mut expected, 3)?;
    pass(end.saturating_sub(began.elapsed()));
    let halves_were_right = sees_half(&fleet.nodes());
    let healed = now();
    fleet.lab.heal_all()?;
    let split_s = seconds(began, healed);
    let (first_s, converged_s) = merge(&fleet, &expected, healed);
    fleet.check()?;
    println!("split of {count} {}: converged {converged_s:?} s after contact", system.title());
    let changes = expected.len();
    Ok(Split {
        system: system.title(),
        nodes: count,
        split_s,
        changes,
        idle,
        halves_were_right,
        first_s,
        converged_s,
    })
}

/// Seconds until somebody saw somebody of the other half, and until everybody saw the newest of everybody.
fn merge(fleet: &Fleet, expected: &BTreeMap<String, String>, healed: Instant) -> (Option<f64>, Option<f64>) {
    let count = fleet.len();
    let before: Vec<usize> = fleet.nodes().iter().map(Node::sees).collect();
    let sees_more = |nodes: &[Node]| nodes.iter().zip(&before).any(|(node, before)| node.sees() > *before);
    let first = fleet.wait(MERGE_LIMIT, sees_more).then(|| seconds(healed, now()));
    let knows = |node: &Node, (called, tag): (&String, &String)| {
        node.called.as_ref() == Some(called) || node.here.get(called).and_then(Option::as_ref) == Some(tag)
    };
    let is_complete = |node: &Node| node.sees() == count && expected.iter().all(|entry| knows(node, entry));
    let left = MERGE_LIMIT.saturating_sub(healed.elapsed());
    let converged = fleet.wait(left, |nodes| nodes.iter().all(is_complete)).then(|| seconds(healed, now()));
    (first, converged)
}
