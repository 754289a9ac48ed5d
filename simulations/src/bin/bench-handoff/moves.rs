//! One move.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use serde::Serialize;
use simulations::lab::Host;

use super::arguments::{Arguments, Workload};
use super::demo_support::now;
use super::fleet::{CLOUDLETS, Fleet};
use super::process::Taken;
use super::split::{Logs, Split};
use super::{client, machine};

/// What one move took.
#[derive(Debug, Clone, Serialize)]
pub struct Move {
    pub from: &'static str,
    /// From the order until the source knows that it runs there.
    pub total_ms: u64,
    /// From the word to stand still until the source knows that it runs there.
    pub downtime_ms: u64,
    /// The longest that a client waited for an answer about the service's health; in the last move of a row.
    pub client_ms: Option<u64>,
    /// IP bytes between the cloudlets, both ways, from the order to the end.
    pub wire_bytes: u64,
    /// What the source gave to the link, before encryption and transport.
    pub sent_bytes: u64,
    pub attempts: u64,
    /// Processor time of each daemon over the time of the move: 1.0 is one core.
    pub source_cores: f64,
    pub destination_cores: f64,
    /// Highest memory of each daemon above what it had before, bytes.
    pub source_memory_bytes: u64,
    pub destination_memory_bytes: u64,
    pub split: Split,
    pub load: f64,
}

/// What was asked beside it.
struct Beside {
    heard: u32,
    longest_ms: Option<u64>,
}

/// Moves the VM to the other cloudlet while it does its work.
pub fn one(
    fleet: &Fleet,
    arguments: &Arguments,
    workload: Workload,
    is_probed: bool,
) -> anyhow::Result<Move> {
    let owner = fleet.owner()?;
    // Caches as after any other use; and what the last move left is over.
    client::recognise(fleet.hand()?, fleet.address)?;
    let (host, to) = (fleet.hand()?, fleet.address);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| beside((host, to), workload, is_probed, &stop));
        std::thread::sleep(arguments.work());
        let moved = measure(fleet, owner);
        stop.store(true, Ordering::Relaxed);
        let asked = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let mut moved = moved?;
        ensure!(workload == Workload::SpeechIdle || asked.heard > 0, "nothing was recognised meanwhile");
        moved.client_ms = asked.longest_ms;
        ensure!(fleet.owner()? != owner, "the instance is where it was");
        // It is the same service, with all that it knows.
        client::recognise(fleet.hand()?, fleet.address)?;
        Ok(moved)
    })
}

fn beside(
    (host, to): (Host<'_>, SocketAddr),
    workload: Workload,
    is_probed: bool,
    stop: &AtomicBool,
) -> anyhow::Result<Beside> {
    std::thread::scope(|scope| {
        let probing = is_probed.then(|| scope.spawn(|| client::probe(host, to, stop)));
        let heard = match workload {
            Workload::SpeechIdle => 0,
            Workload::Speech => client::recognise_on(host, to, stop)?,
        };
        let longest =
            probing.map(|probing| probing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        Ok(Beside { heard, longest_ms: longest.transpose()?.map(|longest| longest.as_millis() as u64) })
    })
}

fn measure(fleet: &Fleet, owner: usize) -> anyhow::Result<Move> {
    let other = 1 - owner;
    let (source, destination) = (fleet.daemons[owner], fleet.daemons[other]);
    let before = (source.begin()?, destination.begin()?, fleet.wire_bytes()?);
    let logs = Logs::from_now([&fleet.logs[owner], &fleet.logs[other]])?;
    let begun = now();
    let said = fleet.cloudlets[owner].ask(&["handoff", &fleet.vm, "--to", CLOUDLETS[other]])?;
    let took = begun.elapsed().as_secs_f64();
    let after = (source.end()?, destination.end()?, fleet.wire_bytes()?);
    let number = |name: &str| said[name].as_u64().with_context(|| format!("no {name} in {said}"));
    let cores = |before: Taken, after: Taken| (after.cpu - before.cpu).as_secs_f64() / took;
    let memory = |before: Taken, after: Taken| after.memory_bytes.saturating_sub(before.memory_bytes);
    Ok(Move {
        from: CLOUDLETS[owner],
        total_ms: number("total_ms")?,
        downtime_ms: number("downtime_ms")?,
        client_ms: None,
        wire_bytes: after.2 - before.2,
        sent_bytes: number("sent_bytes")?,
        attempts: number("attempts")?,
        source_cores: cores(before.0, after.0),
        destination_cores: cores(before.1, after.1),
        source_memory_bytes: memory(before.0, after.0),
        destination_memory_bytes: memory(before.1, after.1),
        split: logs.split()?,
        load: machine::load(),
    })
}
