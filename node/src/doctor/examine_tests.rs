//! Every finding, on facts of machines that are broken in one way each.

use super::*;
use crate::doctor::facts::Interface;

fn interface(name: &str, multicast: Result<(), &str>) -> Interface {
    Interface { name: name.to_owned(), loopback: name == "lo", multicast: multicast.map_err(str::to_owned) }
}

fn tool(name: &'static str, package: &'static str, found: bool) -> Tool {
    Tool { name, package, needed_for: "root disks", found }
}

fn image(title: &str, service: Option<&str>) -> Image {
    Image { title: title.to_owned(), service: service.map(str::to_owned), damaged: None }
}

fn good() -> Facts {
    let disk = |name, path: &str| Disk { name, path: path.into(), free_bytes: Ok(50 * GIB) };
    Facts {
        virtualisation: Virtualisation {
            wanted: AcceleratorChoice::Auto,
            kvm: Ok(()),
            qemu: Ok(Version(10, 0)),
            libvirt: Ok((Version(11, 3), vec!["pc-q35-9.2".to_owned(), MACHINE.to_owned()])),
            uri: "embed".to_owned(),
        },
        memory: Memory { total_bytes: 16 * GIB, available_bytes: 12 * GIB, reserve_bytes: GIB / 2 },
        disks: vec![disk("disk of state", "/s"), disk("disk of images", "/i")],
        discovery: Discovery {
            quiet: false,
            enabled: true,
            wanted: Vec::new(),
            interfaces: Ok(vec![interface("lo", Ok(())), interface("eth0", Ok(()))]),
        },
        port: ("0.0.0.0:8477".parse().unwrap(), Port::Free),
        tools: vec![tool("mmdebstrap", "mmdebstrap", true), tool("gcc", "build-essential", true)],
        state_dir: StateDir { path: "/s".into(), writable: Ok(()) },
        now_unix_s: RELEASED_UNIX_S + 1,
        images: Ok(vec![image("speech 0123", Some("speech"))]),
    }
}

/// The one finding that is not ok after this change to a good machine.
fn broken(change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = good();
    change(&mut facts);
    let mut bad: Vec<Finding> = examine(&facts).into_iter().filter(|f| f.status != Status::Ok).collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    let finding = bad.remove(0);
    assert!(finding.fix.as_ref().is_some_and(|fix| !fix.is_empty()), "no fix: {finding:?}");
    finding
}

#[track_caller]
fn check(finding: &Finding, name: &str, status: Status, words: &[&str]) {
    assert_eq!((finding.name, finding.status), (name, status), "{finding:?}");
    let text = format!("{} {}", finding.finding, finding.fix.as_deref().unwrap_or(""));
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn a_good_machine_passes_every_check() {
    let findings = examine(&good());
    assert!(
        findings.iter().all(|finding| finding.status == Status::Ok && finding.fix.is_none()),
        "{findings:?}"
    );
    let mut names: Vec<_> = findings.iter().map(|finding| finding.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), findings.len(), "every check has a name of its own");
}

#[test]
fn kvm_that_fails_is_as_bad_as_it_is_wanted() {
    let hangs = || Err("a guest was started, but had not executed".to_owned());
    let finding = broken(|facts| facts.virtualisation.kvm = hangs());
    check(&finding, "kvm", Status::Warn, &["had not executed", "TCG", "12 times slower"]);
    let finding = broken(|facts| {
        facts.virtualisation.kvm = hangs();
        facts.virtualisation.wanted = AcceleratorChoice::Kvm;
    });
    check(&finding, "kvm", Status::Fail, &["had not executed", "hypervisor.accelerator"]);
    let mut facts = good();
    facts.virtualisation.kvm = hangs();
    facts.virtualisation.wanted = AcceleratorChoice::Tcg;
    assert!(examine(&facts).iter().all(|finding| finding.status == Status::Ok));
}

#[test]
fn old_or_absent_hypervisors_fail_and_say_which_version_and_why() {
    let finding = broken(|facts| facts.virtualisation.qemu = Ok(Version(7, 2)));
    check(&finding, "qemu", Status::Fail, &["7.2", "10.0", MACHINE, "system-packages run"]);
    let finding = broken(|facts| facts.virtualisation.qemu = Err("No such file".to_owned()));
    check(&finding, "qemu", Status::Fail, &["No such file", "system-packages run"]);
    let finding =
        broken(|facts| facts.virtualisation.libvirt = Ok((Version(9, 0), vec![MACHINE.to_owned()])));
    check(&finding, "libvirt", Status::Fail, &["9.0", "11.0", "tested"]);
    let finding = broken(|facts| facts.virtualisation.libvirt = Err("no driver".to_owned()));
    check(&finding, "libvirt", Status::Fail, &["no driver", "libvirt-daemon-driver-qemu"]);
    let finding = broken(|facts| facts.virtualisation.libvirt = Ok((Version(11, 3), vec!["pc".to_owned()])));
    check(&finding, "libvirt", Status::Fail, &[MACHINE]);
}

#[test]
fn memory_is_counted_in_instances() {
    let finding = broken(|facts| facts.memory.available_bytes = GIB / 2 + (255 << 20));
    check(&finding, "memory", Status::Fail, &["0 instances of 256.0 MiB"]);
    let finding = broken(|facts| facts.memory.available_bytes = GIB / 2 + (256 << 20));
    check(&finding, "memory", Status::Warn, &["1 instances", "memory_reserve_mib"]);
    let finding = broken(|facts| facts.memory.reserve_bytes = 100 * GIB);
    check(&finding, "memory", Status::Fail, &["0 instances"]);
}

#[test]
fn disks_warn_below_five_gib_and_fail_below_one() {
    let with = |free: u64| broken(|facts| facts.disks[1].free_bytes = Ok(free));
    check(&with(5 * GIB - 1), "disk of images", Status::Warn, &["/i", "image gc"]);
    check(&with(GIB), "disk of images", Status::Warn, &["1.0 GiB"]);
    check(&with(GIB - 1), "disk of images", Status::Fail, &["/i"]);
    let finding = broken(|facts| facts.disks[0].free_bytes = Err("gone".to_owned()));
    check(&finding, "disk of state", Status::Fail, &["gone", "/s"]);
}

#[test]
fn the_state_directory_must_be_writable_and_short() {
    let finding = broken(|facts| facts.state_dir.writable = Err("Read-only file system".to_owned()));
    check(&finding, "state directory", Status::Fail, &["Read-only", "--state-dir"]);
    let finding = broken(|facts| facts.state_dir.path = format!("/{}", "x".repeat(50)).into());
    check(&finding, "state directory", Status::Fail, &["51 bytes", "at most 50"]);
}

#[test]
fn multicast_names_the_interfaces_that_can_and_those_that_cannot() {
    let down = || interface("wlan0", Err("nothing came back"));
    let finding = broken(|facts| facts.discovery.interfaces = Ok(vec![interface("lo", Ok(())), down()]));
    check(
        &finding,
        "multicast",
        Status::Warn,
        &["lo only", "wlan0 (nothing came back)", "outside this machine"],
    );
    let finding = broken(|facts| facts.discovery.interfaces = Ok(vec![down()]));
    check(&finding, "multicast", Status::Warn, &["no interface", "wlan0", "by its address"]);
    let finding = broken(|facts| facts.discovery.wanted = vec!["eth0".to_owned(), "eth1".to_owned()]);
    check(
        &finding,
        "multicast",
        Status::Fail,
        &["not on eth1,", "works on lo, eth0", "discovery.interfaces"],
    );
    let mut facts = good();
    facts.discovery.interfaces = Ok(vec![down()]);
    facts.discovery.enabled = false;
    assert!(examine(&facts).iter().all(|finding| finding.status == Status::Ok));
    // Only loopback is what the user asked for: nothing to warn about.
    facts.discovery = Discovery {
        quiet: false,
        enabled: true,
        wanted: vec!["lo".to_owned()],
        interfaces: Ok(vec![interface("lo", Ok(())), down()]),
    };
    assert!(examine(&facts).iter().all(|finding| finding.status == Status::Ok));
}

#[test]
fn a_port_is_good_when_free_or_ours() {
    let finding = broken(|facts| facts.port.1 = Port::Taken);
    check(&finding, "api port", Status::Fail, &["0.0.0.0:8477", "another program", "--listen"]);
    let finding = broken(|facts| facts.port.1 = Port::Impossible("Permission denied".to_owned()));
    check(&finding, "api port", Status::Fail, &["Permission denied", "api.listen"]);
    let mut facts = good();
    facts.port.1 = Port::Cloudlet("truck".to_owned());
    assert!(examine(&facts).iter().all(|finding| finding.status == Status::Ok));
}

#[test]
fn a_clock_before_the_release_fails() {
    check(&broken(|facts| facts.now_unix_s = 0), "clock", Status::Fail, &["1970", "timedatectl"]);
    check(&broken(|facts| facts.now_unix_s = RELEASED_UNIX_S - 1), "clock", Status::Fail, &["2026"]);
    check(
        &broken(|facts| facts.now_unix_s = RELEASED_UNIX_S + LIFETIME_S + 1),
        "clock",
        Status::Warn,
        &["2056"],
    );
}

#[test]
fn missing_tools_are_named_with_their_packages() {
    let finding = broken(|facts| facts.tools.iter_mut().for_each(|tool| tool.found = false));
    check(
        &finding,
        "image tools",
        Status::Warn,
        &["mmdebstrap (root disks)", "apt-get install build-essential mmdebstrap", "cannot be built"],
    );
}

#[test]
fn images_must_be_there_and_whole() {
    check(&broken(|facts| facts.images = Ok(vec![])), "images", Status::Warn, &["cloudlet image build all"]);
    let base_only = Ok(vec![image("base 00", None)]);
    check(&broken(|facts| facts.images = base_only), "images", Status::Warn, &["no Service VM image"]);
    let damaged =
        Image { damaged: Some("the disk is missing".to_owned()), ..image("speech 01", Some("speech")) };
    check(
        &broken(|facts| facts.images = Ok(vec![damaged])),
        "images",
        Status::Fail,
        &["speech 01: the disk is missing"],
    );
    check(
        &broken(|facts| facts.images = Err("no".to_owned())),
        "images",
        Status::Fail,
        &["node.image_store"],
    );
}
