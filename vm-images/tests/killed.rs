//! A publisher that is killed from outside, at any moment. (Each single step is tried beside the code, in
//! `store::crash`.)

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use support::*;

/// Does nothing unless the other test starts it: then it publishes until it is killed.
#[test]
fn the_process_that_is_killed() {
    if let Some(root) = std::env::var_os("KILLED_ROOT") {
        let store = open(Path::new(&root));
        let base = store.by_name("base").unwrap().id;
        let token = std::env::var("KILLED_TOKEN").unwrap();
        for round in 0.. {
            publish_service(&store, base, format!("{token} {round}").as_bytes());
        }
    }
}

#[test]
fn a_publisher_that_is_killed_at_any_time_leaves_only_whole_images() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_123);
    eprintln!("SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let base = publish_base(&store, b"base");
    publish_service(&store, base, b"first");
    let own = store.begin(Some(base)).unwrap();
    let mut interrupted = 0;
    for kill in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_that_is_killed"])
            .env("KILLED_ROOT", dir.path())
            .env("KILLED_TOKEN", kill.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(random.random_range(5..150)));
        child.kill().unwrap();
        child.wait().unwrap();

        let drafts = || std::fs::read_dir(dir.path().join("tmp")).unwrap().count();
        interrupted += u32::from(drafts() > 1);
        let store = open(dir.path());
        assert_eq!(drafts(), 1, "only the draft of a process that lives may stay; replay with SEED={seed}");
        let listing = store.list().unwrap();
        assert!(listing.broken.is_empty(), "SEED={seed}: {:?}", listing.broken);
        store.verify(store.by_name("speech").unwrap().id).unwrap();
    }
    assert!(interrupted > 0, "no kill hit a draft; replay with SEED={seed}");
    eprintln!("{interrupted} of 25 kills left a draft");
    for image in store.list().unwrap().images {
        store.verify(image.id).unwrap();
    }
    // The draft of this process survived 25 openings by others.
    fill_service(&own, b"mine");
    own.publish(service_manifest(base, b"mine")).unwrap();
}
