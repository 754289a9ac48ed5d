//! Mission data on links that come and go: versioned objects that several cloudlets change while they cannot reach
//! each other, and the choice of what to send in a short contact.
//!
//! * [`key`], [`version`], [`revision`]: what an object is called, what its changes have seen of each other, and what
//!   is known of one change without having its content.
//! * [`object`]: all current revisions of one key. Merging keeps concurrent revisions side by side; a key's
//!   [`Policy`](object::Policy) says whether readers see them all or the last writer's.
//! * [`log`]: the append-only list of revisions that a node has heard of; replaying it gives the same state.
//! * [`scheduler`]: what to send in which order in a contact, by priority, deadline and size.
//! * [`wire`]: frames between nodes.
//!
//! Times are [`Duration`](std::time::Duration)s on the *mission clock*: since the mission's start, as near as the
//! nodes' clocks agree. No decision that must be the same everywhere compares one node's `now` with another's.
//!
//! **Invariant:** this crate reads no clock, opens no socket and no file, and holds no credentials.

#![forbid(unsafe_code)]

pub mod key;
pub mod log;
pub mod object;
pub mod revision;
pub mod scheduler;
pub mod version;
pub mod wire;

pub use key::{ContentId, Key};
pub use log::Log;
pub use object::Object;
pub use revision::{Body, Priority, Revision};
pub use version::{Causality, Version};
