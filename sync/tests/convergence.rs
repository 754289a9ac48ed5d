//! Nodes that heard of the same changes hold the same state, in whatever order and however often they heard.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::{histories, key, node, revisions};
use proptest::prelude::*;
use sync::object::{Change, Policy};
use sync::{Body, ContentId, Log, Object, Priority, Revision};

fn object_of(revisions: &[Revision]) -> Object {
    let mut object = Object::new(key("reports/a"));
    for revision in
        revisions.iter().filter(|revision| revision.key == *object.key()).cloned().collect::<Vec<_>>()
    {
        object.merge_revision(revision).unwrap();
    }
    object
}

fn merged(a: &Object, b: &Object) -> Object {
    let mut both = a.clone();
    both.merge(b).unwrap();
    both
}

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_idempotent(history in histories(14), cuts in prop::array::uniform2(0_usize..15)) {
        let all = revisions(&history);
        let (first, second) = (cuts[0].min(cuts[1]).min(all.len()), cuts[0].max(cuts[1]).min(all.len()));
        let [a, b, c] = [&all[..first], &all[first..second], &all[second..]].map(object_of);
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(&merged(&a, &a), &a);
        let whole = object_of(&all);
        prop_assert_eq!(&merged(&merged(&c, &b), &a), &whole);
        prop_assert!(whole.read(Policy::LastWriterWins).len() <= 1);
    }

    #[test]
    fn the_order_of_hearing_does_not_matter(history in histories(14), order in any::<prop::sample::Index>(), seed: u64) {
        let told = revisions(&history);
        let mut shuffled = told.clone();
        let length = shuffled.len();
        shuffled.rotate_left(order.index(length));
        for index in (1..length).rev() {
            shuffled.swap(index, seed.rotate_left(index as u32) as usize % (index + 1));
        }
        let (mut one, mut two) = (Log::default(), Log::default());
        for revision in told {
            one.append(revision);
        }
        for revision in shuffled.iter().chain(&shuffled) {
            two.append(revision.clone());
        }
        prop_assert!(one.objects().eq(two.objects()));
    }

    #[test]
    fn replaying_a_log_gives_the_same_state(history in histories(14), cut in 0_usize..15) {
        let mut log = Log::default();
        for revision in revisions(&history) {
            let place = log.append(revision).map(|entry| entry.sequence);
            prop_assert!(place.is_none_or(|place| place == log.last_sequence()));
        }
        prop_assert_eq!(&Log::replay(log.since(0).to_vec()).unwrap(), &log);
        // What a peer missed, in two portions.
        let cut = cut.min(log.since(0).len());
        let mut peer = Log::replay(log.since(0)[..cut].to_vec()).unwrap();
        for entry in log.since(cut as u64) {
            peer.append(entry.revision.clone());
        }
        prop_assert_eq!(&peer, &log);
    }
}

fn written(at_s: u64, content: &[u8]) -> (Duration, Change) {
    let body = Body::Content { id: ContentId::of(content), bytes: content.len() as u64 };
    (Duration::from_secs(at_s), Change { body, priority: Priority::Routine, deadline: None })
}

#[test]
fn concurrent_reports_stay_side_by_side_until_somebody_has_seen_both() {
    let mut here = Object::new(key("reports/a"));
    let mut there = here.clone();
    let (at, change) = written(10, b"bridge open");
    let left = here.change(node(1), at, change);
    here.merge_revision(left.clone()).unwrap();
    let (at, change) = written(20, b"bridge closed");
    let right = there.change(node(2), at, change);
    there.merge_revision(right.clone()).unwrap();

    here.merge(&there).unwrap();
    assert_eq!(here.read(Policy::KeepSiblings).len(), 2);
    assert_eq!(here.read(Policy::LastWriterWins), [&right]);

    let (at, change) = written(5, b"bridge closed since noon");
    let settled = here.change(node(1), at, change);
    assert!(settled.written >= right.written, "a slow clock must not lose against what the writer has seen");
    here.merge_revision(settled.clone()).unwrap();
    assert_eq!(here.read(Policy::KeepSiblings), [&settled]);
    assert_eq!(here.merge_revision(left), Ok(false), "an old revision must not come back");
}

#[test]
fn a_deletion_is_not_undone_by_an_old_copy() {
    let mut object = Object::new(key("reports/a"));
    let (at, change) = written(1, b"x");
    let first = object.change(node(1), at, change);
    object.merge_revision(first.clone()).unwrap();
    let deletion = object.change(node(1), at, Change { body: Body::Deleted, ..change });
    object.merge_revision(deletion.clone()).unwrap();
    assert_eq!(object.merge_revision(first), Ok(false));
    assert_eq!(object.read(Policy::KeepSiblings), [&deletion]);
}

#[test]
fn objects_of_other_keys_and_logs_with_gaps_are_refused() {
    let mut object = Object::new(key("reports/a"));
    let other = Object::new(key("reports/b"));
    assert!(object.merge(&other).unwrap_err().to_string().contains("reports/b"));

    let mut log = Log::default();
    let (at, change) = written(1, b"x");
    log.append(other.change(node(1), at, change)).unwrap();
    let mut entries = log.since(0).to_vec();
    entries[0].sequence = 2;
    assert!(Log::replay(entries).unwrap_err().to_string().contains("entry 2 where entry 1"));
    assert_eq!(log.since(u64::MAX), []);
}
