//! Random histories of the core; after every input its promises are checked.
//!
//! The world around the core is played by [`world`]: it answers effects in any order and at any time, loses VMs, and
//! restarts the daemon from what was persisted. [`histories`] are told by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use proptest::prelude::*;

mod histories;
mod world;

use world::{Op, World};

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..5u8, 0..3usize, any::<bool>(), any::<bool>(), 200..1100u64).prop_map(
            |(token, service, private, elsewhere, available)| {
                Op::Start { token, service, private, elsewhere, available }
            }
        ),
        2 => (0..4usize, 200..1100u64).prop_map(|(which, available)| Op::Describe { which, available }),
        3 => (0..5u8, 0..8usize).prop_map(|(token, instance)| Op::Release { token, instance }),
        1 => (0..5u8, 0..8usize).prop_map(|(token, instance)| Op::Renew { token, instance }),
        1 => (0..8usize).prop_map(|instance| Op::Force { instance }),
        16 => (0..16usize, prop::bool::weighted(0.85)).prop_map(|(which, good)| Op::Answer { which, good }),
        4 => prop_oneof![0..12u64, 0..400u64].prop_map(|seconds| Op::Pass { seconds }),
        1 => (0..8usize).prop_map(|which| Op::Die { which }),
        1 => (0..8usize).prop_map(|which| Op::Freeze { which }),
        2 => Just(Op::List),
        1 => Just(Op::Restart),
    ]
}

fn ending() -> impl Strategy<Value = Op> {
    prop_oneof![Just(Op::Mission), any::<bool>().prop_map(|keep| Op::Shutdown { keep })]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_in_every_history(
        ops in prop::collection::vec(op(), 1..120),
        end in ending(),
        after in prop::collection::vec(op(), 0..20),
    ) {
        let mut world = World::new();
        for op in ops.iter().chain([&end]).chain(&after) {
            world.apply(op);
        }
        world.apply(&Op::Shutdown { keep: false });
        world.drain();
        prop_assert_eq!(world.core.instances().count(), 0);
        prop_assert!(world.vms.is_empty() && world.owed_stops.is_empty() && world.disk.is_empty());
    }
}
