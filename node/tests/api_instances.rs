//! Instances through real HTTP, on a hypervisor without guests.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests use real time and may panic"
)]

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use handheld::api::{Code, Problem, State};
use migration::VmId;
use migration::hypervisor::fake::{Agent, Operation};
use reqwest::StatusCode;

mod api_support;
use api_support::hypervisor::Call;
use api_support::images::ECHO_BYTES;
use api_support::{World, eventually};

#[tokio::test]
async fn an_instance_starts_becomes_ready_and_stops_with_its_last_client() {
    let world = World::new();
    let daemon = world.daemon();
    let client = &daemon.client;

    let (instance, created) = client.start("echo", "phone", "private").await;
    assert!(created && instance.address.is_none(), "{instance:?}");
    let ready = client.wait(instance.id, State::Ready).await;
    let address = ready.address.unwrap();
    assert_eq!(address.ip().to_string(), "127.0.0.1");
    assert_eq!(ready.users, 1);
    assert!(ready.ready_after_ms.is_some());
    let answer = api_support::plain_http().get(format!("http://{address}/anything")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "ok");
    // The guest wakes up in the past: its clock was set before anybody was told that it is ready.
    let vm = VmId(instance.id);
    assert_eq!(world.hypervisor.calls(), [Call::Clone(vm), Call::Cloned(vm), Call::SetTime(vm)]);

    let (status, body) = client.delete(instance.id, "client_token=phone").await;
    assert_eq!((status, body["state"].as_str()), (StatusCode::OK, Some("stopping")));
    let stopped = client.wait(instance.id, State::Stopped).await;
    assert!(stopped.reason.unwrap().contains("released") && stopped.address.is_none());
    assert!(world.hypervisor.running().is_empty() && world.instance_dirs().is_empty());
    // Repeating it is no error.
    assert_eq!(client.delete(instance.id, "client_token=phone").await.0, StatusCode::OK);
    daemon.stop().unwrap();
}

#[tokio::test]
async fn fifty_requests_with_one_token_get_one_vm() {
    let world = World::new();
    let daemon = world.daemon();
    let asks = (0..50).map(|_| {
        let client = daemon.client.clone();
        tokio::spawn(async move { client.start("echo", "phone", "shared").await })
    });
    let answers = futures_util::future::join_all(asks).await;
    let ids: BTreeSet<_> = answers.iter().map(|answer| answer.as_ref().unwrap().0.id).collect();
    let created = answers.iter().filter(|answer| answer.as_ref().unwrap().1).count();
    assert_eq!((ids.len(), created), (1, 1));
    let ready = daemon.client.ready("echo", "phone", "shared").await;
    assert_eq!((ready.users, world.hypervisor.clones()), (1, 1));
}

#[tokio::test]
async fn shared_instances_fill_up_and_private_ones_are_never_joined() {
    let world = World::new();
    let daemon = world.daemon();
    let client = &daemon.client;
    let first = client.start("echo", "a", "shared").await.0;
    let private = client.start("echo", "p", "private").await.0;
    let (joined, created) = client.start("echo", "b", "shared").await;
    assert_eq!((joined.id, joined.users, created), (first.id, 2, false));
    client.wait(first.id, State::Ready).await;
    assert_eq!(client.start("echo", "c", "shared").await.0.id, first.id);
    let (fourth, created) = client.start("echo", "d", "shared").await;
    assert!(created && fourth.id != first.id && fourth.id != private.id);
    assert!(client.start("echo", "q", "private").await.1);
    // A service for one user at a time is private whatever is asked for.
    let solo = client.start("solo", "a", "shared").await.0;
    let other = client.start("solo", "b", "shared").await.0;
    assert_ne!(solo.id, other.id);

    // Of three users two go: the instance stays; it ends with the third.
    for token in ["a", "b"] {
        assert_eq!(client.delete(first.id, &format!("client_token={token}")).await.1["state"], "ready");
    }
    assert_eq!(client.instance(first.id).await.users, 1);
    client.delete(first.id, "client_token=c").await;
    client.wait(first.id, State::Stopped).await;
    // Force stops it for everybody.
    client.delete(fourth.id, "force=true").await;
    assert!(client.wait(fourth.id, State::Stopped).await.reason.unwrap().contains("by request"));
}

#[tokio::test]
async fn a_refusal_says_what_is_missing_and_harms_nothing() {
    let mut world = World::new();
    // 1024 - 24 MiB: ten of 100 MiB fit by memory; eight of 500 fit by CPU (2 cores, 2 times).
    world.config.instances.cpu_overcommit = 2.0;
    let daemon = world.daemon();
    let client = &daemon.client;
    let mut last = None;
    for n in 0..8 {
        last = Some(client.ready("echo", &format!("c{n}"), "private").await);
    }
    let (status, problem) = client.refused("echo", "c8", "private").await;
    let missing = problem.missing.unwrap();
    assert_eq!((status, problem.code), (StatusCode::SERVICE_UNAVAILABLE, Code::InsufficientResources));
    assert_eq!((missing.memory_bytes, missing.cpu_millis), (0, 500), "{}", problem.message);
    // Shared ones are joined although nothing more fits, and a known token is answered.
    assert!(!client.start("echo", "c3", "private").await.1);

    // The host is short of memory now: 24 MiB reserve, 8 * 100 MiB that the clones may still take, 60 MiB beyond.
    world.meter.available_bytes.store(884 << 20, Ordering::SeqCst);
    client.delete(last.as_ref().unwrap().id, "client_token=c7").await;
    client.wait(last.unwrap().id, State::Stopped).await;
    world.meter.available_bytes.store(784 << 20, Ordering::SeqCst);
    let problem = client.refused("echo", "c8", "private").await.1;
    let missing = problem.missing.unwrap();
    assert_eq!((missing.memory_bytes, missing.cpu_millis), (ECHO_BYTES - (60 << 20), 0));
    assert!(problem.message.contains("40 MiB"), "{}", problem.message);
    world.meter.available_bytes.store(1 << 30, Ordering::SeqCst);
    daemon.client.ready("echo", "c8", "private").await;
    assert_eq!(world.hypervisor.clones(), 9);
}

#[tokio::test]
async fn the_number_of_instances_is_limited() {
    let mut world = World::new();
    world.config.instances.max = 1;
    let daemon = world.daemon();
    daemon.client.ready("echo", "a", "private").await;
    let (status, problem) = daemon.client.refused("echo", "b", "private").await;
    assert_eq!((status, problem.code), (StatusCode::SERVICE_UNAVAILABLE, Code::InsufficientResources));
    assert!(problem.message.contains("all 1 instances"), "{}", problem.message);
}

#[tokio::test]
async fn a_service_that_never_answers_fails_with_the_reason_and_its_vm_is_stopped() {
    let mut world = World::new();
    world.config.instances.start_limit_s = 1;
    world.hypervisor.health(503);
    let daemon = world.daemon();
    let (instance, _) = daemon.client.start("echo", "phone", "shared").await;
    let failed = daemon.client.wait(instance.id, State::Failed).await;
    let reason = failed.reason.unwrap();
    assert!(reason.contains("/healthz") && reason.contains("503"), "{reason}");
    assert!(failed.ready_after_ms.is_none() && world.hypervisor.running().is_empty());
    assert!(world.instance_dirs().is_empty());
    // The same token may try anew.
    world.hypervisor.health(200);
    let again = daemon.client.ready("echo", "phone", "shared").await;
    assert_ne!(again.id, instance.id);
}

#[tokio::test]
async fn a_clone_that_fails_is_cleaned_up_and_others_are_not_touched() {
    let world = World::new();
    world.hypervisor.fail_nth(Operation::CloneFrom, 2);
    let daemon = world.daemon();
    let good = daemon.client.ready("echo", "a", "private").await;
    let (bad, _) = daemon.client.start("echo", "b", "private").await;
    let failed = daemon.client.wait(bad.id, State::Failed).await;
    assert!(failed.reason.as_ref().unwrap().contains("CloneFrom fails"), "{failed:?}");
    assert_eq!(world.hypervisor.running(), [VmId(good.id)]);
    assert_eq!(world.instance_dirs(), [good.id.to_string()]);
    assert_eq!(daemon.client.ready("echo", "b", "private").await.users, 1);
}

#[tokio::test]
async fn an_instance_given_up_while_its_vm_wakes_up_leaves_no_vm() {
    let world = World::new();
    world.hypervisor.hold_clones();
    let daemon = world.daemon();
    let (instance, _) = daemon.client.start("echo", "a", "private").await;
    eventually("the clone is under way", || world.hypervisor.clones() == 1).await;
    let (_, body) = daemon.client.delete(instance.id, "client_token=a").await;
    assert_eq!(body["state"], "stopping");
    world.hypervisor.release_clones();
    daemon.client.wait(instance.id, State::Stopped).await;
    let vm = VmId(instance.id);
    // Stopped after it was there, not before.
    assert_eq!(world.hypervisor.calls(), [Call::Clone(vm), Call::Cloned(vm), Call::Stop(vm)]);
    assert!(world.hypervisor.running().is_empty());
}

#[tokio::test]
async fn a_silent_agent_is_asked_again_and_a_stop_that_fails_is_repeated() {
    let world = World::new();
    world.hypervisor.agent(Agent::AnswersAfter(3));
    world.hypervisor.fail_nth(Operation::Stop, 1);
    let daemon = world.daemon();
    let ready = daemon.client.ready("echo", "a", "private").await;
    daemon.client.delete(ready.id, "client_token=a").await;
    daemon.client.wait(ready.id, State::Stopped).await;
    assert!(world.hypervisor.running().is_empty());
}

#[tokio::test]
async fn a_vm_that_dies_or_stands_still_is_noticed() {
    let world = World::new();
    let daemon = world.daemon();
    let dies = daemon.client.ready("echo", "a", "private").await;
    let freezes = daemon.client.ready("echo", "b", "private").await;
    world.hypervisor.die(VmId(dies.id));
    world.hypervisor.freeze(VmId(freezes.id));
    let reason = daemon.client.wait(dies.id, State::Failed).await.reason.unwrap();
    assert!(reason.contains("ended by itself"), "{reason}");
    let reason = daemon.client.wait(freezes.id, State::Failed).await.reason.unwrap();
    assert!(reason.contains("stands still"), "{reason}");
    assert!(world.hypervisor.running().is_empty() && world.instance_dirs().is_empty());
}

#[tokio::test]
async fn an_instance_without_clients_is_stopped_after_a_while() {
    let mut world = World::new();
    world.config.instances.user_timeout_s = 1;
    world.config.instances.idle_stop_s = 1;
    let daemon = world.daemon();
    let ready = daemon.client.ready("echo", "a", "private").await;
    let stopped = daemon.client.wait(ready.id, State::Stopped).await;
    assert_eq!(stopped.reason.unwrap(), "nobody used it for 1 s");
}

#[tokio::test]
async fn the_end_of_the_mission_stops_everything_and_refuses_new_instances() {
    let mut world = World::new();
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(3);
    let soon = soon.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    world.config.mission.ends = Some(rfc3339(soon));
    assert_eq!(world.config.mission.ends_unix_s(), Some(soon));
    let daemon = world.daemon();
    let ready = daemon.client.ready("echo", "a", "private").await;
    let stopped = daemon.client.wait(ready.id, State::Stopped).await;
    assert_eq!(stopped.reason.unwrap(), "the mission has ended");
    let (status, problem) = daemon.client.refused("echo", "b", "private").await;
    assert_eq!((status, problem.code), (StatusCode::SERVICE_UNAVAILABLE, Code::ShuttingDown));
    assert!(problem.message.contains("mission"), "{}", problem.message);
    assert!(world.hypervisor.running().is_empty());
}

/// UTC time of this day; the mission of a test ends seconds from now.
fn rfc3339(unix_s: u64) -> String {
    let at = format!("@{unix_s}");
    let output =
        std::process::Command::new("date").args(["-u", "-d", &at, "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn an_image_that_cannot_run_here_is_refused_at_once() {
    let world = World::new();
    let base = world.store.by_name("base").unwrap().id;
    api_support::images::service(&world.store, base, "newer", 1, "pc-q35-99.0");
    let daemon = world.daemon();
    let (status, problem) = daemon.client.refused("newer", "a", "shared").await;
    assert_eq!((status, problem.code), (StatusCode::INTERNAL_SERVER_ERROR, Code::UnusableImage));
    assert!(
        problem.message.contains("pc-q35-99.0") && problem.message.contains("newer"),
        "{}",
        problem.message
    );
    let (_, cloudlet) = daemon.client.get("/cloudlet").await;
    assert_eq!(cloudlet["services"], serde_json::json!(["echo", "solo"]));
}

#[tokio::test]
async fn a_damaged_image_fails_the_instance_and_nothing_is_started() {
    let world = World::new();
    let image = world.store.by_name("echo").unwrap();
    let daemon = world.daemon();
    let template = image.path(vm_images::Role::MemoryTemplate).unwrap();
    let mut permissions = std::fs::metadata(&template).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&template, permissions).unwrap();
    let mut bytes = std::fs::read(&template).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&template, bytes).unwrap();
    let (instance, _) = daemon.client.start("echo", "a", "shared").await;
    let failed = daemon.client.wait(instance.id, State::Failed).await;
    assert!(failed.reason.as_ref().unwrap().contains("damaged"), "{failed:?}");
    assert_eq!(world.hypervisor.clones(), 0);
    let problem: Problem = serde_json::from_value(daemon.client.get("/services/nope").await.1).unwrap();
    assert_eq!(problem.code, Code::UnknownService);
}
