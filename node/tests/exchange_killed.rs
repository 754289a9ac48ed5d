//! A fetcher that is killed, and a disk that runs full.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod exchange_support;
#[path = "../../vm-images/tests/support/tiny.rs"]
mod tiny;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use exchange_support::*;
use node::exchange::{Config, Exchange, Phase};
use tiny::Tiny;
use vm_images::SigningKey;

/// What has to come of the base image: noise of its own, and noise that it shares with nothing that is here.
const BASE_BYTES: u64 = 2 * MEMORY_BYTES / 3;

/// Does nothing unless the other test starts it: then it fetches until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_is_killed() {
    let Some(root) = std::env::var_os("KILLED_ROOT") else { return };
    let store = open(root.as_ref(), 2);
    store.trust(SigningKey::from_secret(&[1; 32]).public()).unwrap();
    let image = std::env::var("KILLED_IMAGE").unwrap().parse().unwrap();
    let address = std::env::var("KILLED_ADDRESS").unwrap().parse().unwrap();
    let remote = Remote { address, holdings: Default::default() };
    let (exchange, _running) = Exchange::start(store, Arc::new(remote), Config::default());
    ended(exchange.fetch(image, Some(node(1))).await.unwrap()).await;
    panic!("it came to an end before it was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetcher_that_is_killed_in_the_middle_fetches_only_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (store, base, _) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    network.add(1, &store, Manner::Slow { bytes_per_s: 4_000_000 });
    let address = serve_tcp(&network, 1).await;
    let root = dir.path().join("b");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed"])
        .env("KILLED_ROOT", &root)
        .env("KILLED_IMAGE", base.to_string())
        .env("KILLED_ADDRESS", address.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let half = async {
        while network.sent(1) < BASE_BYTES / 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, half).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let before = network.sent(1);
    assert!(before < BASE_BYTES * 3 / 4, "it was killed too late");

    // The next start goes on by itself.
    network.set_manner(1, Manner::Honest);
    let fetcher = Fetcher::new(&root, &network, Config::default());
    let mut all = fetcher.exchange.all();
    let wait = all.wait_for(|all| all.iter().any(|one| one.image == base && one.phase == Phase::Done));
    tokio::time::timeout(LIMIT, wait).await.unwrap().unwrap();
    assert_same(&store, &fetcher.store, base);
    let all = network.sent(1);
    eprintln!("{before} bytes before the kill, {} after it, {BASE_BYTES} are needed", all - before);
    // What was on its way when it was killed is lost: a quarter of a second and the buffers on the way.
    assert!(all < BASE_BYTES + 2_000_000, "{all} bytes in all, {BASE_BYTES} are needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_a_fetch_and_loses_nothing() {
    let Some(small) = Tiny::mount("size=40m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (store, base, _) = holder(&dir.path().join("a"));
    let network = Network::new(node(9));
    network.add(1, &store, Manner::Honest);
    let fetcher = Fetcher::new(&small.path().join("s"), &network, Config::default());
    let refused = fetcher.fetch(base).await;
    assert!(failed(&refused).contains("no space left"), "{refused:?}");
    assert!(network.sent(1) < 100_000, "blocks were fetched although there is no room for them");

    // Room enough at first; then somebody else takes it.
    let Some(disk) = Tiny::mount("size=120m") else { return };
    network.add(2, &store, Manner::Slow { bytes_per_s: 4_000_000 });
    network.remove(1);
    let fetcher = Fetcher::new(&disk.path().join("s"), &network, Config::default());
    let progress = fetcher.exchange.fetch(base, None).await.unwrap();
    reached(progress.clone(), |progress| progress.wire_bytes > BASE_BYTES / 2).await;
    let ballast = disk.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 65_536]).is_ok() {}
    let ended = ended(progress).await;
    assert!(failed(&ended).contains("no space left"), "{ended:?}");
    assert!(failed(&ended).contains("image gc"), "{ended:?}");
    drop(file);
    std::fs::remove_file(ballast).unwrap();

    network.set_manner(2, Manner::Honest);
    assert_eq!(fetcher.fetch(base).await.phase, Phase::Done);
    assert_same(&store, &fetcher.store, base);
    assert!(network.sent(2) < BASE_BYTES + 2_000_000, "{} bytes in all", network.sent(2));
}
