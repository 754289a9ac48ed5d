//! A daemon as the multicast around it sees it, on the loopback interface.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use real time and may panic")]

use std::time::{Duration, Instant};

use mesh::dnssd::{Interfaces, discover};
use reqwest::StatusCode;

mod api_support;
use api_support::{PATIENCE, World};

#[tokio::test]
async fn a_daemon_is_found_while_it_runs_and_not_afterwards() {
    let mut world = World::new();
    world.config.discovery.enabled = true;
    world.config.discovery.interfaces = vec!["lo".into()];
    world.config.node.name = format!("found-{}", std::process::id());
    let name = world.config.node.name.clone();
    let daemon = world.daemon();
    let (_, cloudlet) = daemon.client.get("/cloudlet").await;
    let find = move || {
        let found = discover(&Interfaces::Loopback, Duration::from_secs(2), None).unwrap();
        found.into_iter().find(|found| found.name == name)
    };
    let begin = Instant::now();
    let found = loop {
        match tokio::task::spawn_blocking(find.clone()).await.unwrap() {
            Some(found) => break found,
            None => assert!(begin.elapsed() < PATIENCE, "the daemon was not found"),
        }
    };
    let summary = found.hints.as_ref().unwrap();
    assert_eq!(summary.node.to_string(), cloudlet["node_id"].as_str().unwrap());
    assert_eq!(summary.services.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["echo", "solo"]);
    assert!(found.addresses.iter().any(|a| daemon.client.base.contains(&a.to_string())), "{found:?}");
    tokio::task::spawn_blocking(|| daemon.stop()).await.unwrap().unwrap();
    assert_eq!(tokio::task::spawn_blocking(find).await.unwrap(), None);
}

#[tokio::test]
async fn without_multicast_the_daemon_still_answers() {
    let mut world = World::new();
    world.config.discovery.enabled = true;
    world.config.discovery.interfaces = vec!["no-such-if0".into()];
    let daemon = world.daemon();
    assert_eq!(daemon.client.get("/cloudlet").await.0, StatusCode::OK);
    daemon.client.ready("echo", "a", "private").await;
    daemon.stop().unwrap();
}
