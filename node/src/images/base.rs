//! A base image: a guest that booted once and was suspended bare.

use std::time::Duration;

use migration::hypervisor::{BootSpec, Host, TOPOLOGY};
use vm_images::build::recipe::Base;
use vm_images::build::{Recipe, root_disk};
use vm_images::manifest::{FORMAT, GuestOs};
use vm_images::{Digest, Hardware, ImageId, Kind, Manifest, Role};

use super::guest::Guest;
use super::{Builder, Error};

/// Room that a base image needs while it is built, in multiples of its disk and memory; guess.
const ROOM_FACTOR: u64 = 2;

pub(super) fn build(
    builder: &Builder<'_>,
    recipe: &Recipe,
    plan: &Base,
    host: &Host,
    digest: Digest,
    progress: &mut dyn FnMut(&str),
) -> Result<ImageId, Error> {
    let draft = builder.store.begin(None)?;
    let hardware = hardware(plan, host);
    draft.require_space(ROOM_FACTOR * ((plan.root.disk_mib << 20) / 4 + hardware.memory_bytes))?;
    root_disk(recipe, plan, &draft, &builder.cancel, progress)?;

    builder.step("booting the guest", progress)?;
    let guest = Guest::new(builder.hypervisor);
    builder.hypervisor.boot(&BootSpec {
        vm: guest.vm,
        hardware: hardware.clone(),
        disk: draft.path(Role::Disk),
        kernel: draft.path(Role::Kernel),
        initrd: draft.path(Role::Initrd),
        console: draft.scratch().join("console.log"),
    })?;
    builder.hypervisor.agent_ping(guest.vm, Duration::from_secs(plan.ready.limit_s))?;
    builder.step("preparing and suspending the guest", progress)?;
    guest.script(
        "preparing the guest",
        &recipe.script(&plan.prepare)?,
        Duration::from_secs(plan.prepare.limit_s),
    )?;
    guest.rehearse(|| Ok(()))?;
    guest.suspend(&draft)?;

    builder.step("publishing the image", progress)?;
    let guest_os = GuestOs {
        id: plan.root.os_id.clone(),
        version: plan.root.os_version.clone(),
        architecture: plan.root.architecture.clone(),
    };
    Ok(draft.publish(Manifest {
        format: FORMAT,
        kind: Kind::Base,
        name: plan.name.clone(),
        description: plan.description.clone(),
        created_unix_s: crate::instances::clock::unix().as_secs(),
        recipe: digest,
        parent: None,
        hardware,
        guest_os,
        parts: Vec::new(),
        service: None,
    })?)
}

fn hardware(plan: &Base, host: &Host) -> Hardware {
    Hardware {
        machine: plan.hardware.machine.clone(),
        cpu_model: plan.hardware.cpu_model.clone(),
        accelerator: host.accelerator,
        topology: TOPOLOGY,
        memory_bytes: plan.hardware.memory_mib << 20,
        vcpus: plan.hardware.vcpus,
        command_line: plan.hardware.command_line.clone(),
    }
}
