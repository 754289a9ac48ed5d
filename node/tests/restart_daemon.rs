//! Daemons that are killed and started again, on a hypervisor whose VMs outlive them; and daemons that end in order.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests use real time and may panic"
)]

use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;

use handheld::api::State;
use migration::VmId;
use node::daemon::Error;
use node::instances::Journal;
use node::lifecycle::{Keep, Reading, SavedPhase};
use uuid::Uuid;

mod api_support;
use api_support::hypervisor::Call;
use api_support::{PATIENCE, World, eventually};

#[tokio::test]
async fn a_killed_daemon_finds_its_instances_their_ports_and_users_again() {
    let world = World::new();
    let first = world.daemon();
    let shared = first.client.ready("echo", "a", "shared").await;
    first.client.start("echo", "b", "shared").await;
    let shared = first.client.instance(shared.id).await;
    let private = first.client.ready("solo", "p", "private").await;
    let node = first.client.get("/cloudlet").await.1["node_id"].clone();
    let calls = world.hypervisor.calls().len();
    first.kill();
    assert_eq!(world.hypervisor.running().len(), 2);

    let second = world.daemon();
    assert_eq!(second.client.get("/cloudlet").await.1["node_id"], node);
    assert_eq!(second.client.wait(shared.id, State::Ready).await, shared);
    assert_eq!(second.client.wait(private.id, State::Ready).await, private);
    // The same token has the same instance, and the shared one has room for one more.
    assert_eq!(second.client.start("echo", "a", "shared").await.0.id, shared.id);
    let (joined, created) = second.client.start("echo", "c", "shared").await;
    assert!(!created && joined.id == shared.id && joined.users == 3);
    let since: Vec<Call> = world.hypervisor.calls().split_off(calls);
    assert!(since.iter().all(|call| matches!(call, Call::Adopt(_))), "{since:?}");
    second.stop().unwrap();
    assert!(world.hypervisor.running().is_empty());
}

#[tokio::test]
async fn an_adopted_instance_is_not_called_ready_before_its_service_answers() {
    let mut world = World::new();
    world.config.instances.start_limit_s = 1;
    let first = world.daemon();
    let instance = first.client.ready("echo", "a", "private").await;
    first.kill();
    world.hypervisor.health(500);
    let second = world.daemon();
    assert_eq!(second.client.instance(instance.id).await.state, State::Starting);
    let failed = second.client.wait(instance.id, State::Failed).await;
    assert!(failed.reason.unwrap().contains("500"));
    assert!(world.hypervisor.running().is_empty());
}

#[tokio::test]
async fn what_is_lost_half_made_or_nobodys_is_cleaned_up() {
    let world = World::new();
    let first = world.daemon();
    let lost = first.client.ready("echo", "lost", "private").await;
    let kept = first.client.ready("echo", "kept", "private").await;
    world.hypervisor.hold_clones();
    let (half, _) = first.client.start("echo", "half", "private").await;
    eventually("the clone is under way", || world.hypervisor.clones() == 3).await;
    first.kill();
    // The hypervisor finishes what it was told, as libvirt would, although the daemon is gone.
    world.hypervisor.release_clones();
    eventually("the half made VM runs", || world.hypervisor.running().contains(&VmId(half.id))).await;
    world.hypervisor.die(VmId(lost.id));
    let stray = VmId(Uuid::new_v4());
    world.hypervisor.stray(stray, world.dir.path());
    let orphan = Uuid::new_v4().to_string();
    let instances = world.state_dir().join("instances");
    std::fs::create_dir(instances.join(&orphan)).unwrap();
    std::fs::write(instances.join(&orphan).join("disk.qcow2"), b"x").unwrap();

    let second = world.daemon();
    let reason = second.client.wait(lost.id, State::Failed).await.reason.unwrap();
    assert!(reason.contains("lost"), "{reason}");
    let reason = second.client.wait(half.id, State::Failed).await.reason.unwrap();
    assert!(reason.contains("restarted"), "{reason}");
    second.client.wait(kept.id, State::Ready).await;
    assert_eq!(world.hypervisor.running(), [VmId(kept.id)]);
    assert_eq!(world.instance_dirs(), [kept.id.to_string()]);
    assert!(world.hypervisor.calls().contains(&Call::Stop(stray)));
    // A client whose start was cut off simply asks again.
    let again = second.client.ready("echo", "half", "private").await;
    assert_ne!(again.id, half.id);
}

#[tokio::test]
async fn the_record_is_on_disk_before_the_vm_is_started() {
    let world = World::new();
    let (sender, images) = mpsc::sync_channel(1);
    let records = world.state_dir().join("records");
    let copies = world.dir.path().to_owned();
    world.hypervisor.on_clone(move |spec| {
        // What a crash at this moment would leave.
        let copy = copies.join(format!("crash-{}", spec.vm));
        copy_tree(&records, &copy);
        sender.send((spec.vm, copy)).unwrap();
    });
    let daemon = world.daemon();
    let (instance, _) = daemon.client.start("echo", "a", "private").await;
    let (vm, copy) = tokio::task::spawn_blocking(move || images.recv().unwrap()).await.unwrap();
    assert_eq!(vm, VmId(instance.id));
    let found = Journal::open(&copy).unwrap().read().unwrap();
    match found.get(&vm) {
        Some(Reading::Good(saved)) => assert_eq!(saved.phase, SavedPhase::Starting),
        other => panic!("{other:?}"),
    }
}

/// The records of a daemon that was killed a moment ago.
fn records(world: &World) -> sled::Db {
    let begin = std::time::Instant::now();
    loop {
        match sled::open(world.state_dir().join("records")) {
            Ok(db) => return db,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let into = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &into);
        } else {
            std::fs::copy(entry.path(), into).unwrap();
        }
    }
}

#[tokio::test]
async fn an_orderly_end_leaves_nothing_behind() {
    let world = World::new();
    let daemon = world.daemon();
    daemon.client.ready("echo", "a", "private").await;
    // One more is in the middle of its start.
    world.hypervisor.hold_clones();
    daemon.client.start("echo", "b", "private").await;
    eventually("the clone is under way", || world.hypervisor.clones() == 2).await;
    daemon.ask_to_stop();
    world.hypervisor.release_clones();
    daemon.stop().unwrap();
    assert!(world.hypervisor.running().is_empty() && world.instance_dirs().is_empty());
}

#[tokio::test]
async fn an_orderly_end_can_keep_what_is_ready() {
    let mut world = World::new();
    world.keep = Keep::Ready;
    let daemon = world.daemon();
    let ready = daemon.client.ready("echo", "a", "private").await;
    daemon.stop().unwrap();
    assert_eq!(world.hypervisor.running(), [VmId(ready.id)]);
    let next = world.daemon();
    assert_eq!(next.client.wait(ready.id, State::Ready).await, ready);
}

#[tokio::test]
async fn a_second_daemon_and_a_taken_port_are_named() {
    let mut world = World::new();
    let daemon = world.daemon();
    let instance = daemon.client.ready("echo", "a", "private").await;
    let error = world.try_daemon().err().unwrap();
    assert!(matches!(error, Error::StateDir(_)), "{error}");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    daemon.kill();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    world.config.api.listen = taken.local_addr().unwrap();
    let error = world.try_daemon().err().unwrap();
    assert!(matches!(error, Error::PortTaken(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains(&taken.local_addr().unwrap().to_string()) && text.contains("--listen"), "{text}");
    // Nothing was touched meanwhile.
    assert_eq!(world.hypervisor.running(), [VmId(instance.id)]);
    drop(taken);
    let daemon = world.daemon();
    daemon.client.wait(instance.id, State::Ready).await;
}

#[tokio::test]
async fn an_unreadable_record_costs_its_vm_and_no_other() {
    let world = World::new();
    let first = world.daemon();
    let good = first.client.ready("echo", "a", "private").await;
    let bad = first.client.ready("echo", "b", "private").await;
    first.kill();
    let db = records(&world);
    let mut record = db.get(bad.id.as_bytes()).unwrap().unwrap().to_vec();
    let middle = record.len() / 2;
    record[middle] ^= 0x10;
    db.insert(bad.id.as_bytes(), record).unwrap();
    drop(db);
    let second = world.daemon();
    second.client.wait(good.id, State::Ready).await;
    assert_eq!(world.hypervisor.running(), [VmId(good.id)]);
    assert_eq!(second.client.instances().await.len(), 1);
    let (status, _) = second.client.get(&format!("/instances/{}", bad.id)).await;
    assert_eq!(status.as_u16(), 404);
}
