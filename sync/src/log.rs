//! The local log: every revision that this node has heard of, in the order of hearing.
//!
//! Appending is the only change. A peer that remembers how far it got asks for what came after; replaying the entries
//! from the first gives the same objects, so the log is all that must survive a restart. Where it is kept is the
//! driver's business: it stores an [`Entry`] before it tells anybody that the revision was taken.

use std::collections::BTreeMap;

use crate::key::Key;
use crate::object::Object;
use crate::revision::Revision;

/// A revision and its place in this node's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Place, from 1 without gaps. Means nothing on another node.
    pub sequence: u64,
    /// The revision.
    pub revision: Revision,
}

/// Stored entries that do not follow each other: the store has lost or repeated some. Nothing of them was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored log has entry {found} where entry {expected} belongs; restore it from a peer")]
pub struct Gap {
    /// Sequence number that should have come.
    pub expected: u64,
    /// Sequence number that came.
    pub found: u64,
}

/// The log and the objects that it describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    entries: Vec<Entry>,
    objects: BTreeMap<Key, Object>,
}

impl Log {
    /// The log with these stored entries.
    pub fn replay(entries: impl IntoIterator<Item = Entry>) -> Result<Self, Gap> {
        let mut log = Self::default();
        for entry in entries {
            let expected = log.last_sequence() + 1;
            if entry.sequence != expected {
                return Err(Gap { expected, found: entry.sequence });
            }
            log.take(entry);
        }
        Ok(log)
    }

    /// Takes in a revision, from here or from a peer. The entry to store, or `None` if it says nothing new: it is
    /// known, or a known one has seen it.
    pub fn append(&mut self, revision: Revision) -> Option<&Entry> {
        let entry = Entry { sequence: self.last_sequence() + 1, revision };
        if self.take(entry) { self.entries.last() } else { None }
    }

    fn take(&mut self, entry: Entry) -> bool {
        let key = &entry.revision.key;
        let object = self.objects.entry(key.clone()).or_insert_with(|| Object::new(key.clone()));
        // The object was looked up by this very key, so the error cannot happen; then nothing was new.
        let changed = object.merge_revision(entry.revision.clone()).unwrap_or(false);
        if changed {
            self.entries.push(entry);
        }
        changed
    }

    /// Place of the newest entry; 0 for an empty log.
    pub fn last_sequence(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.sequence)
    }

    /// The entries after place `sequence`, oldest first. Later entries may have outdated them.
    pub fn since(&self, sequence: u64) -> &[Entry] {
        let first = usize::try_from(sequence).unwrap_or(usize::MAX).min(self.entries.len());
        &self.entries[first..]
    }

    /// The object with this key.
    pub fn object(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key)
    }

    /// Every object, in the order of keys.
    pub fn objects(&self) -> impl ExactSizeIterator<Item = &Object> {
        self.objects.values()
    }
}
