//! What the core knows, in the API's words.

use handheld::api;

use super::Arrival;
use crate::instances::Offer;
use crate::lifecycle::{Instance, Phase, joinable};
use crate::standing::Standing;

/// An instance as a client on this connection sees it; `fetching`: how far its image is, if that is on its way.
pub(super) fn instance(
    instance: &Instance,
    arrival: Arrival,
    fetching: Option<api::ImageFetch>,
) -> api::Instance {
    let ready = matches!(instance.phase, Phase::Ready { .. });
    api::Instance {
        id: instance.vm.0,
        service: instance.service.id.clone(),
        image: instance.service.image.to_string(),
        state: instance.state(),
        // Not before it is ready: an address that does not answer yet invites clients to try.
        address: instance.address.filter(|_| ready).map(|address| arrival.seen(address)),
        sharing: instance.sharing,
        users: u32::try_from(instance.users.len()).unwrap_or(u32::MAX),
        requested_unix_ms: instance.requested_unix_ms,
        ready_after_ms: instance.ready_after_ms,
        reason: instance.reason.clone(),
        fetching: fetching.map(Box::new),
    }
}

/// A service on offer, with the instances of it that are ready.
pub(super) fn service(offer: &Offer, instances: &[Instance], standing: &Standing) -> api::Service {
    let service = &offer.service;
    let is_ready = |instance: &&Instance| {
        instance.service.id == service.id && matches!(instance.phase, Phase::Ready { .. })
    };
    let ready = instances.iter().filter(is_ready).count();
    let ready_time = standing.ready_time(&service.id, service.image, instances);
    api::Service {
        id: service.id.clone(),
        version: offer.version.clone(),
        description: offer.description.clone(),
        image: service.image.to_string(),
        guest_system: Some(offer.guest_system.clone()),
        needs_memory_bytes: service.needs.memory_bytes,
        needs_cpu_millis: service.needs.cpu_millis,
        max_users: service.max_users,
        ready_instances: u32::try_from(ready).unwrap_or(u32::MAX),
        joinable_instances: Some(joinable(service, instances)),
        ready_ms: ready_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    }
}
