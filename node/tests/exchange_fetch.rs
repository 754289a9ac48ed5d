//! Images fetched from several stores, with peers that lie, die and are slow.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod exchange_support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use exchange_support::*;
use mesh::exchange::policy::Profile;
use mesh::exchange::wire::{Answer, Packing, Refusal, Request};
use node::exchange::{Config, Exchange, FindError, Phase};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use vm_images::{Role, SigningKey};

/// What does not compress of a test's image and is not shared: a third of the memory.
const OWN_BYTES: u64 = MEMORY_BYTES / 3;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_and_its_parent_come_from_two_peers_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (store, base, service) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    network.add(1, &store, Manner::Slow { bytes_per_s: 8_000_000 });
    network.add(2, &store, Manner::Slow { bytes_per_s: 8_000_000 });
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, Config::default());

    let done = fetcher.fetch(service).await;
    assert_eq!(done.phase, Phase::Done);
    for image in [base, service] {
        assert_same(&store, &fetcher.store, image);
    }
    assert_eq!(fetcher.store.by_name("speech").unwrap().id, service);
    let (one, two) = (network.sent(1), network.sent(2));
    assert!(one.min(two) * 3 > one.max(two), "badly shared: {one} and {two}");
    // Two thirds of the base, one of the service; zeros and what both have are not sent.
    let least = 3 * OWN_BYTES;
    assert!((least..least + least / 10).contains(&(one + two)), "{} bytes for {least}", one + two);
    assert!(done.reused_bytes >= OWN_BYTES, "{} bytes", done.reused_bytes);
    assert_eq!(done.wire_bytes, done.by_peer.values().sum::<u64>());
    assert!(fetcher.store.interrupted().unwrap().is_empty());

    // Once more costs nothing.
    let before = network.all_sent();
    assert_eq!(fetcher.fetch(service).await.phase, Phase::Done);
    assert_eq!(network.all_sent(), before);
    fetcher.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_found_out_and_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, service) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    network.add(1, &store, Manner::Flips { after: 1_000_000 });
    network.add(2, &store, Manner::Honest);
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, Config::default());
    assert_eq!(fetcher.fetch(service).await.phase, Phase::Done);
    assert_same(&store, &fetcher.store, service);

    // Another image: it is not even called.
    let opened = network.opened(1);
    let base = store.by_name("base").unwrap().id;
    let next = publish_service(&store, base, 30);
    network.add(2, &store, Manner::Honest);
    assert_eq!(fetcher.fetch(next).await.phase, Phase::Done);
    assert_eq!(network.opened(1), opened, "a liar was called again");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_in_the_middle_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, service) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    network.add(1, &store, Manner::Dies { after: 6_000_000 });
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, Config::default());
    let progress = fetcher.exchange.fetch(service, None).await.unwrap();
    let waiting = reached(progress.clone(), |progress| {
        progress.phase == Phase::Waiting && progress.here_bytes > 0 && progress.wire_bytes > 4_000_000
    });
    waiting.await;
    network.remove(1);
    network.add(2, &store, Manner::Honest);
    assert_eq!(ended(progress).await.phase, Phase::Done);
    assert_same(&store, &fetcher.store, service);
    // Nothing that the dead one sent is fetched again, but for what was on its way.
    assert!(network.sent(2) < 3 * OWN_BYTES - 4_000_000, "{}", network.sent(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_an_unknown_signer_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, service) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    network.add(1, &store, Manner::Honest);
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, Config::default());
    let key = SigningKey::from_secret(&[1; 32]).public();
    fetcher.store.distrust(key).unwrap();
    let refused = fetcher.fetch(service).await;
    let reason = failed(&refused);
    assert!(reason.contains(&format!("run `cloudlet image trust {key}`")), "{reason}");
    assert!(fetcher.store.interrupted().unwrap().is_empty(), "something of it was kept");
    assert!(network.all_sent() < 10_000);

    fetcher.store.trust(key).unwrap();
    assert_eq!(fetcher.fetch(service).await.phase, Phase::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_rave_cost_little_and_the_rest_goes_on() {
    let huge: &'static [u8] = &[255, 255, 255, 127, 1, 3];
    let garbage: &'static [u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    let stranger = Answer::Manifest { manifest: b"{}".to_vec(), signature: Vec::new() };
    let block = Answer::Block {
        role: Role::Disk,
        block: 0,
        packing: Packing::Zstd,
        content: zstd::bulk::compress(&vec![0; 16 << 20], 1).unwrap(),
    };
    let dir = tempfile::tempdir().unwrap();
    let (store, _, service) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    for (at, bytes) in
        [huge, garbage, stranger.encode().leak(), block.encode().leak()].into_iter().enumerate()
    {
        network.add(at as u8 + 1, &store, Manner::Raves(bytes));
    }
    network.add(7, &store, Manner::Honest);
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, Config::default());
    let done = fetcher.fetch(service).await;
    assert_eq!(done.phase, Phase::Done);
    assert_same(&store, &fetcher.store, service);
    for byte in 1..5 {
        assert!(network.opened(byte) <= 1, "node {byte} was called {} times", network.opened(byte));
        // What fits the buffers of a stream, and no more.
        assert!(network.sent(byte) < 600_000, "node {byte} sent {} bytes", network.sent(byte));
    }
}

/// A stream of peer `byte` to a cloudlet that serves, on which it has asked; and whether it was told to come back later.
async fn ask(exchange: &Exchange, byte: u8, request: &Request) -> (DuplexStream, bool) {
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let serving = exchange.clone();
    tokio::spawn(async move { serving.serve(node(byte), Box::new(theirs)).await });
    // One that is refused may be closed before it has asked.
    let _ = ours.write_all(&request.encode()).await;
    let busy = Answer::Refused(Refusal::Busy).encode();
    let mut heard = vec![0; busy.len()];
    tokio::time::timeout(LIMIT, ours.read_exact(&mut heard)).await.unwrap().unwrap();
    (ours, heard == busy)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_opens_many_streams_leaves_places_for_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, service) = holder(&dir.path().join("a"));
    let (exchange, running) = Exchange::start(store, Arc::new(Network::new(node(9))), Config::default());
    let request = Request::Manifest { image: service };
    let mut held = Vec::new();
    let refused = loop {
        let (stream, is_refused) = ask(&exchange, 5, &request).await;
        if is_refused {
            break held.len();
        }
        held.push(stream);
        assert!(held.len() < 16, "it gets all places");
    };
    println!("refused after {refused}");
    let (_other, is_refused) = ask(&exchange, 6, &request).await;
    assert!(!is_refused, "another one is kept out");
    // Whoever gives a place back may come again.
    held.pop();
    let served = async {
        while ask(&exchange, 5, &request).await.1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, served).await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_ended_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (store, base, service) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    network.add(1, &store, Manner::Slow { bytes_per_s: 6_000_000 });
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, Config::default());
    let progress = fetcher.exchange.fetch(service, None).await.unwrap();
    reached(progress.clone(), |progress| progress.wire_bytes > OWN_BYTES).await;
    assert!(fetcher.exchange.cancel(service).await.unwrap());
    assert!(failed(&ended(progress).await).contains("goes on with it"));
    let before = network.all_sent();

    // What is there survives garbage collection, and the parent of what is there, too.
    assert!(fetcher.store.interrupted().unwrap().iter().any(|one| one.bytes > 0));
    let report = fetcher.store.gc(&BTreeSet::new()).unwrap();
    assert!(report.interrupted.contains(&base), "{report:?}");

    network.set_manner(1, Manner::Honest);
    assert_eq!(fetcher.fetch(service).await.phase, Phase::Done);
    assert_same(&store, &fetcher.store, service);
    let all = network.all_sent();
    assert!(all > before);
    let most = 3 * OWN_BYTES + 3 * OWN_BYTES / 10;
    assert!(all < most, "{all} bytes in all; {most} would be enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mission_wants_is_fetched_without_being_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, service) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    let profile = Profile { replicate: vec!["speech".parse().unwrap()], reserve_bytes: 0 };
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, Config { profile, ..Config::default() });
    network.add(1, &store, Manner::Honest);
    let mut all = fetcher.exchange.all();
    let wait = all.wait_for(|all| all.iter().any(|one| one.image == service && one.phase == Phase::Done));
    tokio::time::timeout(LIMIT, wait).await.unwrap().unwrap();
    assert_same(&store, &fetcher.store, service);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_kept_and_people_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let (store, base, _) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    network.add(1, &store, Manner::Honest);
    let limit = 4_000_000;
    let config = Config { rate_limit_bytes_per_s: Some(limit), ..Config::default() };
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, config);
    let pressing = fetcher.exchange.throttle().press();
    let progress = fetcher.exchange.fetch(base, None).await.unwrap();
    reached(progress.clone(), |progress| progress.wire_bytes > 1_000_000).await;
    drop(pressing);
    let clock = tokio::time::Instant::now();
    assert_eq!(ended(progress).await.phase, Phase::Done);
    let took = clock.elapsed();
    // What is left after the first megabyte, less a bucket and what was on its way.
    let least = (2 * OWN_BYTES - 1_000_000 - 3_000_000) / limit;
    assert!(took >= Duration::from_secs(least), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_found_by_service_or_id() {
    let dir = tempfile::tempdir().unwrap();
    let (store, base, service) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, Config::default());
    let find = async |wanted: &str| fetcher.exchange.find(wanted, None).await;
    assert!(matches!(find("speech").await, Err(FindError::Alone { .. })));
    network.add(1, &store, Manner::Honest);
    assert_eq!(find("speech").await, Ok(service));
    assert!(matches!(find("faces").await, Err(FindError::NobodyHasIt { .. })));
    assert_eq!(find(&base.to_string()).await, Ok(base));
    assert!(matches!(find("../etc").await, Err(FindError::NoName { .. })));
    let next = publish_service(&store, base, 40);
    network.add(2, &store, Manner::Honest);
    let several = find("speech").await.unwrap_err().to_string();
    assert!(several.contains(&service.to_string()), "{several}");
    assert_eq!(fetcher.exchange.find("speech", Some(node(2))).await, Ok(next));
    // What came, or was begun, is found without anybody.
    assert_eq!(fetcher.fetch(service).await.phase, Phase::Done);
    network.remove(1);
    network.remove(2);
    assert_eq!(find("speech").await, Ok(service));
}

/// Nobody gives anything: it ends with a reason, and keeps nothing open.
#[tokio::test(flavor = "multi_thread")]
async fn patience_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (_, _, service) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    let config = Config { patience: Duration::from_millis(300), ..Config::default() };
    let fetcher = Fetcher::new(&dir.path().join("b"), &network, config);
    let reason = failed(&fetcher.fetch(service).await).to_owned();
    assert!(reason.contains("nothing came for"), "{reason}");
}
