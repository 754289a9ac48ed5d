//! Inputs for the property tests.

use std::time::Duration;

use mesh::NodeId;
use proptest::prelude::*;
use sync::{Body, ContentId, Key, Object, Priority, Revision, object::Change};

/// Node number `number`.
pub fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; NodeId::BYTES])
}

/// A key.
pub fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// One step of a history: `who` writes at `at`, after hearing all that `hears` has if that is another node.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub who: u8,
    pub hears: u8,
    pub key: u8,
    pub at: u8,
    pub content: Option<u8>,
    pub priority: usize,
}

/// Histories of up to `steps` steps by four nodes on two keys.
pub fn histories(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0_u8..4, 0_u8..4, 0_u8..2, 0_u8..8, prop::option::of(any::<u8>()), 0_usize..4)
        .prop_map(|(who, hears, key, at, content, priority)| Step { who, hears, key, at, content, priority });
    prop::collection::vec(step, 1..=steps)
}

/// The revisions that a history makes: what nodes know of each other decides what their changes have seen.
pub fn revisions(history: &[Step]) -> Vec<Revision> {
    let keys = [key("reports/a"), key("reports/b")];
    let mut known: Vec<Vec<Object>> =
        (0..4).map(|_| keys.iter().cloned().map(Object::new).collect()).collect();
    let mut made = Vec::new();
    for step in history {
        let heard = known[usize::from(step.hears)].clone();
        let mine = &mut known[usize::from(step.who)];
        for (object, other) in mine.iter_mut().zip(&heard) {
            object.merge(other).unwrap();
        }
        let body =
            step.content.map_or(Body::Deleted, |byte| Body::Content { id: ContentId::of(&[byte]), bytes: 1 });
        let change = Change { body, priority: Priority::ALL[step.priority], deadline: None };
        let object = &mut mine[usize::from(step.key)];
        let revision = object.change(node(step.who), Duration::from_secs(step.at.into()), change);
        assert_eq!(object.merge_revision(revision.clone()), Ok(true));
        made.push(revision);
    }
    made
}
