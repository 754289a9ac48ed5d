//! The built daemon with the real Service VM: from the first request to the last words, killed and started again.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests use real time and stop at the first thing that goes wrong"
)]

mod real_support;

use std::fs;
use std::net::SocketAddr;

use handheld::api::{Instance, Sharing, State};
use real_support::{PATIENCE, Site, Up, expected_words, http, recording, speech, wait, wait_until};

#[test]
fn a_killed_daemon_loses_no_instance_and_leaves_nothing_half_made() {
    let site = Site::new();
    let up = Up::start(&site, &[]);
    let instance = first_use(&site, &up);
    let mut up = survives_a_kill(&site, up, &instance);
    for moment in [Moment::Promised, Moment::Files, Moment::Qemu] {
        up = killed_while_starting(&site, up, &instance, moment);
    }
    assert_eq!(up.terminate(), Some(0));
    // Instances are transient copies: an orderly end leaves none.
    assert_eq!(site.qemus(), Vec::<u32>::new());
    assert_eq!(site.instance_dirs(), Vec::<String>::new());
    assert_eq!(site.noted_vms(), 0);
}

/// Ready means ready, and the words are right.
fn first_use(site: &Site, up: &Up) -> Instance {
    let client = up.client();
    let started = wait(client.start(&speech("a", Sharing::Shared))).unwrap();
    assert_eq!((started.state, started.address), (State::Starting, None), "{started:?}");
    let ready = wait(client.wait_ready(started.id, PATIENCE)).unwrap();
    let address = ready.address.unwrap();
    assert_eq!(http(address, "GET", "/healthz", b"").0, 200, "called ready, and is not");
    println!("ready after {:?} ms", ready.ready_after_ms);
    assert_eq!(site.qemus().len(), 1);
    let joined = wait(client.start(&speech("b", Sharing::Shared))).unwrap();
    assert_eq!((joined.id, joined.users), (ready.id, 2));

    let (status, said) = http(address, "POST", "/recognize", b"RIFF, or so it claims");
    println!("no WAV: {status} {said}");
    assert!(status == 415 && said.contains("this is no WAV file"), "{status} {said}");
    let recording = recording();
    let heard = wait(handheld::speech::recognize(address, fs::read(&recording).unwrap())).unwrap();
    assert_eq!(heard.text, expected_words(&recording));
    assert!(!heard.text.is_empty());
    joined
}

/// The VM runs on without its daemon, and the next one has it again with its port and users.
fn survives_a_kill(site: &Site, up: Up, instance: &Instance) -> Up {
    let before = site.qemus();
    up.kill();
    assert_eq!(site.qemus(), before, "the VM ended with its daemon");
    let address = instance.address.unwrap();
    assert_eq!(http(address, "GET", "/healthz", b"").0, 200);

    let up = Up::start(site, &[]);
    let again = wait(up.client().wait_ready(instance.id, PATIENCE)).unwrap();
    assert_eq!(again, *instance);
    assert_eq!(site.qemus(), before);
    let same = wait(up.client().start(&speech("a", Sharing::Shared))).unwrap();
    assert_eq!((same.id, same.users), (instance.id, 2), "the same client has the same instance");
    is_alive(address);
    up
}

fn is_alive(address: SocketAddr) {
    assert_eq!(http(address, "GET", "/healthz", b"").0, 200);
}

/// When a daemon is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The client was told that there is an instance.
    Promised,
    /// It has a directory.
    Files,
    /// It has a QEMU.
    Qemu,
}

/// Nothing is left of an instance in the middle of its start, and the other one is as it was.
fn killed_while_starting(site: &Site, up: Up, kept: &Instance, moment: Moment) -> Up {
    let half = wait(up.client().start(&speech("half", Sharing::Private))).unwrap();
    assert_eq!(half.state, State::Starting, "{half:?}");
    match moment {
        Moment::Promised => {}
        Moment::Files => {
            wait_until("it has a directory", || site.instance_dirs().contains(&half.id.to_string()))
        }
        Moment::Qemu => wait_until("it has a QEMU", || site.qemus().len() == 2),
    }
    up.kill();
    println!("killed at {moment:?}: {} QEMUs, directories {:?}", site.qemus().len(), site.instance_dirs());

    let up = Up::start(site, &[]);
    let client = up.client();
    wait_until("the half made instance is given up", || match wait(client.instance(half.id)) {
        Ok(instance) => {
            assert_ne!(instance.state, State::Ready, "{moment:?}: {instance:?}");
            instance.state.is_final()
        }
        Err(_) => true,
    });
    wait_until("its QEMU is gone", || site.qemus().len() == 1);
    wait_until("its files are gone", || site.instance_dirs() == [kept.id.to_string()]);
    assert_eq!(site.noted_vms(), 1, "libvirt still has notes about it");
    assert_eq!(wait(client.wait_ready(kept.id, PATIENCE)).unwrap().address, kept.address);
    is_alive(kept.address.unwrap());
    up
}
