//! Trust among several cloudlets: three daemons with their mesh, and handhelds. On hypervisors without guests.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests use real time and may panic"
)]

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use handheld::api::Revocations;
use handheld::{Access, Client, Options, Session, reach};
use mesh::NodeId;
use mesh::advert::{Advert, Held, Load};
use mesh::swarm::{self, MissionVerifier, StreamProtocol};
use mesh::trust::{Authority, Reason, Serial, Trust, revocation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod api_support;
use api_support::PATIENCE;
use api_support::fleet::{Site, acquainted, sites};
use api_support::mission::{self, USE, client, ready};

fn word(authority: &mut Authority, serial: Serial) -> Revocations {
    let word = authority.revoke(serial, Reason::KeyCompromise, mission::now()).unwrap();
    Revocations { encoded: hex::encode(revocation::encode([&word])) }
}

fn serial(trust: &Trust) -> Serial {
    trust.identity().member().serial
}

/// Waits until `client` is refused.
async fn shut_out(client: &Client) {
    let begin = Instant::now();
    while client.cloudlet().await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "it still gets in");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn reachable(site: &Site, node: NodeId) -> bool {
    let peers = site.operator().peers().await.unwrap();
    peers
        .iter()
        .any(|peer| peer.node_id == node.to_string() && peer.reach != handheld::api::PeerReach::Unreachable)
}

#[tokio::test]
async fn a_revocation_told_to_one_cloudlet_is_obeyed_by_all_and_outlives_restarts() {
    let mut authority = mission::authority();
    let mut sites = sites(&authority, &["one", "two", "three"], |_| ());
    let dir = tempfile::tempdir().unwrap();
    let thief = mission::handheld(&authority, USE, &dir.path().join("thief"));
    let friend = mission::handheld(&authority, USE, &dir.path().join("friend"));
    for site in &sites {
        acquainted(&site.operator(), 3).await;
    }
    // A tunnel at the third, the word at the first.
    let hand = client(sites[2].daemon(), &thief);
    let instance = ready(&hand, "echo", "me").await;
    let mut tunnel = hand.tunnel(instance.id, "me").await.unwrap();
    let told = word(&mut authority, serial(&thief));
    client(sites[0].daemon(), &friend).revoke(&told).await.unwrap();
    let begin = Instant::now();
    loop {
        let round = async {
            tunnel.write_all(b"still?").await?;
            tunnel.read_exact(&mut [0; 6]).await
        };
        match tokio::time::timeout(PATIENCE, round).await.expect("neither cut nor answered") {
            Err(_) => break,
            Ok(_) => assert!(begin.elapsed() < PATIENCE, "its tunnel goes on"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("the tunnel was cut {} ms after the word", begin.elapsed().as_millis());
    for site in &sites {
        shut_out(&client(site.daemon(), &thief)).await;
        client(site.daemon(), &friend).cloudlet().await.unwrap();
    }
    // Kept on disk by those who only heard of it, too, and known to those who were away.
    for site in &mut sites {
        site.restart();
        assert!(client(site.daemon(), &thief).cloudlet().await.is_err(), "it is forgotten");
        client(site.daemon(), &friend).cloudlet().await.unwrap();
    }
    sites.into_iter().for_each(Site::stop);
}

#[tokio::test]
async fn a_revoked_cloudlet_is_cut_from_links_that_are_open_and_does_not_come_back() {
    let mut authority = mission::authority();
    let mut sites = sites(&authority, &["one", "two", "captured"], |_| ());
    for site in &sites {
        acquainted(&site.operator(), 3).await;
    }
    let captured = sites[2].node;
    let its = sites[2].world.config.trust_home().load().unwrap().unwrap();
    let told = word(&mut authority, serial(&its));
    sites[0].operator().revoke(&told).await.unwrap();
    // It is still connected, and goes on dialling.
    for site in &sites[..2] {
        let begin = Instant::now();
        while reachable(site, captured).await {
            assert!(begin.elapsed() < PATIENCE, "it is still among them");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(site.operator().peers().await.unwrap().iter().all(|peer| peer.name != "captured"));
    }
    // Also not at one that was down meanwhile and knows it from its disk or from its neighbour.
    sites[0].restart();
    sites[1].restart();
    for site in &sites[..2] {
        acquainted(&site.operator(), 2).await;
    }
    // It has heard the word itself and would not start; its captor makes it forget, and it comes back with its old certificate.
    sites[2].forget_and_restart();
    let begin = Instant::now();
    let mut tries = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        for site in &sites[..2] {
            assert!(!reachable(site, captured).await, "it came back");
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(tries > 5);
    // Nor do they let it in at the API, as a way for somebody else.
    shut_out(&client(sites[0].daemon(), &its)).await;
    sites.into_iter().for_each(Site::stop);
}

/// What a captured cloudlet says of itself: nobody else is as fast, as idle, as ready.
fn boast(node: NodeId, name: &str) -> Advert {
    let mut advert = mission::advert(node, name);
    advert.load = Load {
        cpu_total_millis: 64_000,
        memory_free_bytes: 1 << 40,
        memory_total_bytes: 1 << 40,
        ..Load::default()
    };
    let held = Held { ready_instances: 9, ready_time: Some(Duration::from_millis(1)) };
    advert.services.insert("echo".parse().unwrap(), held);
    advert
}

#[tokio::test]
async fn a_cloudlet_that_lies_about_being_idle_and_ready_is_found_out_by_its_answer() {
    let authority = mission::authority();
    let sites = sites(&authority, &["near", "honest"], |_| ());
    // One says nothing when it is asked, the other takes every question and never answers.
    let liars: Vec<swarm::Handle> = ["silent liar", "slow liar"]
        .iter()
        .map(|name| {
            let world = mission::join(&authority, name);
            let trust = world.config.trust_home().load().unwrap().unwrap();
            let identity = swarm::identity(&trust).unwrap();
            let node = identity.node;
            let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()];
            let mut config = swarm::Config::new(identity, listen, swarm::topic(&trust), rand::random());
            let near = sites[0].mesh();
            config.core.rendezvous = vec![format!("/ip4/{}/udp/{}/quic-v1", near.ip(), near.port())];
            let verifier = Box::new(MissionVerifier::new(trust));
            swarm::start(config, verifier, boast(node, name)).unwrap().0
        })
        .collect();
    let mut asked = liars[1].accept_streams(StreamProtocol::new("/cloudlet/api/1")).unwrap();
    let keeps = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some((_, stream)) = asked.next().await {
            kept.push(stream);
        }
        kept.len()
    });
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    let near = client(sites[0].daemon(), &trust);
    acquainted(&near, 4).await;
    // Their lies have come round.
    let peers = near.peers().await.unwrap();
    let lies = peers.iter().filter(|peer| peer.load.memory_free_bytes == 1 << 40);
    assert_eq!(lies.count(), 2, "{peers:?}");

    let mut options = Options::new("echo".parse().unwrap());
    options.search.access = Access::Member(trust.clone());
    options.via = Some(near.url().to_owned());
    let begin = Instant::now();
    let opening = tokio::time::timeout(6 * PATIENCE, Session::open(&options, &|_| {}));
    let session = opening.await.expect("the liar holds it up").unwrap();
    println!("served after {} ms", begin.elapsed().as_millis());
    assert_eq!(session.cloudlet().cloudlet.name, "honest");
    session.release().await.unwrap();
    // What the honest ones say of themselves is untouched.
    let honest = reach(client(sites[1].daemon(), &trust)).await.unwrap();
    assert_eq!(honest.cloudlet.load.memory_total_bytes, 1 << 30);
    for liar in liars {
        liar.leave().await.unwrap();
    }
    keeps.abort();
    sites.into_iter().for_each(Site::stop);
}
