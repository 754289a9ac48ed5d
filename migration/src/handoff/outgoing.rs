//! The source's side, up to the commit: it is the owner all the while, and may take the VM back at any moment.

use std::time::Duration;

use mesh::NodeId;
use vm_images::Digest;

use super::core::Core;
use super::message::{Attempt, Effect, Event, Grant, Limits, Message, Offer, Reason};
use super::record::Place;
use super::repeat::Repeat;
use super::{OFFER_LIMIT, RESEND_MOST};

/// A handoff that has not been committed.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub to: NodeId,
    attempt: Attempt,
    offer: Box<Offer>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The offer was made; the VM runs.
    Offering { since: Duration, repeat: Repeat },
    /// Pages travel; the VM runs.
    Precopy { grant: Grant },
    /// The rest travels; the VM stands still.
    Freezing { grant: Grant, since: Duration },
    /// The destination verifies; the VM stands still.
    Final { grant: Grant, digest: Digest, since: Duration, repeat: Repeat },
}

impl Outgoing {
    fn grant(&self) -> Option<Grant> {
        match self.phase {
            Phase::Offering { .. } => None,
            Phase::Precopy { grant } | Phase::Freezing { grant, .. } | Phase::Final { grant, .. } => {
                Some(grant)
            }
        }
    }

    fn frozen_since(&self) -> Option<Duration> {
        match self.phase {
            Phase::Offering { .. } | Phase::Precopy { .. } => None,
            Phase::Freezing { since, .. } | Phase::Final { since, .. } => Some(since),
        }
    }

    pub fn next_wakeup(&self, limits: &Limits) -> Option<Duration> {
        match &self.phase {
            Phase::Offering { since, repeat } => Some(repeat.due.min(*since + OFFER_LIMIT)),
            Phase::Precopy { .. } => None,
            Phase::Freezing { since, .. } => Some(*since + limits.freeze),
            Phase::Final { since, repeat, .. } => Some(repeat.due.min(*since + limits.freeze)),
        }
    }
}

impl Core {
    pub(super) fn start(&mut self, now: Duration, to: NodeId, attempt: u128, mut offer: Box<Offer>) {
        let Place::Owner { epoch } = self.record.place else {
            let reason = Reason::Stale { epoch: self.record.place.epoch() };
            return self.tell(Event::Declined(reason));
        };
        if self.out.is_some() || self.starting.is_some() || to == self.me {
            return self.tell(Event::Declined(Reason::Busy));
        }
        offer.epoch = epoch + 1;
        let attempt = Attempt(attempt);
        self.send(to, Message::Offer { attempt, offer: offer.clone() });
        let phase = Phase::Offering { since: now, repeat: Repeat::after(now, RESEND_MOST) };
        self.out = Some(Outgoing { to, attempt, offer, phase });
    }

    pub(super) fn granted(&mut self, from: NodeId, attempt: Attempt, grant: Grant) {
        match &mut self.out {
            Some(Outgoing { to, attempt: ours, phase: phase @ Phase::Offering { .. }, .. })
                if (*to, *ours) == (from, attempt) =>
            {
                *phase = Phase::Precopy { grant };
                self.push(Effect::Precopy { to: from, grant });
            }
            Some(out) if out.to == from && out.grant() == Some(grant) => {}
            // Room kept for an offer that does not stand any more.
            _ => self.send(from, Message::Cancel { grant }),
        }
    }

    pub(super) fn refused(&mut self, from: NodeId, attempt: Attempt, reason: Reason) {
        let offering = self.out.as_ref().is_some_and(|out| {
            (out.to, out.attempt) == (from, attempt) && matches!(out.phase, Phase::Offering { .. })
        });
        if offering {
            self.give_up(reason);
        }
    }

    pub(super) fn freeze(&mut self, now: Duration, grant: Grant) {
        if let Some(Outgoing { phase, .. }) = &mut self.out
            && matches!(phase, Phase::Precopy { grant: ours } if *ours == grant)
        {
            *phase = Phase::Freezing { grant, since: now };
            self.push(Effect::Freeze { grant });
        }
    }

    pub(super) fn sent(&mut self, now: Duration, grant: Grant, digest: Digest) {
        let Some(out) = &mut self.out else { return };
        let Phase::Freezing { grant: ours, since } = out.phase else { return };
        if ours == grant {
            let repeat = Repeat::after(now, RESEND_MOST);
            out.phase = Phase::Final { grant, digest, since, repeat };
            let to = out.to;
            self.send(to, Message::Final { grant, digest });
        }
    }

    pub(super) fn not_sent(&mut self, grant: Grant, why: String) {
        let sending =
            |out: &Outgoing| !matches!(out.phase, Phase::Final { .. }) && out.grant() == Some(grant);
        if self.out.as_ref().is_some_and(sending) {
            self.give_up(Reason::Failed(why));
        }
    }

    /// The point of no return: from here on the destination decides.
    pub(super) fn verified_there(&mut self, now: Duration, from: NodeId, grant: Grant) {
        let ours = |out: &Outgoing| {
            out.to == from && matches!(out.phase, Phase::Final { grant: ours, .. } if ours == grant)
        };
        let Place::Owner { epoch } = self.record.place else { return };
        if self.out.as_ref().is_some_and(ours) {
            self.out = None;
            self.put(Place::InDoubt { epoch, to: from, grant });
            self.ask(now);
        } else {
            self.send(from, Message::Cancel { grant });
        }
    }

    pub(super) fn aborted_before_commit(&mut self, from: NodeId, grant: Grant, reason: Reason) {
        if self.out.as_ref().is_some_and(|out| out.to == from && out.grant() == Some(grant)) {
            self.give_up(reason);
        }
    }

    pub(super) fn tick_outgoing(&mut self, now: Duration) {
        let freeze = self.limits.freeze;
        let Some(out) = &mut self.out else { return };
        if out.frozen_since().is_some_and(|since| now >= since + freeze) {
            return self.give_up(Reason::FrozenTooLong);
        }
        let to = out.to;
        match &mut out.phase {
            Phase::Offering { since, .. } if now >= *since + OFFER_LIMIT => self.give_up(Reason::NoAnswer),
            Phase::Offering { repeat, .. } => {
                if repeat.take(now) {
                    let message = Message::Offer { attempt: out.attempt, offer: out.offer.clone() };
                    self.send(to, message);
                }
            }
            Phase::Final { grant, digest, repeat, .. } => {
                if repeat.take(now) {
                    let message = Message::Final { grant: *grant, digest: *digest };
                    self.send(to, message);
                }
            }
            Phase::Precopy { .. } | Phase::Freezing { .. } => {}
        }
    }

    /// Leaves the VM where it is, and running.
    pub(super) fn give_up(&mut self, reason: Reason) {
        if let Some(out) = self.out.take() {
            self.stop(&out);
            if out.frozen_since().is_some() {
                self.push(Effect::Resume);
            }
            self.tell(Event::NotMoved { to: out.to, reason });
        }
    }

    /// Ends the sending, and lets the destination free what it keeps.
    pub(super) fn stop(&mut self, out: &Outgoing) {
        if let Some(grant) = out.grant() {
            self.push(Effect::Stop { grant });
            self.send(out.to, Message::Cancel { grant });
        }
    }
}
