//! Keeps this cloudlet published by DNS-SD while the daemon runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use mesh::advert::{Load, Summary};
use mesh::dnssd::{Entry, Error, Interfaces, Publisher};
use mesh::{NodeId, dnssd};
use tokio_util::sync::CancellationToken;
use vm_images::manifest::Accelerator;

use crate::api::Api;
use crate::config::Discovery;

/// Time between two looks at load and services. The publisher itself sends at most every six seconds; guess.
const INTERVAL: Duration = Duration::from_secs(3);
/// Time between two tries to publish where there is no multicast: a radio may come up later. Guess.
const RETRY: Duration = Duration::from_secs(30);
/// Load is published in steps, so that its noise does not keep the air busy: thousandths of a core.
const CPU_STEP_MILLIS: u32 = 250;
/// Load is published in steps: bytes.
const MEMORY_STEP_BYTES: u64 = 64 << 20;

/// What does not change about what is published.
pub(super) struct Announcement {
    pub(super) name: String,
    pub(super) listen: SocketAddr,
    pub(super) node: NodeId,
    pub(super) accelerator: Accelerator,
    pub(super) tls: bool,
}

/// Publishes until `stop` is cancelled, then says farewell.
pub(super) async fn run(announcement: Announcement, discovery: Discovery, api: Api, stop: CancellationToken) {
    if !discovery.enabled {
        tracing::info!("discovery is switched off; handhelds must know the address");
        return;
    }
    let interfaces = Interfaces::from_names(&discovery.interfaces);
    let mut publisher = None;
    let mut told = false;
    loop {
        let mut pause = INTERVAL;
        match (announcement.summary(&api).await, &publisher) {
            (None, _) => {}
            (Some(summary), Some(published)) => Publisher::update(published, summary),
            (Some(summary), None) => match publish(&announcement, summary, interfaces.clone()).await {
                Ok(new) => publisher = Some(new),
                Err(error) => {
                    pause = RETRY;
                    warn(&error, &mut told);
                }
            },
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Some(publisher) = publisher {
        unpublish(publisher).await;
    }
}

impl Announcement {
    /// What to publish now; `None` while the cloudlet cannot say, which is no reason to say something wrong.
    async fn summary(&self, api: &Api) -> Option<Summary> {
        let cloudlet = api.cloudlet().await.ok()?;
        Some(Summary {
            api_version: handheld::api::VERSION,
            node: self.node,
            load: in_steps(&cloudlet.load),
            accelerator: Some(self.accelerator),
            tls: self.tls,
            services: cloudlet.services.into_iter().collect::<BTreeSet<_>>(),
            services_left_out: 0,
        })
    }
}

fn in_steps(load: &handheld::api::Load) -> Load {
    Load {
        // Rounded to the nearest step, but never to more than there is.
        cpu_used_millis: ((load.cpu_used_millis + CPU_STEP_MILLIS / 2) / CPU_STEP_MILLIS * CPU_STEP_MILLIS)
            .min(load.cpu_total_millis),
        cpu_total_millis: load.cpu_total_millis,
        // Rounded down: what is promised must be there.
        memory_free_bytes: load.memory_free_bytes / MEMORY_STEP_BYTES * MEMORY_STEP_BYTES,
        memory_total_bytes: load.memory_total_bytes,
        instances: load.instances,
        // The record has no room for it; who asks the API hears it.
        queue_length: 0,
    }
}

async fn publish(announcement: &Announcement, summary: Summary, on: Interfaces) -> Result<Publisher, Error> {
    let entry = Entry { name: announcement.name.clone(), listen: announcement.listen, summary };
    // Starting the engine blocks for a moment.
    match tokio::task::spawn_blocking(move || Publisher::publish(entry, &on)).await {
        Ok(result) => result,
        Err(panic) => Err(Error::Thread(std::io::Error::other(panic))),
    }
}

fn warn(error: &Error, told: &mut bool) {
    if !std::mem::replace(told, true) {
        let error: &dyn std::error::Error = error;
        tracing::warn!(
            error,
            service = dnssd::SERVICE_TYPE,
            "handhelds cannot discover this cloudlet; the address still works, and publishing is tried again"
        );
    }
}

async fn unpublish(publisher: Publisher) {
    match tokio::task::spawn_blocking(move || publisher.unpublish()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the farewell by multicast failed")
        }
        Err(panic) => tracing::error!(%panic, "the farewell by multicast panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_in_the_load_changes_nothing_and_nothing_is_promised_that_is_not_there() {
        let load = |cpu_used_millis, memory_free_bytes| {
            in_steps(&handheld::api::Load {
                cpu_used_millis,
                cpu_total_millis: 1900,
                memory_free_bytes,
                memory_total_bytes: 1 << 30,
                instances: 3,
                queue_length: 1,
            })
        };
        assert_eq!(load(510, 200 << 20), load(480, 210 << 20));
        assert_eq!(load(510, 200 << 20).memory_free_bytes, 192 << 20);
        assert_eq!(load(1899, 0).cpu_used_millis, 1900);
    }
}
