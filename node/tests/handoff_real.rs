//! The real speech service moves between two real daemons, is asked before, meanwhile and after, and knows its words.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests use real time and stop at the first thing that goes wrong"
)]

mod real_support;

use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use handheld::api::{HandoffState, PeerReach, Sharing, State};
use handheld::{Access, Client};
use mesh::NodeId;
use mesh::trust::{Authority, Grant, Permissions, Request, Role, Trust, Window};
use node::config::Config;
use real_support::ports::free;
use real_support::{PATIENCE, Site, Up, expected_words, recording, speech, wait, wait_until};

/// A cloudlet of the mission.
struct Cloudlet {
    up: Up,
    client: Client,
    node: NodeId,
}

/// Makes the state directory of a site that of a member.
fn join(site: &Site, authority: &Authority, name: &str) -> (NodeId, Trust) {
    fs::create_dir_all(site.state()).unwrap();
    let node = NodeId::load_or_create(&site.state().join("node-id"), &mut rand::rng()).unwrap();
    let mut config = Config::default();
    config.node.state_dir = site.state().to_owned();
    let home = config.trust_home();
    let pem = home.device().unwrap().request_pem(Role::Cloudlet(node), name).unwrap();
    let grant = Grant { permissions: Permissions::NONE, may_enroll: None, not_after_unix_s: None };
    let bundle = authority.enroll(&Request::from_bytes(pem.as_bytes()).unwrap(), grant).unwrap();
    (node, home.join(&bundle).unwrap())
}

fn start(site: &Site, (node, trust): (NodeId, Trust), name: &str, mesh: [SocketAddr; 2]) -> Cloudlet {
    let [listen, peer] = mesh;
    let (listen, peers) = (format!("mesh.listen={listen}"), format!("mesh.peers={peer}"));
    let up = Up::start(
        site,
        &[
            "--name",
            name,
            "--set",
            "trust.insecure=false",
            "--set",
            "mesh.multicast=false",
            "--set",
            &listen,
            "--set",
            &peers,
            "--set",
            "exchange.reserve_mib=0",
        ],
    );
    let client = Client::reaching(&Access::Member(trust), up.listen).unwrap();
    Cloudlet { up, client, node }
}

/// The service's address, wherever it is.
fn address(cloudlets: &[&Cloudlet; 2], id: uuid::Uuid) -> Option<SocketAddr> {
    let serves = |cloudlet: &&Cloudlet| wait(cloudlet.client.instance(id)).ok()?.address;
    cloudlets.iter().find_map(serves)
}

#[test]
fn a_speech_service_moves_and_knows_its_words_all_the_time() {
    let (sites, now) = ([Site::new(), Site::new()], SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    let window = Window { not_before_unix_s: now.as_secs() - 60, not_after_unix_s: now.as_secs() + 3600 };
    let authority = Authority::create("real", window).unwrap();
    let mesh = [free(), free()];
    let members = ["one", "two"].map(|name| join(&sites[usize::from(name == "two")], &authority, name));
    let [first, second] = members;
    let one = start(&sites[0], first, "one", mesh);
    let two = start(&sites[1], second, "two", [mesh[1], mesh[0]]);
    wait_until("they know each other", || {
        let peers = wait(one.client.peers()).unwrap();
        peers.iter().any(|peer| peer.node_id == two.node.to_string() && peer.reach == PeerReach::Neighbour)
    });

    let asked = wait(one.client.start(&speech("phone", Sharing::Shared))).unwrap();
    let ready = wait(one.client.wait_ready(asked.id, PATIENCE)).unwrap();
    let words = expected_words(&recording());
    let sound = fs::read(recording()).unwrap();
    let heard = wait(handheld::speech::recognize(ready.address.unwrap(), sound.clone())).unwrap();
    assert_eq!(heard.text, words, "before");

    // Somebody asks all the time, and asks again where the service is when he gets no answer.
    let (stop, answers) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let moved = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let asked = Instant::now();
                let mut tries = 0;
                let heard = loop {
                    tries += 1;
                    let Some(address) = address(&[&one, &two], ready.id) else { continue };
                    let asking = handheld::speech::recognize(address, sound.clone());
                    if let Ok(Ok(heard)) = wait(async { tokio::time::timeout(PATIENCE, asking).await }) {
                        break heard;
                    }
                };
                answers.lock().unwrap().push((heard.text, tries, asked.elapsed()));
            }
        });
        wait_until("a first answer", || !answers.lock().unwrap().is_empty());
        let begun = Instant::now();
        wait(one.client.hand_off(ready.id, "two")).unwrap();
        let mut done = wait(one.client.handoff(ready.id)).unwrap();
        while !done.state.is_final() {
            assert!(begun.elapsed() < PATIENCE * 2, "it takes too long: {done:?}");
            std::thread::sleep(Duration::from_millis(20));
            done = wait(one.client.handoff(ready.id)).unwrap();
        }
        println!("under load: {done:?}, as seen by a client {:?}", begun.elapsed());
        let answered = answers.lock().unwrap().len();
        wait_until("answers from the new place", || answers.lock().unwrap().len() >= answered + 2);
        stop.store(true, Ordering::SeqCst);
        done
    });
    assert_eq!(moved.state, HandoffState::Done, "{moved:?}\n{}\n{}", one.up.log(), two.up.log());
    for (text, tries, took) in answers.into_inner().unwrap() {
        println!("'{text}' after {tries} tries and {took:?}");
        assert_eq!(text, words, "meanwhile");
    }
    assert!(sites[0].qemus().is_empty() && sites[1].qemus().len() == 1);
    let there = wait(two.client.instance(ready.id)).unwrap();
    assert_eq!((there.state, there.users), (State::Ready, 1));

    // Idle, and back to where it was.
    wait(two.client.hand_off(ready.id, "one")).unwrap();
    let mut back = wait(two.client.handoff(ready.id)).unwrap();
    let begun = Instant::now();
    while !back.state.is_final() {
        assert!(begun.elapsed() < PATIENCE * 2, "it takes too long: {back:?}");
        std::thread::sleep(Duration::from_millis(20));
        back = wait(two.client.handoff(ready.id)).unwrap();
    }
    println!("idle: {back:?}");
    assert_eq!(back.state, HandoffState::Done, "{back:?}\n{}\n{}", one.up.log(), two.up.log());
    let here = wait(one.client.instance(ready.id)).unwrap();
    let heard = wait(handheld::speech::recognize(here.address.unwrap(), sound)).unwrap();
    assert_eq!(heard.text, words, "after");
    for (what, handoff) in [("under load", &moved), ("idle", &back)] {
        println!(
            "{what}: total {} ms, downtime {} ms, {} bytes",
            handoff.total_ms,
            handoff.downtime_ms.unwrap_or_default(),
            handoff.sent_bytes
        );
    }
    assert_eq!(one.up.terminate(), Some(0));
    assert_eq!(two.up.terminate(), Some(0));
}
