//! One move between cloudlets.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};

use super::air::CLOUDLETS;
use super::arguments::{Arguments, Workload};
use super::client::{self, Service};
use super::demo_support::now;
use super::fleet::Fleet;
use super::machine;
use super::process::Taken;
use super::report::{Daemons, Move};
use super::split::Logs;

/// Moves the VM to the other cloudlet while it does its work.
pub fn one(
    fleet: &Fleet<'_>,
    arguments: &Arguments,
    workload: Workload,
    is_probed: bool,
) -> anyhow::Result<Move> {
    let owner = fleet.owner()?;
    // The handheld knows by itself where it is.
    let service = Service::new(fleet.air.hand()?, [fleet.address; 2]);
    let begun = client::begin(&service, workload)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| client::beside(&service, workload, is_probed, &stop));
        std::thread::sleep(arguments.work());
        let moved = measure(fleet, owner);
        stop.store(true, Ordering::Relaxed);
        let asked = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let mut moved = moved?;
        moved.client_ms = asked.longest_ms;
        ensure!(fleet.owner()? != owner, "the instance is where it was");
        client::check(&service, workload, begun, &asked)?;
        Ok(moved)
    })
}

fn measure(fleet: &Fleet<'_>, owner: usize) -> anyhow::Result<Move> {
    let other = 1 - owner;
    let (source, destination) = (fleet.daemons[owner], fleet.daemons[other]);
    let before = (source.begin()?, destination.begin()?, fleet.air.wire_bytes(CLOUDLETS)?);
    let logs = Logs::from_now([&fleet.logs[owner], &fleet.logs[other]])?;
    let begun = now();
    let said = fleet.cloudlets[owner].ask(&["handoff", &fleet.vm, "--to", CLOUDLETS[other]])?;
    let took = begun.elapsed().as_secs_f64();
    let after = (source.end()?, destination.end()?, fleet.air.wire_bytes(CLOUDLETS)?);
    let number = |name: &str| said[name].as_u64().with_context(|| format!("no {name} in {said}"));
    let cores = |before: Taken, after: Taken| (after.cpu - before.cpu).as_secs_f64() / took;
    let memory = |before: Taken, after: Taken| after.memory_bytes.saturating_sub(before.memory_bytes);
    Ok(Move {
        from: CLOUDLETS[owner].to_owned(),
        total_ms: number("total_ms")?,
        downtime_ms: number("downtime_ms")?,
        client_ms: None,
        wire_bytes: after.2 - before.2,
        load: machine::load(),
        daemons: Some(Daemons {
            sent_bytes: number("sent_bytes")?,
            attempts: number("attempts")?,
            source_cores: cores(before.0, after.0),
            destination_cores: cores(before.1, after.1),
            source_memory_bytes: memory(before.0, after.0),
            destination_memory_bytes: memory(before.1, after.1),
            split: logs.split()?,
        }),
        qemu: None,
    })
}
