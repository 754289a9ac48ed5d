//! What to send in a contact, and in which order.
//!
//! A contact on the tactical edge is short, and nobody knows how short. The plan therefore is an order: whenever
//! the link breaks, what was sent is what mattered most.
//!
//! 1. Higher [`Priority`] first, strictly: a lower one gets only what the higher ones cannot use.
//! 2. Within a priority, what was begun in an earlier contact and can be finished in this one.
//! 3. Then the earliest deadline, then the fewest bytes left, then the order of ids, so that every node plans alike.
//!
//! An object that does not fit whole is begun, with what its priority leaves over, so that a large object gets through in
//! several contacts instead of never. Nothing is sent whose deadline has passed or will have passed on arrival.
//!
//! An object that was begun is not resumed before one of higher priority: finishing a routine map must not delay
//! a flash report.

use std::cmp::Reverse;
use std::time::Duration;

use crate::key::ContentId;
use crate::revision::Priority;

/// What is known of a contact when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// What the link carries, bytes per second.
    pub rate_bytes_per_s: u64,
    /// How long the contact is expected to last. The plan is no longer than that.
    pub expected_duration: Duration,
}

/// Content that a peer lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which content.
    pub content: ContentId,
    /// How urgent it is.
    pub priority: Priority,
    /// Mission time by which it must have arrived whole to be of use.
    pub deadline: Option<Duration>,
    /// Its length.
    pub bytes: u64,
    /// How much of it the peer has already, from the beginning.
    pub sent_bytes: u64,
}

impl Waiting {
    /// What the peer still lacks.
    pub fn left_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.sent_bytes)
    }
}

/// A piece of content to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send {
    /// Which content.
    pub content: ContentId,
    /// Where the piece begins.
    pub offset: u64,
    /// Its length; never 0 except for empty content.
    pub bytes: u64,
    /// Whether the peer has the whole content then.
    pub completes: bool,
}

/// What to send in a contact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The pieces, in the order of sending.
    pub sends: Vec<Send>,
    /// What has passed its deadline; the caller may forget it.
    pub expired: Vec<ContentId>,
}

impl Plan {
    /// Bytes of all pieces.
    pub fn bytes(&self) -> u64 {
        self.sends.iter().map(|send| send.bytes).sum()
    }
}

/// Plans a contact that begins at mission time `now`. At most `budget_bytes` are sent, and no more than the contact
/// is expected to carry. `queue` may be in any order, and names each content once.
pub fn plan(now: Duration, contact: Contact, queue: &[Waiting], budget_bytes: u64) -> Plan {
    let capacity = budget_bytes.min(contact.carries());
    let mut ranked: Vec<&Waiting> = queue.iter().collect();
    ranked.sort_by_key(|waiting| {
        let resumes = waiting.sent_bytes > 0 && waiting.left_bytes() <= capacity;
        let deadline = waiting.deadline.unwrap_or(Duration::MAX);
        (Reverse(waiting.priority), !resumes, deadline, waiting.left_bytes(), waiting.content)
    });

    let mut plan = Plan::default();
    let mut left = capacity;
    for class in ranked.chunk_by(|a, b| a.priority == b.priority) {
        let mut too_large = None;
        for waiting in class {
            let needs = waiting.left_bytes();
            if waiting.deadline.is_some_and(|deadline| deadline <= now) {
                plan.expired.push(waiting.content);
            } else if needs > left {
                let useful = contact.may_be_finished_later(now, waiting);
                too_large = too_large.or_else(|| useful.then_some(*waiting));
            } else if contact.arrives_in_time(now, capacity - left, waiting) {
                plan.sends.push(waiting.piece(needs));
                left -= needs;
            }
        }
        if let Some(waiting) = too_large.filter(|_| left > 0) {
            plan.sends.push(waiting.piece(left));
            left = 0;
        }
    }
    plan
}

impl Contact {
    /// Bytes that the contact is expected to carry.
    fn carries(&self) -> u64 {
        let bytes =
            self.expected_duration.as_nanos().saturating_mul(self.rate_bytes_per_s.into()) / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Whether `waiting` is whole by its deadline when `before` bytes go first.
    fn arrives_in_time(&self, now: Duration, before: u64, waiting: &Waiting) -> bool {
        let Some(deadline) = waiting.deadline else { return true };
        let until = Self { expected_duration: deadline.saturating_sub(now), ..*self };
        before.saturating_add(waiting.left_bytes()) <= until.carries()
    }

    /// Whether `waiting`, begun now, can still be of use in a later contact.
    fn may_be_finished_later(&self, now: Duration, waiting: &Waiting) -> bool {
        waiting.deadline.is_none_or(|deadline| deadline > now.saturating_add(self.expected_duration))
    }
}

impl Waiting {
    fn piece(&self, bytes: u64) -> Send {
        Send { content: self.content, offset: self.sent_bytes, bytes, completes: bytes == self.left_bytes() }
    }
}
