//! Histories told by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use migration::VmId;
use node::lifecycle::{CHECKS_FAILED_MAX, ENDED_MAX, Input, Outcome, Phase, Seen, StopStep};

use super::world::{Op, Open, World, token};

/// A history by hand, up to an instance that is ready.
fn ready(world: &mut World, sharing_private: bool) -> VmId {
    world.apply(&Op::Start {
        token: 0,
        service: 0,
        private: sharing_private,
        elsewhere: false,
        available: 1000,
    });
    for _ in 0..3 {
        world.apply(&Op::Answer { which: 0, good: true });
    }
    let instance = world.core.instances().next().unwrap();
    assert!(matches!(instance.phase, Phase::Ready { .. }), "{instance:?}");
    instance.vm
}

#[test]
fn not_ready_before_both_the_clock_is_right_and_the_service_answered() {
    for first in [0, 1] {
        let mut world = World::new();
        world.apply(&Op::Start { token: 0, service: 0, private: false, elsewhere: false, available: 1000 });
        world.apply(&Op::Answer { which: 0, good: true });
        world.apply(&Op::Answer { which: first, good: true });
        assert!(matches!(world.core.instances().next().unwrap().phase, Phase::Checking { .. }));
        world.now += Duration::from_millis(250);
        world.apply(&Op::Answer { which: 0, good: true });
        let instance = world.core.instances().next().unwrap();
        assert!(matches!(instance.phase, Phase::Ready { .. }));
        assert_eq!(instance.ready_after_ms, Some(250));
    }
}

#[test]
fn a_lease_that_ran_out_starts_the_idle_countdown_and_its_client_may_come_back() {
    let mut world = World::new();
    let vm = ready(&mut world, true);
    world.apply(&Op::Pass { seconds: 301 });
    assert!(world.core.instance(vm).unwrap().users.is_empty());
    // Somebody else gets one of their own, the owner its old one.
    world.apply(&Op::Start { token: 1, service: 0, private: true, elsewhere: false, available: 1000 });
    world.apply(&Op::Start { token: 0, service: 0, private: true, elsewhere: false, available: 1000 });
    assert!(world.core.instance(vm).unwrap().users.contains_key(&token(0)));
    assert_eq!(world.core.instances().count(), 2);

    world.apply(&Op::Pass { seconds: 301 });
    world.apply(&Op::Pass { seconds: 61 });
    let instance = world.core.instance(vm).unwrap();
    assert!(matches!(instance.phase, Phase::Stopping { outcome: Outcome::Stopped, .. }), "{instance:?}");
    assert_eq!(instance.reason.as_deref(), Some("nobody used it for 60 s"));
}

#[test]
fn a_renewed_lease_does_not_run_out() {
    let mut world = World::new();
    let vm = ready(&mut world, true);
    for _ in 0..10 {
        world.apply(&Op::Pass { seconds: 200 });
        world.apply(&Op::Renew { token: 0, instance: 0 });
        // Its health checks are answered meanwhile.
        while !world.open.is_empty() {
            world.apply(&Op::Answer { which: 0, good: true });
        }
    }
    assert_eq!(world.core.instance(vm).unwrap().users.len(), 1);
}

#[test]
fn a_ready_service_may_miss_some_checks_but_not_all() {
    let mut world = World::new();
    let vm = ready(&mut world, true);
    for n in 1..=CHECKS_FAILED_MAX {
        assert!(matches!(world.core.instance(vm).unwrap().phase, Phase::Ready { .. }), "check {n}");
        world.apply(&Op::Pass { seconds: 10 });
        world.apply(&Op::Answer { which: 0, good: false });
    }
    let instance = world.core.instance(vm).unwrap();
    assert!(matches!(instance.phase, Phase::Stopping { outcome: Outcome::Failed, .. }));
    assert!(instance.reason.as_ref().unwrap().contains("health checks in a row"));
}

#[test]
fn a_vm_that_began_after_the_question_is_not_dead() {
    let mut world = World::new();
    world.apply(&Op::Pass { seconds: 5 });
    let vm = ready(&mut world, true);
    let listed = |asked_at| Input::Listed { asked_at, running: BTreeMap::new() };
    let mut out = Vec::new();
    world.core.step(world.now, listed(Duration::from_secs(4)), &mut out);
    assert!(world.core.instance(vm).unwrap().is_live());
    world.core.step(world.now, listed(Duration::from_secs(6)), &mut out);
    assert!(!world.core.instance(vm).unwrap().is_live());
}

#[test]
fn a_vm_that_was_not_yet_resumed_when_it_was_looked_at_does_not_stand_still() {
    let mut world = World::new();
    world.apply(&Op::Pass { seconds: 5 });
    let vm = ready(&mut world, true);
    let paused = Seen { executing: false, backed_bytes: 0 };
    let listed = |asked_at| Input::Listed { asked_at, running: BTreeMap::from([(vm, paused)]) };
    let mut out = Vec::new();
    world.core.step(world.now, listed(Duration::from_secs(4)), &mut out);
    assert!(world.core.instance(vm).unwrap().is_live());
    world.core.step(world.now, listed(Duration::from_secs(6)), &mut out);
    assert!(world.core.instance(vm).unwrap().reason.as_ref().unwrap().contains("stands still"));
}

#[test]
fn memory_that_a_clone_already_uses_is_not_counted_twice() {
    let mut world = World::new();
    ready(&mut world, true);
    // 500 available, 100 reserved, 150 claimed of which nothing is known to be used.
    assert_eq!(world.core.free(500).memory_bytes, 250);
    world.apply(&Op::List);
    // 40 of them are used, so they are missing from the 500 already.
    assert_eq!(world.core.free(500).memory_bytes, 290);
    // Whatever is available, no more is promised than there is.
    assert_eq!(world.core.free(5000).memory_bytes, 750);
}

#[test]
fn ended_instances_are_visible_for_a_while_and_few() {
    let mut world = World::new();
    for _ in 0..ENDED_MAX + 5 {
        world.apply(&Op::Start { token: 0, service: 0, private: true, elsewhere: false, available: 1000 });
        world.apply(&Op::Answer { which: 0, good: false });
        world.apply(&Op::Answer { which: 0, good: true });
    }
    assert_eq!(world.core.instances().count(), ENDED_MAX);
    assert!(world.core.instances().all(|i| i.reason.as_deref() == Some("told to fail")));
    world.apply(&Op::Pass { seconds: 299 });
    assert_eq!(world.core.instances().count(), ENDED_MAX);
    world.apply(&Op::Pass { seconds: 2 });
    assert_eq!(world.core.instances().count(), 0);
}

/// An instance whose image is on its way.
fn fetching(world: &mut World, token: u8, service: usize) -> VmId {
    world.apply(&Op::Start { token, service, private: false, elsewhere: true, available: 1000 });
    let fetches = |open: &Open| if let Open::Fetch(vm, _) = open { Some(*vm) } else { None };
    world.open.iter().filter_map(fetches).next_back().unwrap()
}

#[test]
fn what_comes_from_elsewhere_keeps_its_room_as_soon_as_its_needs_are_known() {
    let mut world = World::new();
    // 900 may be promised; `big` needs 400.
    let vm = fetching(&mut world, 0, 1);
    assert_eq!(world.core.free(1000).memory_bytes, 900, "nobody knows yet what it needs");
    world.apply(&Op::Describe { which: 0, available: 1000 });
    assert_eq!(world.core.free(1000).memory_bytes, 500);
    // Others join once it is known how many may.
    world.apply(&Op::Start { token: 1, service: 1, private: false, elsewhere: true, available: 1000 });
    assert_eq!(world.core.instance(vm).unwrap().users.len(), 2);
    world.now += Duration::from_secs(600);
    for _ in 0..4 {
        world.apply(&Op::Answer { which: 0, good: true });
    }
    let instance = world.core.instance(vm).unwrap();
    assert!(matches!(instance.phase, Phase::Ready { .. }), "{instance:?}");
    assert_eq!(instance.ready_after_ms, Some(0), "fetching is no part of a start");
}

#[test]
fn what_does_not_fit_is_not_fetched_to_its_end() {
    let mut world = World::new();
    let vm = fetching(&mut world, 0, 1);
    world.apply(&Op::Describe { which: 0, available: 450 });
    let instance = world.core.instance(vm).unwrap();
    assert!(instance.reason.as_ref().unwrap().contains("not enough is free"), "{instance:?}");
    assert!(matches!(
        instance.phase,
        Phase::Stopping { outcome: Outcome::Failed, step: StopStep::AwaitStart }
    ));
    // Too late: it has come.
    world.apply(&Op::Answer { which: 0, good: true });
    world.apply(&Op::Answer { which: 0, good: true });
    assert!(matches!(world.core.instance(vm).unwrap().phase, Phase::Ended { outcome: Outcome::Failed, .. }));
}

#[test]
fn an_image_that_nobody_waits_for_any_more_is_given_up() {
    let mut world = World::new();
    let (released, left) = (fetching(&mut world, 0, 0), fetching(&mut world, 1, 0));
    world.apply(&Op::Release { token: 0, instance: 0 });
    world.apply(&Op::Pass { seconds: 301 });
    for (vm, why) in [(released, "released"), (left, "nobody waited")] {
        let instance = world.core.instance(vm).unwrap();
        assert!(instance.reason.as_ref().unwrap().contains(why), "{instance:?}");
        assert!(matches!(instance.phase, Phase::Stopping { outcome: Outcome::Stopped, .. }));
    }
}

#[test]
fn fetching_goes_on_after_a_restart() {
    let mut world = World::new();
    let vm = fetching(&mut world, 0, 1);
    world.apply(&Op::Describe { which: 0, available: 1000 });
    world.apply(&Op::Restart);
    assert_eq!(world.open, [Open::Fetch(vm, 1)]);
    assert_eq!(world.core.free(1000).memory_bytes, 500, "its room is kept");
    world.apply(&Op::Start { token: 0, service: 1, private: false, elsewhere: true, available: 1000 });
    assert_eq!(world.core.instances().count(), 1, "its client gets the same one");
}
