//! Whatever is killed, cut, lost, doubled or late: never two copies run, no acknowledged write is lost, and the VM runs again
//! within a stated time. `HISTORIES=100000` runs that many random histories; a failing seed is printed.

mod handoff_support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use handoff_support::{Badness, World};
use migration::handoff::{Event, Input, Place};

/// The longest that anything here waits for once all is well: the lease, and a word said again (see `migration::handoff`).
const SETTLED: Duration = Duration::from_secs(45);

/// Runs `history` and prints what happened if it fails.
fn shown(what: &str, mut world: World, history: impl FnOnce(&mut World)) -> World {
    let result = catch_unwind(AssertUnwindSafe(|| history(&mut world)));
    if result.is_err() {
        let tail = world.log.len().saturating_sub(80);
        panic!("{what}:\n{}", world.log[tail..].join("\n"));
    }
    world
}

fn one_runs(world: &World) {
    assert_eq!(world.running().len(), 1, "one copy runs: {:?}", world.places());
    let owner = world.running()[0];
    assert!(matches!(world.places()[owner], Place::Owner { .. }), "its node knows: {:?}", world.places());
    let doubts = world.places().iter().filter(|place| matches!(place, Place::InDoubt { .. })).count();
    assert_eq!(doubts, 0, "nobody is in doubt");
}

#[test]
fn random_histories() {
    let wanted = std::env::var("HISTORIES").ok();
    let histories = wanted.map_or(2000, |text| text.parse::<u64>().expect("HISTORIES is a number"));
    let mut moved = 0;
    for seed in 0..histories {
        let world = World::new(seed, 2 + (seed % 3) as usize);
        let world = shown(&format!("seed {seed}"), world, |world| {
            world.badness = Badness { loss: 0.1, twice: 0.1, kill: 0.01, fail: 0.05 };
            for _ in 0..40 {
                world.disturb();
            }
            world.heal();
            world.run(world.now + SETTLED);
            one_runs(world);
            // Owners tell their sources once a minute.
            world.run(world.now + Duration::from_secs(150));
            assert_eq!(world.unreleased(), 0, "sources have released what they gave");
        });
        moved += world.events.iter().filter(|(_, event)| matches!(event, Event::Arrived { .. })).count();
    }
    assert!(moved > histories as usize, "handoffs happen, too: {moved}");
}

/// One handoff from 0 to 1 without trouble.
fn plain(seed: u64) -> World {
    World::new(seed, 2)
}

fn hand_off(world: &mut World) {
    world.start(0, 1);
    world.run(Duration::from_secs(20));
}

#[test]
fn nothing_bad_happens() {
    let world = shown("a plain handoff", plain(1), hand_off);
    assert_eq!(world.running(), [1]);
    assert_eq!(world.unreleased(), 0);
}

#[test]
fn killed_before_each_effect() {
    for seed in 0..20 {
        let all = shown("a plain handoff", plain(seed), hand_off).effects;
        for at in 0..all {
            shown(&format!("seed {seed}, killed before effect {at} of {all}"), plain(seed), |world| {
                world.kill_at = Some(at);
                hand_off(world);
                world.run(world.now + SETTLED);
                one_runs(world);
            });
        }
    }
}

#[test]
fn cut_at_each_word_for_a_while() {
    for seed in 0..20 {
        let all = shown("a plain handoff", plain(seed), hand_off).words;
        for (at, length_s) in (0..all).flat_map(|at| [1, 15, 40, 3600].map(|length_s| (at, length_s))) {
            shown(
                &format!("seed {seed}, cut for {length_s} s before word {at} of {all}"),
                plain(seed),
                |world| {
                    let length = Duration::from_secs(length_s);
                    world.cut_at = Some((at, length));
                    world.start(0, 1);
                    world.run(length + SETTLED);
                    one_runs(world);
                },
            );
        }
    }
}

/// The two generals: only a cut while the commit is on its way, and for ever, leaves nobody running, and then the source knows.
#[test]
fn cut_at_each_word_for_ever() {
    let mut doubts = 0;
    for seed in 0..20 {
        let all = shown("a plain handoff", plain(seed), hand_off).words;
        for at in 0..all {
            let world = shown(
                &format!("seed {seed}, cut for ever before word {at} of {all}"),
                plain(seed),
                |world| {
                    world.cut_at = Some((at, Duration::from_secs(1_000_000)));
                    hand_off(world);
                    world.run(world.now + SETTLED);
                    if world.running().is_empty() {
                        assert!(matches!(world.places()[0], Place::InDoubt { .. }));
                        assert!(!matches!(world.places()[1], Place::Owner { .. }));
                        // Somebody who knows that the other one is lost says so.
                        world.input(0, Input::Force);
                    }
                    assert_eq!(world.running().len(), 1);
                },
            );
            let forced = matches!(world.places()[0], Place::Owner { epoch: 3 });
            doubts += u64::from(forced);
        }
    }
    assert!(doubts >= 20, "the commit of each handoff: {doubts}");
}

#[test]
fn an_operator_who_was_wrong() {
    // The answer to the commit is lost for an hour: the VM runs on 1, and 0 is in doubt.
    let words = shown("a plain handoff", plain(3), hand_off).words;
    let mut seen = 0;
    for at in 0..words {
        let mut world = plain(3);
        world.cut_at = Some((at, Duration::from_secs(3600)));
        hand_off(&mut world);
        if world.running() == [1] && matches!(world.places()[0], Place::InDoubt { .. }) {
            seen += 1;
            world.trust_the_operator = true;
            world.input(0, Input::Force);
            assert_eq!(world.running(), [0, 1], "this is what he vouched for");
            world.run(Duration::from_secs(3700));
            assert_eq!(world.running(), [0]);
            assert_eq!(world.places()[0], Place::Owner { epoch: 3 });
            assert!(matches!(world.places()[1], Place::Fenced { .. }), "kept for people to look at");
            world.input(1, Input::Forget);
            assert!(matches!(world.places()[1], Place::Gone { epoch: 3, .. }));
        }
    }
    assert!(seen > 0);
}

/// A machine that loses its power loses its VMs, and with a VM that just came also what was written in it since; but as long as
/// the source keeps its copy that one runs.
#[test]
fn the_destination_loses_power_before_the_source_has_heard() {
    let mut given_back = 0;
    for seed in 0..20 {
        let words = shown("a plain handoff", plain(seed), hand_off).words;
        for at in 0..words {
            let mut world = plain(seed);
            world.cut_at = Some((at, Duration::from_secs(60)));
            hand_off(&mut world);
            if matches!(world.places()[0], Place::InDoubt { .. }) && world.running().is_empty() {
                world.power_off(1);
                world.run(Duration::from_secs(120));
                one_runs(&world);
                assert_eq!(world.running(), [0]);
                given_back += 1;
            }
        }
    }
    assert!(given_back >= 20);
}
