//! A Service VM image: a clone of a base guest with a service in it, suspended warm.

use std::time::Duration;

use migration::hypervisor::CloneSpec;
use vm_images::build::recipe::{Base, Service as Plan, WarmUp};
use vm_images::build::{Recipe, payload};
use vm_images::manifest::FORMAT;
use vm_images::{Digest, Image, ImageId, Kind, Manifest, Role, Service, qcow2};

use super::guest::Guest;
use super::http::Http;
use super::{Builder, Error};

/// Room that a Service VM image needs while it is built, in multiples of its payload and memory; guess.
const ROOM_FACTOR: u64 = 3;

pub(super) fn build(
    builder: &Builder<'_>,
    recipe: &Recipe,
    plan: &Plan,
    base: &Base,
    parent: &Image,
    digest: Digest,
    progress: &mut dyn FnMut(&str),
) -> Result<ImageId, Error> {
    let draft = builder.store.begin(Some(parent.id))?;
    let hardware = parent.manifest.hardware.clone();
    draft.require_space(ROOM_FACTOR * ((plan.payload.disk_mib << 20) + hardware.memory_bytes))?;
    let status = parent.path(Role::PackageStatus)?;
    let payload =
        payload(recipe, plan, &status, &base.root.suite, &draft.scratch(), &builder.cancel, progress)?;
    let disk = draft.path(Role::Disk);
    let backing = draft.backing().unwrap_or_default();
    qcow2::create_overlay(&disk, &backing, qcow2::virtual_size(&parent.path(Role::Disk)?)?)?;

    builder.step(&format!("waking up a clone of {}", parent.label()), progress)?;
    let guest = Guest::new(builder.hypervisor);
    builder.hypervisor.clone_from(&CloneSpec {
        vm: guest.vm,
        hardware: hardware.clone(),
        disk,
        template: parent.path(Role::MemoryTemplate)?,
        device_stream: parent.path(Role::DeviceStream)?,
        console: draft.scratch().join("console.log"),
    })?;
    guest.wake()?;
    builder.step("installing the service in the guest", progress)?;
    guest.install(&payload, Duration::from_secs(plan.install.limit_s))?;

    let service = service(plan);
    let http = Http::new(guest.forward(service.port)?)?;
    builder.step("waiting until the service is healthy", progress)?;
    http.wait_healthy(&service)?;
    for (number, request) in
        plan.warm_up.iter().flat_map(|request| (0..request.times).map(move |_| request)).enumerate()
    {
        builder.step(&format!("warm-up request {}", number + 1), progress)?;
        send(&http, request)?;
    }
    builder.step("preparing and suspending the guest", progress)?;
    let prepare = &plan.prepare;
    guest.script("preparing the guest", &recipe.script(prepare)?, Duration::from_secs(prepare.limit_s))?;
    guest.rehearse(|| http.wait_healthy(&service))?;
    guest.suspend(&draft)?;

    builder.step("publishing the image", progress)?;
    Ok(draft.publish(Manifest {
        format: FORMAT,
        kind: Kind::Service,
        name: plan.name.clone(),
        description: plan.description.clone(),
        created_unix_s: crate::instances::clock::unix().as_secs(),
        recipe: digest,
        parent: Some(parent.id),
        hardware,
        guest_os: parent.manifest.guest_os.clone(),
        parts: Vec::new(),
        service: Some(service),
    })?)
}

fn send(http: &Http, request: &WarmUp) -> Result<(), Error> {
    http.request(
        &request.method,
        &request.path,
        request.body.as_deref(),
        request.content_type.as_deref(),
        Duration::from_secs(request.limit_s),
    )
}

fn service(plan: &Plan) -> Service {
    let interface = &plan.service;
    Service {
        id: interface.id.clone(),
        version: interface.version.clone(),
        description: interface.description.clone(),
        port: interface.port,
        health_path: interface.health_path.clone(),
        needs_memory_bytes: interface.needs_memory_mib << 20,
        needs_cpu_millis: interface.needs_cpu_millis,
        max_users: interface.max_users,
    }
}
