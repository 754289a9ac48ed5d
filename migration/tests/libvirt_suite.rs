//! The contract of `Hypervisor`, on real VMs: QEMU through the embedded libvirt, with the real base image's disk.
#![cfg(all(feature = "fake", feature = "libvirt"))]
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

mod libvirt_support;

use std::fs;
use std::time::Duration;

use libvirt_support::{Image, Root, isolated, open, overlay};
use migration::hypervisor::Hypervisor;
use migration::hypervisor::suite::{self, Fixture};

/// A cold boot takes 14 to 21 s under TCG on an idle machine (measured).
const BOOT_LIMIT: Duration = Duration::from_secs(180);

#[test]
fn the_real_hypervisor_keeps_the_contract() {
    isolated("the_real_hypervisor_keeps_the_contract", contract);
}

fn contract(root: &Root, _: Option<&str>) {
    let base = Image::named("base");
    let hypervisor = open(root, &base);
    let directory = root.path("files");
    fs::create_dir(&directory).unwrap();
    let fixture = Fixture {
        directory,
        hardware: base.hardware().clone(),
        kernel: base.kernel(),
        initrd: base.initrd(),
        make_disk: Box::new(|below, disk| overlay(below.unwrap_or(&base.disk()), disk)),
        boot_limit: BOOT_LIMIT,
    };
    let again = || -> Box<dyn Hypervisor> { Box::new(open(root, &base)) };
    suite::run(&hypervisor, &fixture, &again);
    assert!(root.qemus().is_empty(), "left running: QEMU {:?}", root.qemus());
    base.assert_unchanged();
}
