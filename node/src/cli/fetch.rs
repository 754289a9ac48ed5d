//! `cloudlet image fetch`: the running cloudlet fetches an image from others; this side shows how far it is.

use std::time::Duration;

use anyhow::anyhow;
use handheld::api::{Code, FetchImage, FetchState, ImageFetch};
use handheld::{Client, Error};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::output::{Failure, Output, bytes};
use super::progress::Progress;
use super::vm;
use crate::config::Config;

/// How often it is asked how far it is. A guess: what somebody who looks at a bar notices.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// How often in a row the cloudlet may not answer: it may be starting again, and goes on with the image then. With the
/// pauses between, a minute.
const MAX_SILENCES: u32 = 60;
/// Pause after a question that was not answered.
const SILENCE_PAUSE: Duration = Duration::from_secs(1);

/// What the command line says.
pub(super) struct Wanted {
    /// Service or id.
    pub(super) image: String,
    /// Node id or name of the only cloudlet to fetch from.
    pub(super) from: Option<String>,
    /// URL of the cloudlet that fetches.
    pub(super) api: Option<String>,
}

pub(super) fn run(config: &Config, wanted: Wanted, output: Output) -> Result<(), Failure> {
    let client = vm::client(config, wanted.api.as_deref())?;
    let ask = FetchImage { image: wanted.image, from: wanted.from };
    vm::block_on(async {
        // Heard from the start, so that an interrupt never leaves it running unasked.
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let begun = Instant::now();
        let mut fetch = client.fetch_image(&ask).await.map_err(failure)?;
        let progress = output.progress();
        let ended = tokio::select! {
            ended = follow(&client, &ask, &mut fetch, &progress) => ended,
            _ = interrupt.recv() => Err(interrupted(&client, &fetch).await),
            _ = terminate.recv() => Err(interrupted(&client, &fetch).await),
        };
        ended?;
        progress.done();
        report(&fetch, begun.elapsed(), output)
    })?
}

/// Shows how far it is until it is here.
async fn follow(
    client: &Client,
    ask: &FetchImage,
    fetch: &mut ImageFetch,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut told = String::new();
    let mut silences = 0;
    loop {
        let step = step(fetch);
        if step != told {
            progress.step(&step);
            told = step;
        }
        match fetch.state {
            FetchState::Done => return Ok(()),
            FetchState::Failed => return Err(failed(fetch)),
            FetchState::Fetching => progress.bytes(fetch.here_bytes, fetch.total_bytes),
            _ => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
        match client.image_fetch(&fetch.image).await {
            Ok(now) => (*fetch, silences) = (now, 0),
            Err(Error::Vanished { .. }) if silences < MAX_SILENCES => {
                silences += 1;
                told = String::new();
                progress.step("the cloudlet does not answer; waiting for it");
                tokio::time::sleep(SILENCE_PAUSE).await;
            }
            // It was started again and had nothing to go on with; what it has is not fetched twice.
            Err(Error::Refused { refusal, .. }) if refusal.problem.code == Code::UnknownImage => {
                *fetch = client.fetch_image(ask).await.map_err(failure)?;
            }
            Err(error) => return Err(failure(error)),
        }
    }
}

fn step(fetch: &ImageFetch) -> String {
    let label = fetch.label.as_deref().unwrap_or(&fetch.image[..fetch.image.len().min(12)]);
    match fetch.state {
        FetchState::Queued => format!("{label} waits until others are fetched"),
        FetchState::Waiting => {
            format!("no cloudlet in reach gives {label}; waiting for one (Ctrl-C ends that)")
        }
        FetchState::Preparing => format!("asking for what {label} consists of"),
        FetchState::Fetching => format!("fetching {label}"),
        FetchState::Publishing => format!("checking {label}"),
        FetchState::Done => format!("{label} is here"),
        FetchState::Failed => format!("{label} was not fetched"),
    }
}

/// Ends it at the cloudlet as well.
async fn interrupted(client: &Client, fetch: &ImageFetch) -> Failure {
    let next = "the same command goes on where it was";
    match client.cancel_image_fetch(&fetch.image).await {
        Ok(fetch) => {
            let here = bytes(fetch.here_bytes);
            Failure::failed(anyhow!("interrupted; what came of it stays ({here} are here)"), next)
        }
        Err(error) => {
            let context = "interrupted, but the cloudlet could not be told and goes on with it";
            Failure::failed(anyhow::Error::new(error).context(context), next)
        }
    }
}

fn failed(fetch: &ImageFetch) -> Failure {
    let reason = fetch.reason.as_deref().unwrap_or("the cloudlet gives no reason");
    let label = fetch.label.as_deref().unwrap_or(&fetch.image);
    let error = anyhow!("{label} was not fetched: {reason}");
    Failure::failed(error, "what came of it stays: the same command goes on where it was")
}

/// What the running cloudlet said no to.
fn failure(error: Error) -> Failure {
    let next = match &error {
        Error::Refused { refusal, .. } => match refusal.problem.code {
            Code::UnknownImage => "'cloudlet mesh' shows which cloudlets are in reach and what they serve",
            Code::BadRequest => "name a service, or one image by its id",
            Code::UnknownPeer => "name it as 'cloudlet mesh' shows it",
            Code::NoMission => {
                "join a mission ('cloudlet mission --help'), or build the image: 'cloudlet image build'"
            }
            Code::NotAllowed => "run it at the cloudlet itself, or with a certificate that may operate",
            _ => return vm::failure(error),
        },
        _ => return vm::failure(error),
    };
    Failure::failed(error, next)
}

fn report(fetch: &ImageFetch, took: Duration, output: Output) -> Result<(), Failure> {
    let seconds = took.as_secs_f64();
    let text = || {
        let label = fetch.label.as_deref().unwrap_or(&fetch.image);
        if fetch.wire_bytes == 0 && fetch.reused_bytes == 0 {
            return format!("{label} is here already\n");
        }
        let mut text = format!("{label} is here: {} in {seconds:.1} s\n", bytes(fetch.wire_bytes));
        for one in &fetch.from {
            text += &format!("  {} from {}\n", bytes(one.bytes), one.name);
        }
        if fetch.reused_bytes > 0 {
            text += &format!("  {} found in images that were here\n", bytes(fetch.reused_bytes));
        }
        text
    };
    output.result(text, || json!({"fetch": fetch, "seconds": seconds}))
}
