//! Model checker of the membership core: random histories of joins, leaves, crashes, partitions, clock jumps, lost,
//! doubled and late frames. After each event the invariants hold; when the trouble ends everybody agrees.
//!
//! `SEED=n` replays one history; `HISTORIES=n` says how many (default 64, half a minute on two cores).

mod model;

use std::time::Duration;

use model::World;
use model::trouble::News;

/// In a mesh that is one. Two or three hops of 20 ms each, and 200 ms in which a node collects news at each but the first.
const NEWS_KNOWN: Duration = Duration::from_millis(500);

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_everybody_agrees_in_the_end() {
    let seeds = match env("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..env("HISTORIES").unwrap_or(64),
    };
    for seed in seeds {
        let mut world = World::new(seed);
        // A failing history says which one it was.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.trouble();
            world.calm();
        }));
        if let Err(panic) = outcome {
            eprintln!("replay with SEED={seed}; the last events were:");
            for line in world.log.iter().rev().take(25).rev() {
                eprintln!("  {line}");
            }
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let run = |seed| {
        let mut world = World::new(seed);
        world.trouble();
        world.log
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_crashed_neighbour_is_known_within_ten_seconds() {
    for seed in 0..20 {
        let mut world = World::quiet(seed, 8);
        world.run_for(Duration::from_secs(40));
        world.assert_agreement();
        world.crash(3);
        let started = world.now;
        while world.knows_of(3) > 0 {
            world.run_for(Duration::from_millis(100));
            let passed = world.now - started;
            assert!(passed <= Duration::from_secs(10), "after {passed:?} still reachable; SEED={seed}");
        }
    }
}

#[test]
fn a_crash_right_after_a_departure_is_known_as_soon() {
    for seed in 0..40 {
        let mut world = World::quiet(seed, 5);
        world.run_for(Duration::from_secs(20) + Duration::from_millis(137 * seed));
        world.assert_agreement();
        world.leave(4);
        // Links are being made anew when the second one goes.
        world.run_for(Duration::from_millis(50 * (seed % 40)));
        world.crash(3);
        let started = world.now;
        while (0..3).any(|node| world.there(node) != 3) {
            world.run_for(Duration::from_millis(100));
            let passed = world.now - started;
            let there: Vec<usize> = (0..3).map(|node| world.there(node)).collect();
            assert!(passed <= Duration::from_secs(10), "after {passed:?} they count {there:?}; SEED={seed}");
        }
    }
}

#[test]
fn a_split_of_ten_minutes_is_healed_within_five_seconds() {
    for seed in 0..10 {
        let mut world = World::quiet(seed, 10);
        world.run_for(Duration::from_secs(40));
        world.split(|node| usize::from(node >= 5));
        world.run_for(Duration::from_secs(600));
        assert_eq!(world.there(0), 5, "SEED={seed}");
        world.change(1);
        world.change(8);
        world.heal();
        let (healed, mut news) = (world.now, News::new());
        // Links are let go of for a while yet, and that is said, too: no moment need be without news. What counts is that
        // all that was said half a second ago is known to all.
        while world.now - healed < Duration::from_secs(30) {
            world.run_for(Duration::from_millis(100));
            let since = world.now - healed;
            if since + NEWS_KNOWN >= Duration::from_secs(5) {
                world.assert_news_travels(&mut news, NEWS_KNOWN);
            }
            if since >= Duration::from_secs(5) {
                world.assert_one_mesh();
            }
        }
        world.assert_agreement();
    }
}

#[test]
fn a_quiet_mesh_says_nothing_but_beats() {
    for nodes in [5, 15, 30] {
        let mut world = World::quiet(1, nodes);
        world.run_for(Duration::from_secs(60));
        world.assert_agreement();
        let (frames, links) = (world.count.frames(), world.link_count());
        world.run_for(Duration::from_secs(60));
        let per_link = (world.count.frames() - frames) as f64 / links as f64;
        // One beat per link every 4 s, and nothing else.
        assert!(per_link <= 15.5, "{nodes} nodes: {per_link} frames per link in 60 s");
        let mean = 2.0 * links as f64 / nodes as f64;
        assert!(mean <= 4.0, "{nodes} nodes have {mean} links each");
    }
}
