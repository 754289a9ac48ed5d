//! `qemu:///system`: the cheap part of the contract on a libvirt daemon of the test's own.
//!
//! The daemon runs in namespaces for mounts and processes. There `/run` and libvirt's directories are empty ones of its own,
//! so it is no other daemon's neighbour and touches no other domain; whatever it leaves ends with its namespace.
#![cfg(all(feature = "fake", feature = "libvirt"))]
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

mod libvirt_support;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libvirt_support::{Image, Root, clone_spec, overlay, run, wait_until};
use migration::hypervisor::Hypervisor;
use migration::hypervisor::libvirt::{Libvirt, Uri};
use migration::hypervisor::suite::{self, Fixture};
use migration::hypervisor::{SuspendFiles, Suspended};

const TEST: &str = "clones_run_under_a_daemon_of_the_system";
/// The directory of the test; its presence makes a process the one inside the namespaces.
const INSIDE: &str = "CLOUDLET_TEST_SYSTEM";
/// What is empty and the daemon's own inside.
const OWN: [&str; 5] = ["/run", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"];
const PASSED: &str = "passed";

/// Why it cannot be tried here.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let is_there = |path: &str| Path::new(path).exists();
    if !is_there("/usr/sbin/libvirtd") {
        return Some("there is no /usr/sbin/libvirtd (package libvirt-daemon)".to_owned());
    }
    if let Some(directory) = OWN.iter().find(|directory| !is_there(directory)) {
        return Some(format!("there is no {directory}, which the daemon needs"));
    }
    let namespaces =
        Command::new("unshare").args(["--mount", "--pid", "--fork", "--mount-proc", "true"]).status();
    (!namespaces.is_ok_and(|status| status.success())).then(|| "namespaces cannot be made".to_owned())
}

#[test]
fn clones_run_under_a_daemon_of_the_system() {
    if let Some(directory) = std::env::var_os(INSIDE) {
        return inside(Path::new(&directory));
    }
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let directory = tempfile::Builder::new().prefix("clt-").tempdir_in("/tmp").unwrap();
    let mounts: String = OWN.map(|path| format!("mount -t tmpfs tmpfs {path} && ")).concat();
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        // The shell stays: as the first process in there it reaps the QEMUs, whose end libvirt otherwise waits for in vain.
        .args(["sh", "-c", &format!("{mounts} \"$@\"; exit $?"), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(INSIDE, directory.path())
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "inside it failed: {status}");
    assert!(directory.path().join(PASSED).exists(), "no test is called '{TEST}'");
}

struct Daemon(Child);

impl Daemon {
    fn start(directory: &Path) -> Self {
        // As the embedded libvirt is configured: no cgroups, no labels, the guests' files are root's.
        let qemu = "stdio_handler = \"file\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\n\
                    remember_owner = 0\nuser = \"root\"\ngroup = \"root\"\n";
        fs::write("/etc/libvirt/qemu.conf", qemu).unwrap();
        fs::write("/etc/libvirt/libvirtd.conf", "auth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n")
            .unwrap();
        fs::create_dir_all("/run/libvirt").unwrap();
        let log = File::create(directory.join("daemon.log")).unwrap();
        let child =
            Command::new("/usr/sbin/libvirtd").stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        wait_until("the daemon listens", || Path::new("/run/libvirt/libvirt-sock").exists());
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn inside(directory: &Path) {
    let root = Root::at(directory);
    let daemon = Daemon::start(directory);
    let base = Image::named("base");
    let open =
        || Libvirt::open(&Uri::Daemon("qemu:///system".to_owned()), base.hardware().accelerator).unwrap();
    let hypervisor = open();
    suite::unknown(&hypervisor);

    // The image that was built is the one that the suite would have booted and suspended.
    let files = root.path("files");
    fs::create_dir(&files).unwrap();
    let fixture = Fixture {
        directory: files,
        hardware: base.hardware().clone(),
        kernel: base.kernel(),
        initrd: base.initrd(),
        make_disk: Box::new(|below, disk| overlay(below.unwrap_or(&base.disk()), disk)),
        boot_limit: Duration::from_secs(180),
    };
    let length = |path: &Path| fs::metadata(path).unwrap().len();
    let suspended = Suspended {
        template_bytes: length(&base.template()),
        template_used_bytes: length(&base.template()),
        device_stream_bytes: length(&base.device_stream()),
    };
    let image = suite::Image {
        disk: base.disk(),
        files: SuspendFiles { template: base.template(), device_stream: base.device_stream() },
        suspended,
        hardware: base.hardware().clone(),
    };
    suite::refusals(&hypervisor, &fixture, &image);

    // A clone answers, a second handle takes it over, and nothing of it is left.
    let spec = clone_spec(&root, &base, "clone");
    hypervisor.clone_from(&spec).unwrap();
    assert_eq!(run(&hypervisor, spec.vm, "/bin/echo", &["hello"]).trim(), "hello");
    let again = open();
    again.adopt(spec.vm).unwrap();
    assert_eq!(run(&again, spec.vm, "/bin/echo", &["again"]).trim(), "again");
    assert_eq!(root.qemus().len(), 1);
    again.stop(spec.vm).unwrap();
    assert!(again.list().unwrap().iter().all(|running| running.vm != spec.vm));
    wait_until("its QEMU has ended", || root.qemus().is_empty());
    base.assert_unchanged();
    drop(daemon);
    fs::write(directory.join(PASSED), "").unwrap();
}
