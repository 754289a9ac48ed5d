//! Which of the reachable cloudlets serves best: asks each for the service, then lets [`mesh::selection`] decide.

use futures_util::future::join_all;
use mesh::advert::Load;
use mesh::selection::{self, Candidate, Choice, Link, Need, Offer, Weighted};
use vm_images::ServiceId;
use vm_images::manifest::Accelerator;

use crate::Reachable;
use crate::api::{Service, Sharing};

/// A cloudlet and what it has of the wanted service.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// The cloudlet.
    pub reachable: Reachable,
    /// Its offer, if it has one and said so.
    pub service: Option<Service>,
}

/// Asks every cloudlet that lists the service what it needs and how ready it is, all at once.
pub async fn survey(service: &ServiceId, cloudlets: Vec<Reachable>) -> Vec<Surveyed> {
    join_all(cloudlets.into_iter().map(|reachable| async move {
        if !reachable.cloudlet.services.contains(service) {
            return Surveyed { reachable, service: None };
        }
        let answer = reachable.client.service(service).await;
        let service = answer.unwrap_or_else(|error| {
            tracing::warn!(
                cloudlet = reachable.cloudlet.name,
                error = &error as &dyn std::error::Error,
                "it lists the service but does not describe it"
            );
            None
        });
        Surveyed { reachable, service }
    }))
    .await
}

/// Chooses by the default utility; the choice says why.
pub fn choose(service: &ServiceId, sharing: Sharing, surveyed: &[Surveyed]) -> Choice {
    let candidates: Vec<Candidate> = surveyed.iter().map(candidate).collect();
    selection::choose(&need(service, sharing, surveyed), &candidates, &Weighted::default(), None)
}

/// What an instance needs. Cloudlets may hold versions with different needs; the least is taken, because one that then
/// turns out to be too small refuses by itself and the next one is asked.
fn need(service: &ServiceId, sharing: Sharing, surveyed: &[Surveyed]) -> Need {
    let offers = || surveyed.iter().filter_map(|one| one.service.as_ref());
    Need {
        memory_bytes: offers().map(|offer| offer.needs_memory_bytes).min().unwrap_or(0),
        cpu_millis: offers().map(|offer| offer.needs_cpu_millis).min().unwrap_or(0),
        instance: match sharing {
            Sharing::Shared => selection::Instance::Shared,
            Sharing::Private => selection::Instance::Own,
        },
        ..Need::of(service.clone())
    }
}

fn candidate(surveyed: &Surveyed) -> Candidate {
    let Surveyed { reachable, service } = surveyed;
    let load = &reachable.cloudlet.load;
    Candidate {
        node: reachable.node,
        name: reachable.cloudlet.name.clone(),
        load: Load {
            cpu_used_millis: load.cpu_used_millis,
            cpu_total_millis: load.cpu_total_millis,
            memory_free_bytes: load.memory_free_bytes,
            memory_total_bytes: load.memory_total_bytes,
            instances: load.instances,
            queue_length: 0,
        },
        accelerator: match reachable.cloudlet.accelerator.as_str() {
            "kvm" => Some(Accelerator::Kvm),
            "tcg" => Some(Accelerator::Tcg),
            _ => None,
        },
        guest_speed_permille: None,
        architecture: None,
        guest_systems: None,
        link: Link { rtt: Some(reachable.rtt), rate_bytes_per_s: None },
        offer: match service {
            None => Offer::Nothing,
            Some(service) if service.ready_instances == 0 || service.max_users <= 1 => Offer::Cached,
            Some(_) => Offer::Running,
        },
        ready_time: None,
    }
}
