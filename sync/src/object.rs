//! All current revisions of one mission object, and the conflict rule.
//!
//! The state is the set of revisions that no other known revision has seen ("maximal" ones). Merging unites two
//! such sets and drops what is outdated, which is commutative, associative and idempotent: nodes that heard of the same
//! changes hold the same state, in whatever order and however often they heard.
//!
//! Last-writer-wins is decided when *reading*, not when merging. Dropping the loser at once would not be associative:
//! with A and C where C has seen A, and B concurrent to both, written at 3, 1 and 2, ((A B) C) keeps C but (A (B C))
//! keeps A, which C has already replaced.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh::NodeId;

use crate::key::Key;
use crate::revision::{Body, Priority, Revision};
use crate::version::{Causality, Version};

/// What readers of a key see while there are concurrent revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// All of them: a person or the application decides. For reports, plans, annotations.
    KeepSiblings,
    /// The one that was written last by its writer's clock; ties by node id. For positions, status, readings.
    LastWriterWins,
}

/// All current revisions of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    key: Key,
    revisions: BTreeSet<Revision>,
}

/// A revision or object of another key was offered. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a change to '{theirs}' cannot be merged into '{ours}'")]
pub struct WrongKey {
    /// Key of the object.
    pub ours: Key,
    /// Key of what was offered.
    pub theirs: Key,
}

/// What a node writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What becomes of the object.
    pub body: Body,
    /// How urgent it is to others.
    pub priority: Priority,
    /// Mission time from which on it is of no use to others.
    pub deadline: Option<Duration>,
}

impl Object {
    /// An object that nobody has written yet.
    pub fn new(key: Key) -> Self {
        Self { key, revisions: BTreeSet::new() }
    }

    /// Which object it is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The current revisions, several only if they are concurrent. In an order that is the same on every node.
    pub fn siblings(&self) -> impl ExactSizeIterator<Item = &Revision> {
        self.revisions.iter()
    }

    /// Everything that any of the current revisions has seen.
    pub fn version(&self) -> Version {
        self.revisions.iter().fold(Version::default(), |seen, revision| seen.merge(&revision.version))
    }

    /// What a reader sees under `policy`; empty when nobody has written yet.
    pub fn read(&self, policy: Policy) -> Vec<&Revision> {
        match policy {
            Policy::KeepSiblings => self.revisions.iter().collect(),
            Policy::LastWriterWins => self
                .revisions
                .iter()
                .max_by_key(|revision| revision.last_writer_order())
                .into_iter()
                .collect(),
        }
    }

    /// The revision by which `node` changes this object at mission time `now`, in knowledge of all current ones. It
    /// is not merged yet: write it to the [`Log`](crate::Log) first.
    ///
    /// It is never written earlier than what it has seen, whatever `node`'s clock says.
    pub fn change(&self, node: NodeId, now: Duration, change: Change) -> Revision {
        let seen = self.revisions.iter().map(|revision| revision.written).max().unwrap_or_default();
        Revision {
            key: self.key.clone(),
            version: self.version().after_change_by(node),
            written: now.max(seen),
            author: node,
            body: change.body,
            priority: change.priority,
            deadline: change.deadline,
        }
    }

    /// Takes in one revision. True if that changed the state.
    pub fn merge_revision(&mut self, revision: Revision) -> Result<bool, WrongKey> {
        if revision.key != self.key {
            return Err(WrongKey { ours: self.key.clone(), theirs: revision.key });
        }
        let outdated =
            |old: &Revision, new: &Revision| old.version.causality(&new.version) == Causality::Before;
        if self.revisions.contains(&revision) || self.revisions.iter().any(|known| outdated(&revision, known))
        {
            return Ok(false);
        }
        self.revisions.retain(|known| !outdated(known, &revision));
        Ok(self.revisions.insert(revision))
    }

    /// Takes in all that another node knows of the object. True if that changed the state.
    pub fn merge(&mut self, other: &Self) -> Result<bool, WrongKey> {
        if other.key != self.key {
            return Err(WrongKey { ours: self.key.clone(), theirs: other.key.clone() });
        }
        let mut changed = false;
        for revision in &other.revisions {
            changed |= self.merge_revision(revision.clone())?;
        }
        Ok(changed)
    }
}
