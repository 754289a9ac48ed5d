//! `cloudlet handoff`: the running cloudlet sends an instance to another one; this side shows how far it is.

use std::time::Duration;

use anyhow::anyhow;
use handheld::api::{self, Code, HandoffState};
use handheld::{Client, Error};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::args::{Global, Handoff};
use super::output::{Failure, Output, bytes};
use super::progress::Progress;
use super::{plan, vm};

/// How often it is asked how far it is. A guess: what somebody who looks at a bar notices.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How often in a row the cloudlet may not answer: it may be starting again, and goes on with the handoff then.
const MAX_SILENCES: u32 = 60;
/// Pause after a question that was not answered.
const SILENCE_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn run(wanted: Handoff, global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let client = vm::client(&config, wanted.api.as_deref())?;
    let vm = wanted.vm;
    vm::block_on(async {
        match wanted.to {
            Some(to) if wanted.plan => plan::run(&client, vm, &to, output).await,
            Some(to) => hand_off(&client, vm, &to, wanted.priority.into(), output).await,
            // The command line has one or the other.
            None => force(&client, vm, output).await,
        }
    })?
}

async fn hand_off(
    client: &Client,
    vm: Uuid,
    to: &str,
    priority: api::Priority,
    output: Output,
) -> Result<(), Failure> {
    // Heard from the start, so that an interrupt never leaves it running unasked.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut handoff = client.hand_off_with(vm, to, priority).await.map_err(failure)?;
    let progress = output.progress();
    let ended = tokio::select! {
        ended = follow(client, &mut handoff, to, &progress) => ended,
        _ = interrupt.recv() => Err(interrupted(client, vm).await),
        _ = terminate.recv() => Err(interrupted(client, vm).await),
    };
    ended?;
    progress.done();
    report(&handoff, to, output)
}

/// Sends home what is at home elsewhere.
pub(super) fn reintegrate(api: Option<&str>, global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let client = vm::client(&config, api)?;
    vm::block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut all = client.reintegrate().await.map_err(failure)?;
        let vms: Vec<Uuid> = all.iter().map(|handoff| handoff.instance).collect();
        let progress = output.progress();
        let following = async {
            let mut ended = Ok(());
            for handoff in &mut all {
                let to = handoff.to.clone();
                // One that fails keeps no other from going.
                ended = follow(&client, handoff, &to, &progress).await.and(ended);
            }
            ended
        };
        let ended = tokio::select! {
            ended = following => ended,
            _ = interrupt.recv() => Err(all_interrupted(&client, &vms).await),
            _ = terminate.recv() => Err(all_interrupted(&client, &vms).await),
        };
        ended?;
        progress.done();
        let line = |handoff: &api::Handoff| format!("{} serves at {}\n", handoff.instance, handoff.to);
        let text = || match all.is_empty() {
            true => "every instance here is at home\n".to_owned(),
            false => all.iter().map(line).collect(),
        };
        output.result(text, || json!(all))
    })?
}

async fn all_interrupted(client: &Client, vms: &[Uuid]) -> Failure {
    for vm in vms {
        // Those that are there already cannot be stopped, and need not.
        let _ = client.cancel_handoff(*vm).await;
    }
    Failure::failed(anyhow!("interrupted; what has not left serves on here"), "'cloudlet vm list' shows it")
}

/// The operator vouches that the destination is gone.
async fn force(client: &Client, vm: Uuid, output: Output) -> Result<(), Failure> {
    let handoff = client.force_handoff(vm).await.map_err(failure)?;
    output.result(
        || format!("{vm} serves on here; should cloudlet {} come back, its copy is paused\n", handoff.to),
        || json!(handoff),
    )
}

/// Shows how far it is until it is there.
async fn follow(
    client: &Client,
    handoff: &mut api::Handoff,
    to: &str,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut told = String::new();
    let mut silences = 0;
    loop {
        let step = step(handoff, to);
        if step != told {
            progress.step(&step);
            told = step;
        }
        match handoff.state {
            HandoffState::Done => return Ok(()),
            HandoffState::Failed | HandoffState::Cancelled => return Err(failed(handoff)),
            HandoffState::Precopy => progress.bytes(handoff.scanned_bytes, handoff.memory_bytes),
            _ => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
        match client.handoff(handoff.instance).await {
            Ok(now) => (*handoff, silences) = (now, 0),
            Err(Error::Vanished { .. }) if silences < MAX_SILENCES => {
                silences += 1;
                told = String::new();
                progress.step("the cloudlet does not answer; waiting for it");
                tokio::time::sleep(SILENCE_PAUSE).await;
            }
            Err(error) => return Err(failure(error)),
        }
    }
}

fn step(handoff: &api::Handoff, to: &str) -> String {
    let reason = handoff.reason.as_deref().unwrap_or("no reason is given");
    match handoff.state {
        HandoffState::Offering => format!("asking {to}"),
        HandoffState::Precopy => format!("sending to {to}; it serves on here"),
        HandoffState::Frozen | HandoffState::Verifying => "sending the rest; it stands still".to_owned(),
        HandoffState::Committing => format!("handing it over to {to}"),
        HandoffState::Waiting => format!("waiting for {to}: {reason} (Ctrl-C ends that)"),
        HandoffState::Done => format!("it serves at {to}"),
        HandoffState::Failed | HandoffState::Cancelled => "it stays here".to_owned(),
    }
}

/// Ends it at the cloudlet as well.
async fn interrupted(client: &Client, vm: Uuid) -> Failure {
    let next = "the same command goes on where it was";
    match client.cancel_handoff(vm).await {
        Ok(handoff) => {
            let sent = bytes(handoff.sent_bytes);
            Failure::failed(
                anyhow!("interrupted; it serves on here, and the {sent} that were sent are kept there"),
                next,
            )
        }
        Err(error) => {
            let context = "interrupted, but the cloudlet could not be told and goes on with it";
            Failure::failed(anyhow::Error::new(error).context(context), next)
        }
    }
}

fn failed(handoff: &api::Handoff) -> Failure {
    let reason = handoff.reason.as_deref().unwrap_or("it was cancelled");
    let error = anyhow!("the instance was not handed over: {reason}");
    Failure::failed(
        error,
        "it serves on where it was; what was sent is kept there, so the same command goes on where it was",
    )
}

/// What the running cloudlet said no to.
pub(super) fn failure(error: Error) -> Failure {
    let next = match &error {
        Error::Refused { refusal, .. } => match refusal.problem.code {
            Code::UnknownInstance => "'cloudlet vm list' shows the instances",
            Code::UnknownPeer => "name it as 'cloudlet mesh' shows it",
            Code::NoMission => "join a mission ('cloudlet mission --help')",
            Code::NotReady => "'cloudlet vm list' and 'cloudlet placement' say how far it is",
            Code::NotAllowed => "run it at the cloudlet itself, or with a certificate that may operate",
            _ => return vm::failure(error),
        },
        _ => return vm::failure(error),
    };
    Failure::failed(error, next)
}

fn report(handoff: &api::Handoff, to: &str, output: Output) -> Result<(), Failure> {
    let text = || {
        let seconds = handoff.total_ms as f64 / 1000.0;
        let still = handoff.downtime_ms.map_or_else(String::new, |ms| format!(", stood still for {ms} ms"));
        let sent = bytes(handoff.sent_bytes);
        format!("{} serves at {to}: {sent} in {seconds:.1} s{still}\n", handoff.instance)
    };
    output.result(text, || json!(handoff))
}
