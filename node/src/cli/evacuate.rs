//! `cloudlet evacuate`: the running cloudlet sends all its instances away; this side shows how far that is.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;
use handheld::api::{Evacuate, Evacuation, EvacuationState, Fate, Leaving};
use handheld::{Client, Error};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::args::{self, Global};
use super::output::{Failure, Output, table};
use super::progress::Progress;
use super::vm;

/// How often it is asked how far it is. A guess: as for one handoff.
const ASK_EVERY: Duration = Duration::from_millis(300);

pub(super) fn run(wanted: &args::Evacuate, global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let client = vm::client(&config, wanted.api.as_deref())?;
    vm::block_on(async {
        // Heard from the start, so that an interrupt never leaves it running unasked.
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let ask = Evacuate { to: wanted.to.clone(), limit_s: wanted.limit };
        client.evacuate(&ask).await.map_err(super::handoff::failure)?;
        let progress = output.progress();
        let ended = tokio::select! {
            ended = follow(&client, &progress) => ended.map_err(vm::failure),
            _ = interrupt.recv() => client.cancel_evacuation().await.map_err(interrupted),
            _ = terminate.recv() => client.cancel_evacuation().await.map_err(interrupted),
        };
        let evacuation = ended?;
        progress.done();
        report(&client, &evacuation, output).await
    })?
}

/// Shows how far it is until it has ended.
async fn follow(client: &Client, progress: &Progress) -> Result<Evacuation, Error> {
    let mut told: BTreeMap<Uuid, String> = BTreeMap::new();
    loop {
        let evacuation = client.evacuation().await?;
        for leaving in &evacuation.instances {
            let step = step(leaving);
            if told.get(&leaving.instance) != Some(&step) {
                progress.step(format!("{}: {step}", leaving.instance));
                told.insert(leaving.instance, step);
            }
        }
        if evacuation.state != EvacuationState::Running {
            return Ok(evacuation);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn step(leaving: &Leaving) -> String {
    let to = leaving.to.as_deref().unwrap_or("another cloudlet");
    let reason = leaving.reason.as_deref().unwrap_or("no reason is given");
    match leaving.fate {
        Fate::Waits => format!("waits: {reason}"),
        Fate::Moves => format!("moves to {to}"),
        Fate::Moved => format!("serves at {to}"),
        Fate::Ended => "has ended".to_owned(),
        Fate::Stays => format!("stays: {reason}"),
    }
}

fn interrupted(error: Error) -> Failure {
    let context = "interrupted, but the cloudlet could not be told and goes on with it";
    Failure::failed(anyhow::Error::new(error).context(context), "'cloudlet vm list' shows what is left")
}

/// What became of each; an error if anything stays.
async fn report(client: &Client, evacuation: &Evacuation, output: Output) -> Result<(), Failure> {
    // Names are nicer than ids; without them it is as true.
    let names: BTreeMap<String, String> = match client.peers().await {
        Ok(peers) => peers.into_iter().map(|peer| (peer.node_id, peer.name)).collect(),
        Err(_) => BTreeMap::new(),
    };
    let named = |leaving: &Leaving| {
        let to = leaving.to.as_ref().map(|to| names.get(to).unwrap_or(to).clone());
        step(&Leaving { to, ..leaving.clone() })
    };
    let rows = evacuation.instances.iter().map(|leaving| vec![leaving.instance.to_string(), named(leaving)]);
    let text = || match evacuation.instances.is_empty() {
        true => "there was no instance here; nobody new is taken\n".to_owned(),
        false => table(&["INSTANCE", "WHAT BECAME OF IT"], &rows.collect::<Vec<_>>()),
    };
    output.result(text, || json!(evacuation))?;
    match (evacuation.state, evacuation.complete) {
        (EvacuationState::Cancelled, _) => {
            let next = "what has not left serves on here; the same command goes on where it was";
            Err(Failure::failed(anyhow!("the evacuation was cancelled"), next))
        }
        (_, false) => {
            let next = "what stays serves on here; nobody new is taken until 'cloudlet drain off'";
            Err(Failure::failed(anyhow!("not every instance has left"), next))
        }
        _ => Ok(()),
    }
}
