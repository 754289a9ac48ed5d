//! What the tests with real VMs share: the images that `make test` has built, and an embedded libvirt of one's own.
#![allow(dead_code, unused_imports, reason = "every test binary uses another part of it")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests use real time and may panic"
)]

mod image;
mod isolated;
mod processes;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use migration::VmId;
use migration::hypervisor::libvirt::{Libvirt, Uri};
use migration::hypervisor::{CloneSpec, GuestOutput, Hypervisor};
use uuid::Uuid;

pub use image::{Image, overlay};
pub use isolated::{Root, again, isolated};

/// How long a guest that runs may take to answer; generous, as test machines are slow and busy.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Opens the embedded libvirt of a test for guests like `image`'s.
pub fn open(root: &Root, image: &Image) -> Libvirt {
    let hypervisor = Libvirt::open(&Uri::Embedded(root.libvirt()), image.hardware().accelerator).unwrap();
    root.keep_capabilities();
    hypervisor
}

/// A clone with a new id and a new disk in the root.
pub fn clone_spec(root: &Root, image: &Image, name: &str) -> CloneSpec {
    let disk = root.path(&format!("{name}.qcow2"));
    image.overlay(&disk);
    CloneSpec {
        vm: VmId(Uuid::new_v4()),
        hardware: image.hardware().clone(),
        disk,
        template: image.template(),
        device_stream: image.device_stream(),
        console: root.path(&format!("{name}.console")),
    }
}

/// Runs a program in the guest that must succeed; gives what it printed.
#[track_caller]
pub fn run(hypervisor: &dyn Hypervisor, vm: VmId, program: &str, arguments: &[&str]) -> String {
    let output: GuestOutput = hypervisor.agent_exec(vm, program, arguments, ANSWER_LIMIT).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.exit_code, 0, "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for a condition.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < ANSWER_LIMIT, "waited {ANSWER_LIMIT:?} until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Files below the root that have to do with this VM; libvirt names them after the first digits of its id.
pub fn files_of(root: &Root, vm: VmId) -> Vec<PathBuf> {
    let mut short = vm.0.simple().to_string();
    short.truncate(12);
    let mut found = Vec::new();
    let mut open = vec![root.libvirt()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().contains(&short)) {
                found.push(path.clone());
            }
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    // Logs stay, for people.
    found.retain(|path| !path.starts_with(root.libvirt().join("log")));
    found
}
