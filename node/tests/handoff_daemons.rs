//! A VM moves between two daemons while its guest writes: real meshes, TLS and streams, on hypervisors without guests.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests use real time and may panic"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use handheld::api::{Code, Event, HandoffState, State};
use mesh::trust::Permissions;
use migration::VmId;
use migration::hypervisor::Hypervisor as _;
use migration::hypervisor::fake::Operation;
use reqwest::StatusCode;

mod api_support;
mod cli_support;
mod handoff_support;

use api_support::mission::{self, USE, client, code_of, ready};
use cli_support::Ran;
use handoff_support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_working_vm_moves_with_all_that_it_has() {
    let authority = mission::authority();
    let sites = sites(&authority, 2, |_, _| {});
    knows(&sites[0], 1).await;
    knows(&sites[1], 1).await;
    let dir = tempfile::tempdir().unwrap();
    let hand = mission::handheld(&authority, USE, &dir.path().join("hand"));
    let (here, there) = (client(sites[0].daemon(), &hand), client(sites[1].daemon(), &hand));
    let instance = ready(&here, "walker", "phone").await;
    let (vm, image) = (VmId(instance.id), instance.image.parse().unwrap());
    assert_eq!(code_of(&here.hand_off(instance.id, "site-1").await.unwrap_err()), Code::NotAllowed);

    // What the guest remembers, its memory, which it goes on writing, and its disk.
    let source = Arc::clone(&sites[0].world.hypervisor);
    source.fake().adopt(vm).unwrap();
    source.fake().agent_write_file(vm, "/root/own", b"own").unwrap();
    let clusters = [(3, noise(30, CLUSTER)), (7, noise(70, CLUSTER)), (9, vec![0; CLUSTER])];
    sites[0].write_disk(vm, image, &clusters);
    let written = Arc::new(Mutex::new(BTreeMap::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (source, written, stop) = (Arc::clone(&source), Arc::clone(&written), Arc::clone(&stop));
        std::thread::spawn(move || {
            for round in 0u64.. {
                let number = round * 7 % 40;
                // It writes until it stands still or is gone; what it could not write, it has not.
                if stop.load(Ordering::SeqCst)
                    || source.fake().write_page(vm, number, &page(round + 1000)).is_err()
                {
                    return;
                }
                written.lock().unwrap().insert(number, round + 1000);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        })
    };

    let operator = sites[0].operator();
    let mut events = here.events().await.unwrap();
    let begun = operator.hand_off(instance.id, "site-1").await.unwrap();
    assert!(!begun.state.is_final(), "{begun:?}");
    let done = reached(&operator, &instance, HandoffState::Done).await;
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    println!("{done:?}");
    assert!(done.downtime_ms.is_some() && done.sent_bytes > 40 * 4096, "{done:?}");

    // It is there with the same id and its user, and nothing is left here.
    let moved = there.instance(instance.id).await.unwrap();
    assert_eq!((moved.state, moved.users, &moved.image), (State::Ready, 1, &instance.image));
    assert!(sites[1].executes(vm) && !sites[0].executes(vm));
    assert!(sites[0].world.instance_dirs().is_empty() && sites[0].world.hypervisor.running().is_empty());
    let target = sites[1].world.hypervisor.fake();
    assert_eq!(target.guest_file(vm, "/root/own").unwrap().unwrap(), b"own");
    assert_eq!(target.memory_digest(vm).unwrap(), expected(&written.lock().unwrap()), "its memory");
    for (cluster, content) in &clusters {
        assert_eq!(sites[1].read_disk(vm, *cluster), *content, "cluster {cluster}");
    }
    // Who asks at the old place is told the new one, and listeners were told by themselves.
    let url = format!("https://{}/api/v1/instances/{}", mission::address(sites[0].daemon()), instance.id);
    let node = mission::node(&sites[1].world).to_string();
    let (status, body) = get(&sites[0], &url).await;
    assert_eq!(status, StatusCode::GONE, "{body}");
    let api = format!("https://{}", mission::address(sites[1].daemon()));
    let id = instance.id.to_string();
    assert_eq!(body, serde_json::json!({"error": "moved", "instance": id, "node": node, "api": [api]}));
    let told = async {
        loop {
            match events.next().await.unwrap() {
                Some(Event::Moved(moved)) => return moved,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    };
    let told = tokio::time::timeout(LIMIT, told).await.unwrap();
    assert_eq!((told.instance, told.node, told.api), (instance.id, node, vec![api]));

    // And back again, by the command line.
    let shell = cli_support::World::new();
    let ran = handoff(&sites[1], &shell, &[&instance.id.to_string(), "--to", "site-0"]).succeeded();
    assert!(ran.stdout.contains("serves at site-0"), "{}", ran.stdout);
    assert!(sites[0].executes(vm) && !sites[1].executes(vm));
    assert_eq!(here.instance(instance.id).await.unwrap().state, State::Ready);
    assert_eq!(sites[0].read_disk(vm, 3), clusters[0].1);
    // The owner ends it as any other.
    here.release(instance.id, "phone").await.unwrap();
    until("it is stopped", || async { sites[0].world.hypervisor.running().is_empty() }).await;
    for mut site in sites {
        site.daemon.take().unwrap().stop().unwrap();
    }
}

/// What the memory must be: the template, and what was written since.
fn expected(written: &BTreeMap<u64, u64>) -> [u8; 32] {
    let mut memory = noise(1, PAGES as usize * PAGE / 2);
    memory.resize(PAGES as usize * PAGE, 0);
    for (number, seed) in written {
        memory[*number as usize * PAGE..][..PAGE].copy_from_slice(&page(*seed));
    }
    *blake3::hash(&memory).as_bytes()
}

async fn get(site: &Site, url: &str) -> (StatusCode, serde_json::Value) {
    let trust = site.world.config.trust_home().load().unwrap().unwrap();
    let builder = reqwest::Client::builder().no_proxy();
    let http =
        builder.tls_backend_preconfigured(mesh::trust::tls::client(&trust, None).unwrap()).build().unwrap();
    let answer = http.get(url).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

fn handoff(site: &Site, shell: &cli_support::World, arguments: &[&str]) -> Ran {
    let api = format!("https://{}", mission::address(site.daemon()));
    let state = site.world.state_dir();
    let mut command = shell.command(&["--state-dir", state.to_str().unwrap(), "handoff", "--api", &api]);
    Ran::of(command.env_remove("CLOUDLET_TRUST__INSECURE").args(arguments).output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_at_the_destination_leaves_the_vm_where_it_was() {
    let authority = mission::authority();
    let sites = sites(&authority, 2, |_, _| {});
    knows(&sites[0], 1).await;
    let operator = sites[0].operator();
    let instance = ready(&operator, "walker", "phone").await;
    let vm = VmId(instance.id);
    let shell = cli_support::World::new();
    let id = instance.id.to_string();

    // Device state that does not load; a port that cannot be opened; a VM that does not start to run.
    for (operation, said) in [
        (Operation::ClonePaused, "ClonePaused fails"),
        (Operation::ForwardPort, "ForwardPort fails"),
        (Operation::Resume, "Resume fails"),
    ] {
        sites[1].world.hypervisor.fail_nth(operation, 1);
        let ran = handoff(&sites[0], &shell, &[&id, "--to", "site-1"]).failed_with(1);
        assert!(ran.stderr.contains(said), "{operation:?}: {}", ran.stderr);
        assert!(sites[0].executes(vm) && sites[1].world.hypervisor.running().is_empty(), "{operation:?}");
        assert_eq!(operator.instance(instance.id).await.unwrap().state, State::Ready);
        assert!(sites[1].world.instance_dirs().is_empty(), "{operation:?}");
    }
    // Here: a VM that does not stand still, or does not stream.
    for operation in [Operation::StreamOut, Operation::Freeze] {
        sites[0].world.hypervisor.fail_nth(operation, 1);
        handoff(&sites[0], &shell, &[&id, "--to", "site-1"]).failed_with(1);
        assert!(sites[0].executes(vm), "{operation:?}");
    }
    // Nobody, itself, and nothing.
    for (arguments, said) in [
        ([&id, "--to", "site-9"], "no other cloudlet is known as"),
        ([&id, "--to", "site-0"], "no other cloudlet is known as"),
        (["00000000-0000-0000-0000-000000000001", "--to", "site-1"], "there is no instance"),
    ] {
        let ran = handoff(&sites[0], &shell, &arguments).failed_with(1);
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
    // A destination that is being emptied.
    sites[1].operator().drain(true).await.unwrap();
    let ran = handoff(&sites[0], &shell, &[&id, "--to", "site-1"]).failed_with(1);
    assert!(ran.stderr.contains("emptied"), "{}", ran.stderr);
    sites[1].operator().drain(false).await.unwrap();
    // After all that it moves.
    handoff(&sites[0], &shell, &[&id, "--to", "site-1"]).succeeded();
    assert!(sites[1].executes(vm) && !sites[0].executes(vm));
    let boss = mission::handheld(&authority, USE | Permissions::OPERATE, tempfile::tempdir().unwrap().path());
    let boss = client(sites[1].daemon(), &boss);
    assert_eq!(code_of(&boss.cancel_handoff(instance.id).await.unwrap_err()), Code::NotReady);
    for mut site in sites {
        site.daemon.take().unwrap().stop().unwrap();
    }
}
