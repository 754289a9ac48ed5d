//! `cloudlet doctor` on this machine, and that it states the versions and packages that are installed by.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli_support;

use cli_support::{Ran, World};
use node::doctor::{gather, least};

fn system_packages() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/system-packages")).unwrap()
}

#[test]
fn the_least_versions_are_those_that_are_installed() {
    let script = system_packages();
    for (name, least) in [("qemu", least::QEMU), ("libvirt", least::LIBVIRT)] {
        let line = script.lines().find_map(|line| line.strip_prefix(&format!("least_{name}="))).unwrap();
        assert_eq!(least::Version::find(line), Some(least.version), "{name}");
    }
}

#[test]
fn the_packages_of_tools_are_those_that_are_installed() {
    let script = system_packages();
    let packages: Vec<&str> = script.split(|c: char| c.is_whitespace() || "()".contains(c)).collect();
    for (tool, package, _) in gather::TOOLS {
        assert!(packages.contains(&package), "{package}, which has {tool}, is not in system-packages");
    }
}

/// Flags that make the looks at hypervisors short: a libvirt that fails at once, and one second for the KVM probe.
const QUICK: [&str; 4] =
    ["--set", "hypervisor.uri=qemu:///no-such-driver", "--set", "hypervisor.kvm_probe_limit_s=1"];

#[test]
fn what_is_missing_is_named_with_a_fix_and_exits_with_1() {
    let world = World::new();
    let output = world
        .command(&[&["doctor", "--json", "--set", "api.listen=127.0.0.1:0"][..], &QUICK].concat())
        .env("PATH", world.dir.path())
        .output()
        .unwrap();
    let json = Ran::of(output).failed_with(1).json();
    let checks = json["checks"].as_array().unwrap();
    let check =
        |name: &str| checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(check("qemu")["status"], "fail", "{json}");
    assert_eq!(check("libvirt")["status"], "fail", "{json}");
    assert!(check("libvirt")["finding"].as_str().unwrap().contains("qemu:///no-such-driver"), "{json}");
    assert_eq!(check("image tools")["status"], "warn", "{json}");
    assert!(check("image tools")["fix"].as_str().unwrap().contains("mmdebstrap"), "{json}");
    assert_eq!(check("images")["fix"], "cloudlet image build all", "{json}");
    let count = |status: &str| checks.iter().filter(|check| check["status"] == status).count();
    for status in ["ok", "warn", "fail"] {
        assert_eq!(json[status], count(status), "{json}");
    }
    for check in checks {
        assert_eq!(check["status"] == "ok", check["fix"].is_null(), "{check}");
    }
    assert!(!world.state_dir().exists(), "looking makes nothing");
}

#[test]
fn a_port_of_another_program_fails_and_text_names_check_and_fix() {
    let world = World::new();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("api.listen={}", holder.local_addr().unwrap());
    let answering = std::thread::spawn(move || drop(holder.accept()));
    let ran = world.run(&[&["doctor", "--set", &listen][..], &QUICK].concat()).failed_with(1);
    answering.join().unwrap();
    let port = ran.stdout.lines().position(|line| line.starts_with("fail  api port")).expect(&ran.stdout);
    assert!(
        ran.stdout
            .lines()
            .nth(port + 1)
            .unwrap()
            .trim_start()
            .starts_with("fix: choose another with api.listen")
    );
    assert!(ran.stderr.contains("running a tiny guest under KVM\n"), "progress: {}", ran.stderr);
}
