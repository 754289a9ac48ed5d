//! Bad inputs for the built programs and real VMs: each has its clear error, nothing is left running, and nothing is lost.
//!
//! What needs no VM is tested elsewhere: typos in the configuration (`cli_config`), taken ports and unknown services
//! (`cli_up`), recordings that are none (`handheld`, and the service itself in `real_daemon`).
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests use real time and stop at the first thing that goes wrong"
)]

mod real_support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use handheld::api::{Instance, Sharing, Start, State};
use real_support::{
    CLOUDLET, Namespace, PATIENCE, RADIO, Ran, Site, Tmpfs, Up, expected_words, is_root, recording, speech,
    wait, wait_until,
};
use vm_images::manifest::Accelerator;
use vm_images::{Digest, Manifest, Role, SigningKey, Store, qcow2};

#[test]
fn damaged_orphaned_and_foreign_images_are_refused_by_name_and_work_again_once_repaired() {
    let site = Site::new();
    publish_relic(&site);
    let part = site.images.own_copy("speech").join("device.stream");
    let up = Up::start(&site, &[]);
    let label = label(&site, "speech");

    // One bit of one byte.
    let change = flip(&part);
    let reason = refused(&site, &up, "flipped");
    assert!(reason.contains(&format!("the device stream of image {label} is damaged")), "{reason}");
    assert!(reason.contains("Do not start it: remove it, then build or import it again"), "{reason}");
    let verify = site.cloudlet(&["image", "verify", "speech"]);
    assert!(verify.code == Some(1) && verify.stdout.contains("device stream"), "{verify:?}");
    fs::set_permissions(&part, fs::Permissions::from_mode(0o644)).unwrap();
    change(&part);

    // Its parent has gone.
    let parent = site.images.dir("base");
    let aside = site.path("aside");
    fs::rename(&parent, &aside).unwrap();
    let reason = refused(&site, &up, "orphan");
    assert!(reason.contains(&format!("image {label} needs its parent image")), "{reason}");
    assert!(reason.contains(&site.images.id("base").to_string()), "{reason}");
    assert!(reason.contains("cloudlet image build base"), "{reason}");
    fs::rename(&aside, &parent).unwrap();

    // Suspended on a machine that this QEMU does not have: refused at once.
    let relic = Start { service: "relic".parse().unwrap(), ..speech("relic", Sharing::Private) };
    let reason = chain(&wait(up.client().start(&relic)).unwrap_err());
    assert!(reason.contains("pc-q35-99.0, which this QEMU"), "{reason}");
    assert!(reason.contains("install a newer QEMU, or rebuild the image here"), "{reason}");
    assert_eq!(site.qemus(), Vec::<u32>::new());

    // Nothing was lost: the same daemon starts the repaired image.
    let started = wait(up.client().start(&speech("repaired", Sharing::Private))).unwrap();
    wait(up.client().wait_ready(started.id, PATIENCE)).unwrap();
    assert_eq!(up.terminate(), Some(0));
    assert_eq!(site.qemus(), Vec::<u32>::new());
}

/// A request for an instance that fails; gives the reason. Nothing is left of it.
#[track_caller]
fn refused(site: &Site, up: &Up, token: &str) -> String {
    let client = up.client();
    let started = wait(client.start(&speech(token, Sharing::Private))).unwrap();
    let mut last: Option<Instance> = None;
    wait_until("the instance fails", || {
        let instance = wait(client.instance(started.id)).unwrap();
        let failed = instance.state == State::Failed;
        assert_ne!(instance.state, State::Ready, "{instance:?}");
        last = Some(instance);
        failed
    });
    assert_eq!(site.qemus(), Vec::<u32>::new());
    wait_until("its files are gone", || site.instance_dirs().is_empty());
    let reason = last.unwrap().reason.unwrap();
    println!("{token}: {reason}");
    reason
}

fn label(site: &Site, name: &str) -> String {
    site.images.manifest(name).label(site.images.id(name))
}

/// Changes one bit in the middle of a read-only file; gives what changes it back.
fn flip(part: &Path) -> impl Fn(&Path) + use<> {
    let change = |part: &Path| {
        let file = File::options().read(true).write(true).open(part).unwrap();
        let at = file.metadata().unwrap().len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    fs::set_permissions(part, fs::Permissions::from_mode(0o644)).unwrap();
    change(part);
    change
}

/// Publishes an image of a service 'relic' that was suspended on a machine type of the future.
fn publish_relic(site: &Site) {
    fs::create_dir_all(site.state()).unwrap();
    fs::set_permissions(site.state(), fs::Permissions::from_mode(0o700)).unwrap();
    let key = SigningKey::load_or_create(&site.state().join("image-key")).unwrap();
    let store = Store::open(site.images.root(), key).unwrap();
    let mut relic = site.images.manifest("speech");
    relic.name = "relic".to_owned();
    relic.recipe = Digest::of(b"relic");
    relic.hardware.machine = "pc-q35-99.0".to_owned();
    if let Some(service) = &mut relic.service {
        service.id = "relic".parse().unwrap();
    }
    let draft = store.begin(relic.parent).unwrap();
    let below = store.get(relic.parent.unwrap()).unwrap().path(Role::Disk).unwrap();
    let virtual_bytes = qcow2::virtual_size(&below).unwrap();
    qcow2::create_overlay(&draft.path(Role::Disk), &draft.backing().unwrap(), virtual_bytes).unwrap();
    let template = File::create(draft.path(Role::MemoryTemplate)).unwrap();
    template.set_len(relic.hardware.memory_bytes).unwrap();
    draft.add_bytes(Role::DeviceStream, b"never read").unwrap();
    let published: Manifest = Manifest { parts: Vec::new(), ..relic };
    draft.publish(published).unwrap();
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

#[test]
fn a_full_disk_stops_starts_and_builds_with_words_and_nothing_is_lost() {
    if !is_root("mounting a small file system") {
        return;
    }
    let site = Site::new();
    let small = Tmpfs::over(&site, site.state(), 48 << 20);

    // A build begins with counting what it will need.
    let store = site.state().join("st");
    let build = ["image", "build", "base", "--image-store", store.to_str().unwrap(), "--recipes", RECIPES];
    let ran = site.cloudlet(&build);
    assert!(ran.failed().contains("no space left for "), "{ran:?}");
    assert!(ran.stderr.contains("nothing was published. Free some space"), "{ran:?}");
    assert_eq!(fs::read_dir(store.join("images")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.join("tmp")).unwrap().count(), 0, "rubbish is left");

    let up = Up::start(&site, &[]);
    let client = up.client();
    let kept = wait(client.start(&speech("kept", Sharing::Private))).unwrap();
    let kept = wait(client.wait_ready(kept.id, PATIENCE)).unwrap();
    let filler = small.fill();
    let started = wait(client.start(&speech("full", Sharing::Private)));
    let told = match started {
        Err(error) => chain(&error),
        Ok(started) => {
            let mut reason = None;
            wait_until("the start comes to an end", || {
                let instance = wait(client.instance(started.id)).unwrap();
                reason = instance.reason;
                instance.state.is_final()
            });
            reason.unwrap()
        }
    };
    println!("full: {told}");
    assert!(told.to_lowercase().contains("no space left"), "{told}");
    assert_eq!(site.qemus().len(), 1);
    assert_eq!(
        wait(client.wait_ready(kept.id, PATIENCE)).unwrap().address,
        kept.address,
        "the other one suffered"
    );

    fs::remove_file(filler).unwrap();
    let again = wait(client.start(&speech("full", Sharing::Private))).unwrap();
    wait(client.wait_ready(again.id, PATIENCE)).unwrap();
    assert_eq!(up.terminate(), Some(0));
    assert_eq!(site.qemus(), Vec::<u32>::new());
}

const RECIPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../vm-images/recipes");

#[test]
fn without_multicast_the_daemon_says_so_and_the_address_works() {
    if !is_root("making a network namespace") {
        return;
    }
    let site = Site::new();
    let namespace = Namespace::without_multicast();
    let inside = namespace.prefix();
    let program = [&inside[..], &[CLOUDLET]].concat();
    let up = Up::start_as(&site, &program, &["--set", &format!("discovery.interfaces={RADIO}")]);
    wait_until("the daemon warns", || up.log().contains("handhelds cannot discover this cloudlet"));
    let log = up.log();
    assert!(log.contains("the address still works") && log.contains("radio: has no multicast"), "{log}");

    let handheld = handheld();
    let program = [&inside[..], &[handheld.to_str().unwrap()]].concat();
    let run = |arguments: &[&str]| Ran::of(site.command(&program, arguments).output().unwrap());
    let nobody = run(&["discover", "--interface", RADIO]);
    assert!(nobody.failed().contains("no network interface can do multicast"), "{nobody:?}");
    let recording = recording();
    let ran = run(&["run", "speech", recording.to_str().unwrap(), "--cloudlet", &up.url(), "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.json()["results"][0]["text"], expected_words(&recording));
    assert_eq!(up.terminate(), Some(0));
    assert_eq!(site.qemus(), Vec::<u32>::new());
}

/// The handheld's program lies beside ours; only a build of the whole workspace makes it, too.
fn handheld() -> PathBuf {
    let path = Path::new(CLOUDLET).with_file_name("handheld");
    assert!(
        path.exists(),
        "{} is missing; run `make test`, or first `cargo build -p handheld`",
        path.display()
    );
    path
}

/// Seconds that the probe may take here.
const PROBE_LIMIT_S: u64 = 2;
/// What `doctor` needs besides; guess, for a busy machine.
const REST_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_kvm_that_does_not_work_is_found_out_in_time_and_said() {
    let site = Site::new();
    let begin = Instant::now();
    let limit = format!("hypervisor.kvm_probe_limit_s={PROBE_LIMIT_S}");
    // What libvirt finds is not asked for here, and takes seconds.
    let no_libvirt =
        ["--set", "hypervisor.uri=qemu:///no-such-driver", "--set", "hypervisor.accelerator=auto"];
    let doctor = site.cloudlet(&[&["doctor", "--json", "--set", &limit][..], &no_libvirt].concat());
    let took = begin.elapsed();
    let kvm = doctor.json()["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "kvm")
        .cloned()
        .unwrap();
    println!("{kvm} after {took:?}");
    assert!(took < Duration::from_secs(PROBE_LIMIT_S) + REST_LIMIT, "{took:?}");
    let finding = kvm["finding"].as_str().unwrap();
    // The images were made under what this host can do.
    if site.images.accelerator() == Accelerator::Kvm {
        assert_eq!((kvm["status"].as_str(), finding), (Some("ok"), "a guest ran under KVM"));
        return;
    }
    assert_eq!(kvm["status"], "warn", "{kvm}");
    assert!(finding.contains("guests run under TCG instead"), "{kvm}");
    assert!(kvm["fix"].as_str().unwrap().contains("hypervisor.accelerator"), "{kvm}");
    if Path::new("/dev/kvm").exists() {
        // It is there and can be opened, so only a guest can have told.
        let told = finding.contains("had not come to its end after 2s") || finding.contains("QEMU gave up: ");
        assert!(told || finding.contains("cannot be opened"), "{kvm}");
    }
    // Who wants KVM and nothing else is told why not.
    let ran = site.cloudlet(&[
        "up",
        "--set",
        "hypervisor.accelerator=kvm",
        "--set",
        &limit,
        "--listen",
        "127.0.0.1:0",
    ]);
    assert!(ran.failed().contains("hypervisor.accelerator is \"kvm\", but "), "{ran:?}");
    assert!(ran.stderr.contains("set it to \"auto\" or \"tcg\""), "{ran:?}");
}
