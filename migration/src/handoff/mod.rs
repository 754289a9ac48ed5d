//! Who owns a running VM while it moves from one cloudlet to another: decisions only.
//!
//! A [`Core`] is one node's part in the handoffs of one VM. It takes `now` and an input and returns effects; it reads no
//! clock, sends nothing and touches no VM. What carries pages is elsewhere; here pages only arrive, or do not.
//!
//! ```text
//!  source                                                      destination
//!  Owner, runs ──Offer──────────────────────────────────────►  reserves
//!              ◄─────────────────────────────────Granted(g)──  Incoming: receives
//!  pre-copy rounds, by instalments …                           keeps what arrived, on disk
//!  Owner, frozen ──Final(g, digest)─────────────────────────►  rebuilds, loads (paused), compares the digest
//!              ◄────────────────────────────────Verified(g)──
//!  InDoubt ═══ on disk ═══
//!              ──Commit(g)──────────────────────────────────►  Owner at epoch + 1 ═══ on disk ═══, then runs
//!              ◄─────────────────────────────────Running(g)──
//!  Gone ═══ on disk ═══, copy discarded
//!              ──Release(g)─────────────────────────────────►  forgets g
//! ```
//!
//! # Why there are never two
//!
//! A copy of the VM executes only at a node whose state is *Owner*. We show that at most one node is.
//!
//! * A *grant* `g` is a random number that the destination draws when it reserves. It is kept in memory only, until the
//!   commit: a destination that restarts, whose lease is over or that was told to cancel has forgotten `g` and never draws it
//!   again. So "aborted `g`", once true, stays true, however late, often or out of order the words of `g` arrive.
//! * The destination becomes owner by `Commit(g)` alone, and only while it has verified `g`. It writes that down before it
//!   runs anything, so "running `g`", once true, stays true too. It forgets it after `Release(g)` only, which the source
//!   sends after it has itself written down that the VM is gone.
//! * The source writes down that it is in doubt about `g` before the first `Commit(g)` leaves, and is not owner from then on.
//!   It becomes owner again on `Aborted(g)` alone. So between a `Commit(g)` and the answer the source does not run, and the
//!   answer says which of the two stable facts holds.
//! * Before `Commit(g)` only the source can be owner, so it may take the VM back at any moment, and does when the
//!   [`freeze limit`](Limits::freeze) is over. Its state cannot be older than what was acknowledged: nobody else ran.
//!
//! An operator who declares a destination dead ([`Input::Force`]) vouches for it. If he is wrong, two copies run until the source
//! and the destination are in contact again; then the destination's is paused and kept ([`Place::Fenced`]).
//!
//! # When it runs again, at the latest
//!
//! * Anything that happens before `Commit` leaves: the source runs on after [`Limits::freeze`], or when it restarts.
//! * A word that is lost is said again ([`RESEND_MOST`] apart at most), so a loss costs that long.
//! * The destination keeps a grant for [`Limits::lease`] without a word from the source, then aborts. So from the
//!   lease's end on, contact of any kind settles a doubt within one round trip: directly, through
//!   a third node that carries the words, or by an advert that names the owner ([`Input::OwnedBy`]).
//! * The link breaks just between the leaving of `Commit` and the coming of `Running`, and there is no other way
//!   from one to the other: the source cannot know, and nobody can make it know (this is the problem of the two generals: any protocol
//!   has a last word whose loss leaves one side in doubt). It then waits, paused and whole; its users are served by a fresh clone
//!   of the same Service VM, which is another VM. An operator who knows that the destination is lost says so
//!   ([`Input::Force`]).
//!
//! [`wire`] has the words as bytes, [`plan`] the question whether a handoff fits into a contact and when to freeze.
//!
//! # What the driver owes
//!
//! * Effects are done in order; a [`Effect::Persist`] is on disk before the next one is begun.
//! * [`Effect::Reserve`], [`Effect::Precopy`], [`Effect::Freeze`], [`Effect::Verify`] and [`Effect::Run`] are
//!   each answered, late or never when the process dies; [`Effect::Stop`], [`Effect::Resume`] and [`Effect::Discard`] are not.
//! * An input about a VM that is not [`Core::idle`] goes to its core, also after a restart ([`Core::restore`]).
//! * A [`Input::Tick`] soon after [`Core::next_wakeup`].

use std::time::Duration;

mod core;
mod incoming;
mod message;
mod outgoing;
pub mod plan;
mod record;
mod repeat;
pub mod share;
pub mod wire;

pub use core::{Copy, Core};
pub use message::{Attempt, Effect, Event, Grant, Input, Limits, Message, Offer, Reason};
pub use record::{Accepted, Place, Record};

/// Pause before a word without an answer is said again for the first time; doubles from there. Guess: above the round trip of
/// the links that we know (50 ms, and 200 ms over a loaded narrow one).
pub const RESEND_FIRST: Duration = Duration::from_millis(250);
/// Longest pause between two repetitions. Guess: a contact of seconds must be used.
pub const RESEND_MOST: Duration = Duration::from_secs(2);
/// How long an offer may stay without an answer. Guess: a destination that checks its disk under load needs a second.
pub const OFFER_LIMIT: Duration = Duration::from_secs(10);
/// Longest pause before a new owner says once more that it runs the VM, to a source that has not released it. Guess: nothing
/// waits for it but a record; a source in doubt asks by itself.
pub const RUNNING_RESEND_MOST: Duration = Duration::from_secs(60);
/// Most grants that a node has accepted and whose sources have not released them yet. Such a record is what lets a source
/// out of its doubt, so it is never dropped; a node that has this many takes no more of this VM. Guess: one VM
/// passing through this node that often without a single source being met again is not a moving vehicle but a fault.
pub const UNRELEASED_MAX: usize = 16;
