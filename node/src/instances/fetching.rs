//! Waits for the image of an instance that comes from another cloudlet.

use std::sync::Arc;

use migration::VmId;
use tokio::sync::{SetOnce, mpsc, watch};
use tokio_util::sync::CancellationToken;
use vm_images::ImageId;

use super::{Tools, tasks};
use crate::causes::chain;
use crate::exchange::{Exchange, Phase, Progress};
use crate::lifecycle::{Input, Service};

/// Has the image fetched and follows that to its end. As soon as its manifest is here, `said` hears what it needs.
/// Ended by `cancel`, it wants the image no more; others may.
pub(super) async fn fetch(
    tools: Tools,
    exchange: Arc<SetOnce<Option<Exchange>>>,
    vm: VmId,
    service: Arc<Service>,
    said: mpsc::Sender<Input>,
    cancel: CancellationToken,
) -> Input {
    let fetched = tokio::select! { biased;
        () = cancel.cancelled() => Err("it was given up before its image was here".to_owned()),
        fetched = follow(&tools, &exchange, vm, &service, &said) => fetched,
    };
    match fetched {
        Ok(service) => {
            Input::Fetched { vm, service, memory_available_bytes: tools.meter.memory().available_bytes }
        }
        Err(reason) => Input::VmFailed { vm, reason },
    }
}

async fn follow(
    tools: &Tools,
    exchange: &SetOnce<Option<Exchange>>,
    vm: VmId,
    wanted: &Service,
    said: &mpsc::Sender<Input>,
) -> Result<Arc<Service>, String> {
    let Some(exchange) = exchange.wait().await else {
        return Err(
            "its image is not here, and this cloudlet no longer has others to fetch it from".to_owned()
        );
    };
    let mut progress = match exchange.fetch_while_wanted(wanted.image).await {
        Ok(progress) => progress,
        Err(_) => return ending().await,
    };
    if reached(&mut progress, |progress| progress.label.is_some()).await?
        && let Some(service) = describe(tools, wanted).await?
    {
        let memory_available_bytes = tools.meter.memory().available_bytes;
        let described = Input::Described { vm, service, memory_available_bytes };
        // An owner that has ended also ends this.
        let _ = said.send(described).await;
    }
    reached(&mut progress, |_| false).await?;
    describe(tools, wanted).await?.ok_or_else(|| "its image came, and was removed again".to_owned())
}

/// Waits until something holds, or the image is here; says whether it was the former.
async fn reached(
    progress: &mut watch::Receiver<Progress>,
    holds: impl Fn(&Progress) -> bool,
) -> Result<bool, String> {
    let so_far = progress.wait_for(|progress| progress.phase.is_end() || holds(progress)).await;
    match so_far.map(|progress| progress.phase.clone()).ok() {
        Some(Phase::Failed(reason)) => Err(format!("its image could not be fetched: {reason}")),
        Some(phase) => Ok(phase != Phase::Done),
        None => ending().await,
    }
}

/// The exchange ends before the instances do, which then end this.
async fn ending<T>() -> T {
    std::future::pending().await
}

/// What the image says it needs, if its manifest is here.
async fn describe(tools: &Tools, wanted: &Service) -> Result<Option<Arc<Service>>, String> {
    let (images, image): (_, ImageId) = (tools.images.clone(), wanted.image);
    let described = tasks::blocking(move || images.describe(image).map_err(|error| chain(&*error))).await?;
    match described {
        None => Ok(None),
        Some(offer) => match offer.unusable {
            Some(why) => Err(why),
            None if offer.service.id == wanted.id => Ok(Some(offer.service)),
            None => Err(format!("its image holds '{}', not what other cloudlets say", offer.service.id)),
        },
    }
}
