//! Which of the reachable cloudlets serves best: asks each for the service, then lets [`mesh::selection`] decide.

use std::time::Duration;

use futures_util::future::join_all;
use mesh::advert::Load;
use mesh::selection::record::Survey;
use mesh::selection::{Candidate, Choice, Instance, Link, Need, Offer, Policy, Task};
use vm_images::ServiceId;
use vm_images::manifest::Accelerator;

use crate::api::{Service, Sharing};
use crate::{Reachable, now};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The service.
    pub service: ServiceId,
    /// Whether others may use the same instance.
    pub sharing: Sharing,
    /// What the service is to do.
    pub task: Task,
    /// By when, from now.
    pub deadline: Option<Duration>,
}

impl Wanted {
    /// A shared instance for the usual task, whenever it is done.
    pub fn of(service: ServiceId) -> Self {
        Self { service, sharing: Sharing::Shared, task: Task::default(), deadline: None }
    }
}

/// A cloudlet and what it has of the wanted service.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// The cloudlet.
    pub reachable: Reachable,
    /// Its offer, if it has one and said so.
    pub service: Option<Service>,
    /// What the link carried at least, bytes per second; `None`: not measured.
    pub rate_bytes_per_s: Option<u64>,
}

/// Asks every cloudlet that lists the service what it needs and how ready it is, all at once. Where there is a choice,
/// the links are timed too; see [`rate`].
pub async fn survey(service: &ServiceId, cloudlets: Vec<Reachable>) -> Vec<Surveyed> {
    let surveyed = join_all(cloudlets.into_iter().map(|reachable| describe(service, reachable))).await;
    let offering = surveyed.iter().filter(|one| one.service.is_some()).count();
    if offering < 2 {
        return surveyed;
    }
    let mut timed = Vec::new();
    // One after the other: at once they would share the air and measure each other.
    for one in surveyed {
        let rate_bytes_per_s = match one.service {
            Some(_) => rate(&one.reachable).await,
            None => None,
        };
        timed.push(Surveyed { rate_bytes_per_s, ..one });
    }
    timed
}

async fn describe(service: &ServiceId, reachable: Reachable) -> Surveyed {
    let silent = |reachable| Surveyed { reachable, service: None, rate_bytes_per_s: None };
    if !reachable.cloudlet.services.contains(service) {
        return silent(reachable);
    }
    match reachable.client.service(service).await {
        Ok(service) => Surveyed { service, ..silent(reachable) },
        Err(error) => {
            tracing::warn!(
                cloudlet = reachable.cloudlet.name,
                error = &error as &dyn std::error::Error,
                "it lists the service but does not describe it"
            );
            silent(reachable)
        }
    }
}

/// Longest time that one link is timed. A link that needs longer for some tens of kilobytes has failed the test.
const RATE_LIMIT: Duration = Duration::from_secs(1);

/// Bytes per second that the link carries at least: the length of a known answer (the API's own description) by the time
/// from asking to its last byte. The time that the cloudlet took and the round trip are in it, so the link is at least as
/// good as that. `None` if there was no answer in time; then the default for links that nobody measured counts.
pub async fn rate(reachable: &Reachable) -> Option<u64> {
    let started = now();
    let answer = tokio::time::timeout(RATE_LIMIT, reachable.client.description_bytes()).await;
    let bytes = u128::try_from(answer.ok()?.ok()?).ok()?;
    u64::try_from(bytes * 1_000_000 / started.elapsed().as_micros().max(1)).ok()
}

/// Chooses by `policy`; the choice says why.
pub fn choose(wanted: &Wanted, surveyed: &[Surveyed], policy: &Policy) -> Choice {
    let (need, candidates) = picture(wanted, surveyed);
    policy.choose(&need, &candidates, None)
}

/// What was found, on paper, so that the choice can be replayed.
pub fn record(wanted: &Wanted, surveyed: &[Surveyed]) -> Survey {
    let (need, candidates) = picture(wanted, surveyed);
    Survey::of(&need, &candidates, None)
}

/// What was found, as [`Policy::choose`] takes it.
pub fn picture(wanted: &Wanted, surveyed: &[Surveyed]) -> (Need, Vec<Candidate>) {
    (need(wanted, surveyed), surveyed.iter().map(candidate).collect())
}

/// What an instance needs. Cloudlets may hold versions with different needs; the least is taken, because one that then
/// turns out to be too small refuses by itself and the next one is asked.
fn need(wanted: &Wanted, surveyed: &[Surveyed]) -> Need {
    let offers = || surveyed.iter().filter_map(|one| one.service.as_ref());
    Need {
        memory_bytes: offers().map(|offer| offer.needs_memory_bytes).min().unwrap_or(0),
        cpu_millis: offers().map(|offer| offer.needs_cpu_millis).min().unwrap_or(0),
        instance: match wanted.sharing {
            Sharing::Shared => Instance::Shared,
            Sharing::Private => Instance::Own,
        },
        task: wanted.task,
        deadline: wanted.deadline,
        ..Need::of(wanted.service.clone())
    }
}

fn candidate(surveyed: &Surveyed) -> Candidate {
    let Surveyed { reachable, service, rate_bytes_per_s } = surveyed;
    let load = &reachable.cloudlet.load;
    // Whole microseconds, as they are recorded, so that a recorded survey leads to the same figures.
    let rtt = Duration::from_micros(u64::try_from(reachable.rtt.as_micros()).unwrap_or(u64::MAX));
    let hops = Some(if reachable.client.via().is_some() { 2 } else { 1 });
    let link = Link { rtt: Some(rtt), rate_bytes_per_s: *rate_bytes_per_s, hops, ..Link::default() };
    let load = Load {
        cpu_used_millis: load.cpu_used_millis,
        cpu_total_millis: load.cpu_total_millis,
        memory_free_bytes: load.memory_free_bytes,
        memory_total_bytes: load.memory_total_bytes,
        instances: load.instances,
        queue_length: 0,
    };
    let offer = match service {
        None => Offer::Nothing,
        Some(service) if service.ready_instances == 0 || service.max_users <= 1 => Offer::Cached,
        Some(_) => Offer::Running,
    };
    Candidate {
        accelerator: match reachable.cloudlet.accelerator.as_str() {
            "kvm" => Some(Accelerator::Kvm),
            "tcg" => Some(Accelerator::Tcg),
            _ => None,
        },
        // It was asked a moment ago.
        load_age: Some(Duration::ZERO),
        ..Candidate::unknown(reachable.node, &reachable.label(), load, link, offer)
    }
}
