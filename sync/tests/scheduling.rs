//! What the contact scheduler promises, for any queue and any contact.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use sync::scheduler::{Contact, Plan, Send, Waiting, plan};
use sync::{ContentId, Priority};

const NOW: Duration = Duration::from_secs(100);

fn waiting(name: u8, priority: Priority, bytes: u64) -> Waiting {
    Waiting { content: ContentId::of(&[name]), priority, deadline: None, bytes, sent_bytes: 0 }
}

fn seconds(rate_bytes_per_s: u64, seconds: u64) -> Contact {
    Contact { rate_bytes_per_s, expected_duration: Duration::from_secs(seconds) }
}

fn sent(plan: &Plan) -> Vec<(ContentId, u64)> {
    plan.sends.iter().map(|send| (send.content, send.bytes)).collect()
}

fn queues() -> impl Strategy<Value = Vec<Waiting>> {
    let item = (0_usize..4, prop::option::of(90_u64..200), 1_u64..5000, 0_u64..5000);
    prop::collection::vec(item, 0..20).prop_map(|items| {
        let with_name = (0_u8..).zip(items);
        let read =
            |(name, (priority, deadline, bytes, sent)): (u8, (usize, Option<u64>, u64, u64))| Waiting {
                deadline: deadline.map(Duration::from_secs),
                sent_bytes: sent % bytes,
                ..waiting(name, Priority::ALL[priority], bytes)
            };
        with_name.map(read).collect()
    })
}

fn contacts() -> impl Strategy<Value = Contact> {
    (0_u64..500, 0_u64..60_000).prop_map(|(rate_bytes_per_s, milliseconds)| Contact {
        rate_bytes_per_s,
        expected_duration: Duration::from_millis(milliseconds),
    })
}

fn capacity(contact: Contact, budget_bytes: u64) -> u64 {
    let carried = contact.expected_duration.as_millis() * u128::from(contact.rate_bytes_per_s) / 1000;
    budget_bytes.min(u64::try_from(carried).unwrap())
}

proptest! {
    #[test]
    fn a_plan_keeps_to_budget_and_contact(queue in queues(), contact in contacts(), budget in 0_u64..20_000) {
        let plan = plan(NOW, contact, &queue, budget);
        prop_assert!(plan.bytes() <= capacity(contact, budget));
        let by_name: BTreeMap<_, _> = queue.iter().map(|waiting| (waiting.content, waiting)).collect();
        let mut seen = Vec::new();
        for Send { content, offset, bytes, completes } in &plan.sends {
            let waiting = by_name[content];
            prop_assert!(!seen.contains(content), "sent twice");
            seen.push(*content);
            prop_assert_eq!(*offset, waiting.sent_bytes);
            prop_assert!(*bytes > 0 && offset + bytes <= waiting.bytes);
            prop_assert_eq!(*completes, offset + bytes == waiting.bytes);
        }
    }

    #[test]
    fn nothing_is_sent_that_comes_too_late(queue in queues(), contact in contacts(), budget in 0_u64..20_000) {
        let plan = plan(NOW, contact, &queue, budget);
        let mut before = 0_u64;
        for send in &plan.sends {
            before += send.bytes;
            let waiting = queue.iter().find(|waiting| waiting.content == send.content).unwrap();
            if let Some(deadline) = waiting.deadline {
                prop_assert!(!plan.expired.contains(&send.content));
                prop_assert!(deadline > NOW);
                let needs_ms = u128::from(before) * 1000 / u128::from(contact.rate_bytes_per_s);
                prop_assert!(!send.completes || NOW.as_millis() + needs_ms <= deadline.as_millis());
            }
        }
        for waiting in &queue {
            let over = waiting.deadline.is_some_and(|deadline| deadline <= NOW);
            prop_assert_eq!(plan.expired.contains(&waiting.content), over);
        }
    }

    /// Whoever stays out could not have fitted beside what goes before it: everything of its own priority and above.
    #[test]
    fn a_higher_priority_that_fits_is_never_left_out_for_a_lower_one(
        mut queue in queues(), contact in contacts(), budget in 0_u64..20_000,
    ) {
        queue.iter_mut().for_each(|waiting| waiting.deadline = None);
        let plan = plan(NOW, contact, &queue, budget);
        let priority = |content| queue.iter().find(|w| w.content == content).map(|w| w.priority);
        for left_out in queue.iter().filter(|w| !plan.sends.iter().any(|s| s.content == w.content && s.completes)) {
            let not_lower: u64 = plan
                .sends
                .iter()
                .filter(|send| send.content != left_out.content && priority(send.content) >= Some(left_out.priority))
                .map(|send| send.bytes)
                .sum();
            prop_assert!(not_lower + left_out.left_bytes() > capacity(contact, budget), "{:?}", left_out);
        }
        prop_assert!(plan.sends.is_sorted_by_key(|send| std::cmp::Reverse(priority(send.content))));
    }

    #[test]
    fn the_order_of_the_queue_does_not_matter(queue in queues(), contact in contacts(), budget in 0_u64..20_000) {
        let mut other = queue.clone();
        other.reverse();
        prop_assert_eq!(plan(NOW, contact, &queue, budget).sends, plan(NOW, contact, &other, budget).sends);
    }
}

#[test]
fn priority_then_resumed_then_deadline_then_size() {
    let routine = |name, bytes| waiting(name, Priority::Routine, bytes);
    let queue = [
        routine(1, 30),
        routine(2, 20),
        Waiting { deadline: Some(NOW + Duration::from_secs(9)), ..routine(3, 40) },
        Waiting { sent_bytes: 10, ..routine(4, 90) },
        waiting(5, Priority::Flash, 50),
    ];
    let plan = plan(NOW, seconds(1000, 10), &queue, u64::MAX);
    let order: Vec<u8> = plan
        .sends
        .iter()
        .map(|send| (1..=5).find(|name| ContentId::of(&[*name]) == send.content).unwrap())
        .collect();
    assert_eq!(order, [5, 4, 3, 2, 1]);
}

#[test]
fn a_large_object_gets_through_in_several_contacts() {
    let mut map = waiting(1, Priority::Routine, 2500);
    let contact = seconds(100, 10);
    let mut contacts = 0;
    while map.left_bytes() > 0 {
        let plan = plan(NOW, contact, &[map], u64::MAX);
        assert_eq!(plan.sends.len(), 1);
        map.sent_bytes += plan.bytes();
        contacts += 1;
    }
    assert_eq!(contacts, 3);
}

#[test]
fn nothing_is_begun_that_no_later_contact_can_finish_in_time() {
    let large = |deadline_s| Waiting {
        deadline: Some(NOW + Duration::from_secs(deadline_s)),
        ..waiting(1, Priority::Flash, 2000)
    };
    let contact = seconds(100, 10);
    assert_eq!(plan(NOW, contact, &[large(10)], u64::MAX), Plan::default());
    assert_eq!(plan(NOW, contact, &[large(11)], u64::MAX).bytes(), 1000);
}

#[test]
fn what_is_left_over_begins_the_first_that_does_not_fit() {
    let queue = [
        waiting(1, Priority::Flash, 900),
        waiting(2, Priority::Flash, 2000),
        waiting(3, Priority::Routine, 50),
    ];
    let plan = plan(NOW, seconds(1000, 1), &queue, u64::MAX);
    assert_eq!(sent(&plan), [(ContentId::of(&[1]), 900), (ContentId::of(&[2]), 100)]);
}

#[test]
fn an_endless_contact_does_not_overflow() {
    let contact = Contact { rate_bytes_per_s: u64::MAX, expected_duration: Duration::MAX };
    let queue = [waiting(1, Priority::Flash, u64::MAX), waiting(2, Priority::Routine, u64::MAX)];
    assert_eq!(plan(NOW, contact, &queue, u64::MAX).bytes(), u64::MAX);
    assert_eq!(plan(NOW, seconds(0, 0), &queue, u64::MAX).sends, []);
}
