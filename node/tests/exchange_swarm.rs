//! An image fetched over the mesh: QUIC on loopback, mission certificates, adverts.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod exchange_support;

use std::sync::Arc;

use exchange_support::*;
use mesh::NodeId;
use mesh::advert::{Advert, Capabilities, Gpu};
use mesh::exchange::policy::Profile;
use mesh::swarm::{self, Handle, MissionVerifier, Running};
use mesh::trust::{Authority, Device, Grant, Identity, Permissions, Request, Role, Trust, Window};
use node::exchange::{Config, Exchange, Phase, SwarmPeers, serve_swarm};
use vm_images::manifest::Accelerator;

fn advert(node: NodeId) -> Advert {
    let capabilities = Capabilities {
        accelerator: Accelerator::Tcg,
        gpu: Gpu::None,
        architecture: "x86_64".to_owned(),
        cpu_models: Default::default(),
        machines: Default::default(),
        guest_systems: Default::default(),
        guest_speed_permille: None,
    };
    Advert::new(node, "new".to_owned(), capabilities)
}

#[expect(clippy::disallowed_methods, reason = "certificates are for the time of the wall clock")]
fn authority() -> Authority {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    Authority::create("test", Window { not_before_unix_s: now - 3600, not_after_unix_s: now + 3600 }).unwrap()
}

async fn join(authority: &Authority, byte: u8, known: &[String]) -> (Handle, Running, String) {
    let device = Device::generate().unwrap();
    let request = device.request(Role::Cloudlet(node(byte)), "member").unwrap();
    let grant = Grant { permissions: Permissions::NONE, may_enroll: None, not_after_unix_s: None };
    let bundle = authority.enroll(&Request::from_der(&request).unwrap(), grant).unwrap();
    let mission = bundle.mission().unwrap();
    let trust = Trust::new(Identity::new(device, &bundle, &mission).unwrap(), mission);
    let identity = swarm::identity(&trust).unwrap();
    let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()];
    let mut config = swarm::Config::new(identity, listen, swarm::topic(&trust), byte.into());
    config.core.rendezvous = known.to_vec();
    let verifier = Box::new(MissionVerifier::new(trust));
    let (handle, running) = swarm::start(config, verifier, advert(node(byte))).unwrap();
    let address = handle.listening().await.unwrap().remove(0).to_string();
    (handle, running, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mission_wants_comes_over_the_mesh() {
    let dir = tempfile::tempdir().unwrap();
    let (store, base, service) = holder(&dir.path().join("a"));
    let authority = authority();
    let (one, one_running, address) = join(&authority, 1, &[]).await;
    let (two, two_running, _) = join(&authority, 2, &[address]).await;

    let (serving, stop_serving) =
        Exchange::start(store.clone(), Arc::new(SwarmPeers::new(one.clone())), Config::default());
    let accepting = tokio::spawn(serve_swarm(serving, one.clone()));
    let profile = Profile { replicate: vec!["speech".parse().unwrap()], reserve_bytes: 0 };
    let to = open(&dir.path().join("b"), 2);
    to.trust(store.own_key()).unwrap();
    let (fetching, stop_fetching) = Exchange::start(
        to.clone(),
        Arc::new(SwarmPeers::new(two.clone())),
        Config { profile, ..Config::default() },
    );

    let mut held = advert(node(1));
    held.images.insert("speech".parse().unwrap(), service);
    held.base_images.insert(base);
    one.set_local(held).await.unwrap();
    let mut all = fetching.all();
    let wait = all.wait_for(|all| all.iter().any(|one| one.image == service && one.phase == Phase::Done));
    let done = tokio::time::timeout(LIMIT, wait).await.unwrap().unwrap().clone();
    assert_same(&store, &to, service);
    eprintln!("{} bytes over the mesh", done[0].wire_bytes);

    stop_fetching.stop().await;
    stop_serving.stop().await;
    one.leave().await.unwrap();
    two.leave().await.unwrap();
    one_running.ended().await.unwrap();
    two_running.ended().await.unwrap();
    assert!(accepting.await.unwrap());
}
