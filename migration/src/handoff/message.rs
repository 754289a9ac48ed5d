//! The vocabulary: what nodes say to each other, what the core hears and what it wants done.

use std::time::Duration;

use mesh::NodeId;
use serde::{Deserialize, Serialize};
use vm_images::{Digest, Hardware, ImageId};

use super::record::Record;

/// Names one offer; drawn by the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u128);

/// Names one reservation; drawn by the destination and never again (see the [module](super)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant(pub u128);

/// What the destination must know to say yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The epoch that the destination would own the VM at.
    pub epoch: u64,
    /// The Service VM image that the VM is a clone of.
    pub image: ImageId,
    /// Its virtual hardware: memory, CPUs, machine type, CPU model.
    pub hardware: Hardware,
    /// What its disk overlay takes, bytes.
    pub disk_bytes: u64,
    /// What the source thinks that it will send, bytes; 0: it does not know.
    pub estimate_bytes: u64,
}

/// Why a handoff did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The other side did not answer in time.
    #[error("no answer in time")]
    NoAnswer,
    /// The VM stood still for as long as it may.
    #[error("the VM stood still for as long as it may, and runs on here")]
    FrozenTooLong,
    /// The destination heard nothing for as long as a lease lasts.
    #[error("the destination heard nothing for too long")]
    LeaseOver,
    /// Somebody cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// The destination does not know the grant (any more).
    #[error("the destination does not know of it (any more)")]
    Unknown,
    /// Another handoff of this VM is under way there.
    #[error("another handoff of this VM is under way there")]
    Busy,
    /// The destination owns this VM, or knows of a later owner.
    #[error("the destination knows this VM at epoch {epoch}")]
    Stale {
        /// The epoch that it knows.
        epoch: u64,
    },
    /// A step failed; the words of the driver that tried.
    #[error("{0}")]
    Failed(String),
}

/// What two nodes say to each other about one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// "Would you take it?"
    Offer {
        /// Names the offer.
        attempt: Attempt,
        /// What it is about.
        offer: Box<Offer>,
    },
    /// "Yes; there is room for it."
    Granted {
        /// The offer.
        attempt: Attempt,
        /// Names the reservation from now on.
        grant: Grant,
    },
    /// "No."
    Refused {
        /// The offer.
        attempt: Attempt,
        /// Why.
        reason: Reason,
    },
    /// "The VM stands still, and you have all of it."
    Final {
        /// The reservation.
        grant: Grant,
        /// Digest of all memory, disk and devices.
        digest: Digest,
    },
    /// "What I have is what you had; it is loaded and waits."
    Verified {
        /// The reservation.
        grant: Grant,
    },
    /// "It is yours."
    Commit {
        /// The reservation.
        grant: Grant,
    },
    /// "I own it."
    Running {
        /// The reservation.
        grant: Grant,
    },
    /// "Nothing became of it, and nothing will."
    Aborted {
        /// The reservation.
        grant: Grant,
        /// Why.
        reason: Reason,
    },
    /// "An operator has taken it back without you: pause yours."
    Superseded {
        /// The reservation.
        grant: Grant,
    },
    /// "Forget it, if it is not yours yet."
    Cancel {
        /// The reservation.
        grant: Grant,
    },
    /// "I know that it is yours; you need not remember how."
    Release {
        /// The reservation.
        grant: Grant,
    },
}

/// What happens to a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// Somebody wants the VM elsewhere.
    Start {
        /// Where.
        to: NodeId,
        /// A fresh random number.
        attempt: u128,
        /// What is offered; its epoch is set by the core.
        offer: Box<Offer>,
    },
    /// Somebody wants the handoff stopped.
    Cancel,
    /// A node said something.
    Said(NodeId, Message),
    /// A node says of itself, in its signed advert, that it owns the VM at this epoch.
    OwnedBy {
        /// The owner.
        node: NodeId,
        /// Its epoch.
        epoch: u64,
    },
    /// Bytes of the VM came in or went out: the other side lives.
    Progress,
    /// Answers [`Effect::Reserve`]: there is room; with a fresh random number.
    Reserved {
        /// The offer.
        attempt: Attempt,
        /// The random number.
        grant: u128,
    },
    /// Answers [`Effect::Reserve`].
    NotReserved {
        /// The offer.
        attempt: Attempt,
        /// Why.
        why: String,
    },
    /// Answers [`Effect::Precopy`]: what is left is worth standing still for.
    Freezable {
        /// The reservation.
        grant: Grant,
    },
    /// Answers [`Effect::Freeze`]: the VM stands still and the destination has stored all of it.
    Sent {
        /// The reservation.
        grant: Grant,
        /// Digest of all memory, disk and devices.
        digest: Digest,
    },
    /// Answers [`Effect::Precopy`] or [`Effect::Freeze`].
    NotSent {
        /// The reservation.
        grant: Grant,
        /// Why.
        why: String,
    },
    /// Answers [`Effect::Verify`].
    Verified {
        /// The reservation.
        grant: Grant,
    },
    /// Answers [`Effect::Verify`].
    NotVerified {
        /// The reservation.
        grant: Grant,
        /// Why.
        why: String,
    },
    /// Answers [`Effect::Run`].
    Ran,
    /// Answers [`Effect::Run`]: not one instruction was executed.
    NotRan {
        /// Why.
        why: String,
    },
    /// In doubt: an operator vouches that the destination does not run the VM and never will.
    Force,
    /// Fenced: an operator has no use for the copy.
    Forget,
}

/// What a core wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write this down (`None`: remove what is written) before anything that follows.
    Persist(Option<Record>),
    /// Say this.
    Send(NodeId, Message),
    /// Find room and keep it.
    Reserve {
        /// The offer.
        attempt: Attempt,
        /// What is offered.
        offer: Box<Offer>,
        /// Who offers.
        from: NodeId,
    },
    /// Send the VM while it runs on.
    Precopy {
        /// Where to.
        to: NodeId,
        /// The reservation.
        grant: Grant,
    },
    /// Pause the VM and send the rest.
    Freeze {
        /// The reservation.
        grant: Grant,
    },
    /// Stop sending; what arrived stays there.
    Stop {
        /// The reservation.
        grant: Grant,
    },
    /// Let our copy run on.
    Resume,
    /// Remove our copy for good.
    Discard,
    /// Pause our copy and keep it for an operator to look at: its source has taken the VM back.
    Fence,
    /// Rebuild, load without running, compare.
    Verify {
        /// The reservation.
        grant: Grant,
        /// What must come out.
        digest: Digest,
    },
    /// Run what was verified.
    Run,
    /// Stop receiving and free what was reserved and loaded; pages that arrived are kept for the next try.
    Drop {
        /// The reservation.
        grant: Grant,
    },
    /// Tell whoever watches.
    Tell(Event),
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The VM runs there now.
    Moved {
        /// Where.
        to: NodeId,
    },
    /// The VM runs here now.
    Arrived {
        /// From where.
        from: NodeId,
    },
    /// Our copy is lost, and it was the only one.
    Lost,
    /// Nothing came of it; the VM is where it was.
    NotMoved {
        /// Where it should have gone.
        to: NodeId,
        /// Why.
        reason: Reason,
    },
    /// What was asked for cannot be done now.
    Declined(Reason),
    /// A node says that it owns the VM that we own. We do not know why; people must look.
    Contested {
        /// Who says so.
        by: NodeId,
        /// At which epoch.
        epoch: u64,
    },
    /// Who gave us the VM has taken it back; our copy stands still.
    Fenced {
        /// The owner.
        owner: NodeId,
    },
}

/// What may differ from service to service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest that the source lets the VM stand still before the commit.
    pub freeze: Duration,
    /// Longest that the destination keeps what it reserved without hearing from the source.
    pub lease: Duration,
}

impl Default for Limits {
    /// Guesses: users of a service notice ten seconds; a vehicle behind a hill is back within half a minute.
    fn default() -> Self {
        Self { freeze: Duration::from_secs(10), lease: Duration::from_secs(30) }
    }
}
