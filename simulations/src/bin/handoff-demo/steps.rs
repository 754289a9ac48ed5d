//! What is shown. A new step is a function here and a line in [`all`].

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use serde_json::Value;

use super::VEHICLES;
use super::demo_support::cloudlet::Cloudlet;
use super::demo_support::{ASK_EVERY, LIMIT, now};
use super::stage::{Moved, Stage};

/// How long is looked at the service while nothing moves, to have something to compare with.
const STILL: Duration = Duration::from_secs(5);
/// How often the link is cut in one move.
const CUTS: u32 = 3;
/// How late the vehicles may hear what they tell each other while VMs move: what the mesh promises to the last of 30 when none does.
const GOSSIP_LIMIT: Duration = Duration::from_secs(2);
/// The slow link.
const SLOW: &str = "2M";
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
    stage.step("moved over a link that is five times slower", over_a_slow_link)?;
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

/// The same over a slow link, and what the vehicles tell each other meanwhile is not late.
fn over_a_slow_link(stage: &mut Stage<'_>) -> anyhow::Result<Option<Moved>> {
    let [here, there] = stage.places()?;
    stage.set_rate(SLOW)?;
    // The one that serves would begin to move it.
    let alone = heard(there, here, "on")?;
    heard(there, here, "off")?;
    let before = stage.wire_bytes()?;
    let mut moving = moving(here, stage.instance, there, "normal")?;
    passed(stage, &mut moving, before)?;
    let meanwhile = heard(here, there, "on")?;
    ensure!(moving.try_wait()?.is_none(), "the move had ended before the word was heard");
    let moved = ended(moving)?;
    here.ask(&["drain", "off"])?;
    stage.set_rate(super::RATE)?;
    eprintln!(
        "    that it takes nobody new was known at the other vehicle after {meanwhile:.2?}, and {alone:.2?} when nothing moves"
    );
    ensure!(meanwhile < GOSSIP_LIMIT, "what the vehicles tell each other was late: {meanwhile:?}");
    is_at(stage, there.name())?;
    Ok(Some(moved))
}

/// How long it takes until the other vehicle knows that this one takes nobody new, or does again.
fn heard(here: &Cloudlet, there: &Cloudlet, drain: &str) -> anyhow::Result<Duration> {
    let begin = now();
    here.ask(&["drain", drain])?;
    let knows = |peers: &Value| {
        let mut peers = peers.as_array()?.iter();
        peers.find(|peer| peer["name"] == here.name())?["standing"]["draining"].as_bool()
    };
    while knows(&there.ask(&["mesh"])?) != Some(drain == "on") {
        ensure!(
            begin.elapsed() < LIMIT,
            "{} does not know that drain is {drain} at {}",
            there.name(),
            here.name()
        );
        std::thread::sleep(WATCH_EVERY);
    }
    Ok(begin.elapsed())
}

/// `cloudlet handoff`, under way.
fn moving(here: &Cloudlet, vm: &str, there: &Cloudlet, priority: &str) -> anyhow::Result<Child> {
    let mut command = here.command();
    command.args(["handoff", vm, "--to", there.name(), "--priority", priority, "--json"]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// What came of it.
fn ended(moving: Child) -> anyhow::Result<Moved> {
    let done = moving.wait_with_output()?;
    let complained = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "'cloudlet handoff' ended with {}: {}", done.status, complained.trim());
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// The same, while the link is cut again and again, each time until both vehicles know.
fn through_cuts(stage: &mut Stage<'_>) -> anyhow::Result<Option<Moved>> {
    let [here, there] = stage.places()?;
    let mut moving = moving(here, stage.instance, there, "normal")?;
    for cut in 1..=CUTS {
        passed(stage, &mut moving, stage.wire_bytes()?).with_context(|| format!("before cut {cut}"))?;
        stage.lab.cut(VEHICLES[0], VEHICLES[1])?;
        stage.vehicles.iter().try_for_each(|vehicle| vehicle.wait_until(|seen| seen.there == 1, LIMIT))?;
        stage.lab.heal(VEHICLES[0], VEHICLES[1])?;
        eprintln!("    cut {cut} is over");
    }
    let moved = ended(moving)?;
    is_at(stage, there.name())?;
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

/// Waits until more has passed between the vehicles than had before.
fn passed(stage: &Stage<'_>, moving: &mut Child, before: u64) -> anyhow::Result<()> {
    let begin = now();
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
