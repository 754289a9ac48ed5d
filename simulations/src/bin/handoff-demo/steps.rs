//! What is shown. A new step is a function here and a line in [`all`].

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::VEHICLES;
use super::demo_support::{ASK_EVERY, LIMIT, now};
use super::stage::{Moved, Stage};

/// How long is looked at the service while nothing moves, to have something to compare with.
const STILL: Duration = Duration::from_secs(5);
/// How often the link is cut in one move.
const CUTS: u32 = 3;
/// What passes between two cuts, bytes: a small part of the least that such a move sends, 0.7 MB.
const BETWEEN_CUTS: u64 = 100_000;
/// How often the counter is read while waiting for that.
const WATCH_EVERY: Duration = Duration::from_millis(2);

/// All of it, in order.
pub fn all(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.step("nothing moves", |_| {
        std::thread::sleep(STILL);
        Ok(None)
    })?;
    stage.step("moved by the operator", by_operator)?;
    stage.step("and back", by_operator)?;
    stage.step("moved through three cuts of the link", through_cuts)?;
    stage.step("moved by itself from a vehicle that takes nobody new", by_itself)?;
    stage.step("moved before its vehicle is switched off", before_the_end)?;
    Ok(())
}

/// `cloudlet handoff` to the other vehicle.
fn by_operator(stage: &mut Stage<'_>) -> anyhow::Result<Option<Moved>> {
    let [here, there] = stage.places()?;
    let moved = here.ask(&["handoff", stage.instance, "--to", there.name()])?;
    is_at(stage, there.name())?;
    Ok(Some(serde_json::from_value(moved)?))
}

/// The same, while the link is cut again and again, each time until both vehicles know.
fn through_cuts(stage: &mut Stage<'_>) -> anyhow::Result<Option<Moved>> {
    let [here, there] = stage.places()?;
    let mut command = here.command();
    command.args(["handoff", stage.instance, "--to", there.name(), "--json"]);
    let mut moving = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    for cut in 1..=CUTS {
        passed(stage, &mut moving).with_context(|| format!("before cut {cut}"))?;
        stage.lab.cut(VEHICLES[0], VEHICLES[1])?;
        stage.vehicles.iter().try_for_each(|vehicle| vehicle.wait_until(|seen| seen.there == 1, LIMIT))?;
        stage.lab.heal(VEHICLES[0], VEHICLES[1])?;
        eprintln!("    cut {cut} is over");
    }
    let done = moving.wait_with_output()?;
    let complained = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "'cloudlet handoff' ended with {}: {}", done.status, complained.trim());
    is_at(stage, there.name())?;
    let moved: Moved = serde_json::from_slice(&done.stdout)?;
    ensure!(moved.attempts > CUTS, "the cuts were not noticed: {moved:?}");
    Ok(Some(moved))
}

/// The policy has it leave a vehicle that is being emptied.
fn by_itself(stage: &mut Stage<'_>) -> anyhow::Result<Option<Moved>> {
    let [here, there] = stage.places()?;
    here.ask(&["drain", "on"])?;
    let begin = now();
    while stage.served_at()? != [number(stage, there.name())?] {
        ensure!(begin.elapsed() < LIMIT, "the service is still not at {}", there.name());
        std::thread::sleep(ASK_EVERY);
    }
    here.ask(&["drain", "off"])?;
    Ok(None)
}

/// SIGTERM: an orderly end sends it to the other vehicle first.
fn before_the_end(stage: &mut Stage<'_>) -> anyhow::Result<Option<Moved>> {
    let [here, there] = stage.places()?;
    let (number, there) = (number(stage, here.name())?, there.name().to_owned());
    stage.vehicles.remove(number).leave()?;
    is_at(stage, &there)?;
    Ok(None)
}

fn number(stage: &Stage<'_>, name: &str) -> anyhow::Result<usize> {
    stage.vehicles.iter().position(|one| one.name() == name).context("it is one of the vehicles")
}

/// Waits until more has passed between the vehicles.
fn passed(stage: &Stage<'_>, moving: &mut Child) -> anyhow::Result<()> {
    let (begin, before) = (now(), stage.wire_bytes()?);
    while stage.wire_bytes()? < before + BETWEEN_CUTS {
        if let Some(ended) = moving.try_wait()? {
            bail!("the move had ended, with {ended}");
        }
        ensure!(begin.elapsed() < LIMIT, "nothing passes between the vehicles");
        std::thread::sleep(WATCH_EVERY);
    }
    Ok(())
}

/// The service must be there, and there only.
fn is_at(stage: &Stage<'_>, name: &str) -> anyhow::Result<()> {
    let here = stage.served_at()?;
    ensure!(here == [number(stage, name)?], "the service is at {here:?} and not at {name} alone");
    Ok(())
}
