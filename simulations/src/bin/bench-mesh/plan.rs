//! The phases, one after another: in each, a lab for every system, all at once.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::arguments::Arguments;
use crate::clock::{now, pass};
use crate::fleet::Fleet;
use crate::machine;
use crate::report::{Changes, Idle, Phase};
use crate::stages::{self, Collected};
use crate::system::{Radio, System};

/// Runs them; shows what there is after each, so that a run that is cut short was not for nothing.
pub fn all(
    arguments: &Arguments,
    systems: &[System],
    show: impl Fn(&[Phase]) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Phase>> {
    let mut phases = Vec::new();
    for radio in &arguments.radios {
        for size in &arguments.sizes {
            phases.extend(phase(arguments, systems, *radio, usize::from(*size))?);
            show(&phases)?;
        }
    }
    Ok(phases)
}

/// Runs `work` for all of `items` at once.
fn at_once<T: Send, R: Send>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// What was collected of one system.
struct Row {
    fleet: Fleet,
    joined_s: Option<f64>,
    bytes_before_idle: f64,
    idle: Idle,
    held_back: Collected,
    at_once: Collected,
    bytes_per_change: f64,
    rng: ChaCha8Rng,
}

fn phase(arguments: &Arguments, systems: &[System], radio: Radio, size: usize) -> anyhow::Result<Vec<Phase>> {
    println!("{size} nodes, {radio} radio: joining");
    // Labs are made one by one; only the nodes in them join side by side.
    let started = systems.iter().map(|system| {
        let name = format!("bench-{radio}-{}", system.slug());
        let at = now();
        Ok((Fleet::start(*system, radio, size, &arguments.node, &name)?, at))
    });
    let fleets = started.collect::<anyhow::Result<Vec<_>>>()?;
    let joined = at_once(&fleets, |(fleet, at)| stages::join(fleet, *at))?;
    for ((fleet, _), joined) in fleets.iter().zip(&joined) {
        let said = joined.map_or("NOT joined".to_owned(), |s| format!("joined in {s:.1} s"));
        println!("  {}: {said}", fleet.system.title());
    }
    pass(arguments.settle());
    let idle = at_once(fleets, |(mut fleet, _)| {
        let until_now = fleet.lab.counters()?.sent().ip_bytes as f64 / size as f64;
        let idle = stages::idle(&mut fleet, arguments.idle())?;
        Ok((fleet, until_now, idle))
    })?;
    let idle_load = machine::load();
    let rows = idle.into_iter().zip(joined).map(|((fleet, bytes_before_idle, idle), joined_s)| {
        println!(
            "  {}: idle {:.1} B/s per node ({:.1} to {:.1})",
            fleet.system.title(),
            idle.bytes_per_s_mean,
            idle.bytes_per_s_least,
            idle.bytes_per_s_most
        );
        Row {
            fleet,
            joined_s,
            bytes_before_idle,
            idle,
            held_back: Collected::default(),
            at_once: Collected::default(),
            bytes_per_change: 0.0,
            rng: ChaCha8Rng::seed_from_u64(arguments.seed),
        }
    });
    let mut rows: Vec<Row> = rows.collect();
    changes(arguments, &mut rows)?;
    let changes_load = machine::load();
    let done = at_once(rows, |mut row| {
        let crashes = stages::crashes(&mut row.fleet, &mut row.rng, arguments.crashes)?;
        Ok((row, crashes))
    })?;
    let phases = done.into_iter().map(|(row, crashes)| {
        let hosts = row.fleet.lab.hosts();
        let overruns = hosts.map(|host| host.overrun_frames()).sum::<Result<u64, _>>()?;
        let is_serf = row.fleet.system != System::Cloudlets;
        let phase = Phase {
            system: row.fleet.system.title(),
            nodes: size,
            radio: radio.to_string(),
            joined_s: row.joined_s,
            bytes_before_idle: row.bytes_before_idle,
            idle: row.idle,
            changes: row.held_back.changes(),
            changes_at_once: is_serf.then(|| row.at_once.changes()),
            bytes_per_change: row.bytes_per_change,
            crashes,
            load: [idle_load, changes_load],
            lab_overrun_frames: overruns,
        };
        say(&phase);
        Ok(phase)
    });
    phases.collect()
}

/// Changes, one at a time in all labs.
fn changes(arguments: &Arguments, rows: &mut [Row]) -> anyhow::Result<()> {
    let before = rows.iter().map(|row| row.fleet.lab.counters()).collect::<Result<Vec<_>, _>>()?;
    for number in 0..arguments.changes {
        for row in &mut *rows {
            let change = stages::change(&mut row.fleet, &mut row.rng, &format!("c{number}"), true)?;
            row.held_back.add(change);
        }
        for row in rows.iter_mut().filter(|row| row.fleet.system != System::Cloudlets) {
            let change = stages::change(&mut row.fleet, &mut row.rng, &format!("d{number}"), false)?;
            row.at_once.add(change);
        }
    }
    for (row, before) in rows.iter_mut().zip(before) {
        let counted = row.fleet.lab.counters()?.since(&before);
        let idle = row.idle.bytes_per_s_mean * counted.at.as_secs_f64() * row.fleet.len() as f64;
        let kinds = if row.fleet.system == System::Cloudlets { 1 } else { 2 };
        let count = (arguments.changes * kinds).max(1) as f64;
        row.bytes_per_change = (counted.sent().ip_bytes as f64 - idle) / count;
    }
    Ok(())
}

fn say(phase: &Phase) {
    let time = |time: Option<f64>| time.map_or("-".to_owned(), |s| format!("{s:.2} s"));
    let told = |what: &str, changes: &Changes| {
        let Changes { seconds, missed, .. } = changes;
        println!(
            "  {}: {what} median {}, p95 {}, last {}, missed {missed}",
            phase.system,
            time(seconds.median),
            time(seconds.p95),
            time(seconds.last)
        );
    };
    told("change", &phase.changes);
    if let Some(changes) = &phase.changes_at_once {
        told("change, not held back,", changes);
    }
    println!(
        "  {}: crash known to neighbours after {}, to everybody after {} (last), missed {}",
        phase.system,
        time(phase.crashes.neighbours.as_ref().and_then(|it| it.last)),
        time(phase.crashes.everybody.last),
        phase.crashes.missed
    );
}
