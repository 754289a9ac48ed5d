//! The destination's side, up to the commit: it owns nothing, and may drop everything at any moment.

use std::time::Duration;

use mesh::NodeId;
use vm_images::Digest;

use super::UNRELEASED_MAX;
use super::core::Core;
use super::message::{Attempt, Effect, Event, Grant, Message, Offer, Reason};
use super::record::{Accepted, Place};

/// A VM that may come here.
#[derive(Debug)]
pub(super) struct Incoming {
    from: NodeId,
    attempt: Attempt,
    epoch: u64,
    phase: Phase,
    /// When the source was last heard.
    pub heard: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Reserving,
    Receiving { grant: Grant },
    Verifying { grant: Grant, digest: Digest },
    Verified { grant: Grant, digest: Digest },
}

impl Incoming {
    fn grant(&self) -> Option<Grant> {
        match self.phase {
            Phase::Reserving => None,
            Phase::Receiving { grant } | Phase::Verifying { grant, .. } | Phase::Verified { grant, .. } => {
                Some(grant)
            }
        }
    }
}

impl Core {
    pub(super) fn offered(&mut self, now: Duration, from: NodeId, attempt: Attempt, offer: Box<Offer>) {
        if let Some(reason) = self.objection(from, &offer) {
            return self.send(from, Message::Refused { attempt, reason });
        }
        match &mut self.incoming {
            Some(incoming) if (incoming.from, incoming.attempt) == (from, attempt) => {
                incoming.heard = now;
                if let Some(grant) = incoming.grant() {
                    self.send(from, Message::Granted { attempt, grant });
                }
            }
            _ => {
                self.drop_incoming(Reason::Busy);
                let epoch = offer.epoch;
                self.incoming = Some(Incoming { from, attempt, epoch, phase: Phase::Reserving, heard: now });
                self.push(Effect::Reserve { attempt, offer, from });
            }
        }
    }

    fn objection(&self, from: NodeId, offer: &Offer) -> Option<Reason> {
        let known = self.record.place.epoch();
        match self.record.place {
            Place::Owner { .. } | Place::InDoubt { .. } => return Some(Reason::Stale { epoch: known }),
            Place::Fenced { .. } => {
                return Some(Reason::Failed("a fenced copy of this VM is here".to_owned()));
            }
            Place::Gone { .. } | Place::Unknown if offer.epoch <= known => {
                return Some(Reason::Stale { epoch: known });
            }
            Place::Gone { .. } | Place::Unknown => {}
        }
        if self.record.accepted.len() >= UNRELEASED_MAX {
            return Some(Reason::Failed("too many earlier handoffs of this VM are not released".to_owned()));
        }
        let other = self.incoming.as_ref().filter(|incoming| incoming.from != from);
        other.filter(|incoming| incoming.epoch >= offer.epoch).map(|_| Reason::Busy)
    }

    pub(super) fn reserved(&mut self, now: Duration, attempt: Attempt, grant: Grant) {
        match &mut self.incoming {
            Some(incoming) if incoming.attempt == attempt && incoming.grant().is_none() => {
                incoming.phase = Phase::Receiving { grant };
                incoming.heard = now;
                let from = incoming.from;
                self.send(from, Message::Granted { attempt, grant });
            }
            // Kept for an offer that does not stand any more.
            _ => self.push(Effect::Drop { grant }),
        }
    }

    pub(super) fn not_reserved(&mut self, attempt: Attempt, why: String) {
        let incoming =
            self.incoming.take_if(|incoming| incoming.attempt == attempt && incoming.grant().is_none());
        if let Some(incoming) = incoming {
            self.send(incoming.from, Message::Refused { attempt, reason: Reason::Failed(why) });
        }
    }

    pub(super) fn progress(&mut self, now: Duration) {
        if let Some(incoming) = &mut self.incoming {
            incoming.heard = now;
        }
    }

    pub(super) fn finished(&mut self, now: Duration, from: NodeId, grant: Grant, digest: Digest) {
        let Some(incoming) = self.incoming_of(from, grant) else {
            return self.say_what_became_of(from, grant);
        };
        incoming.heard = now;
        match incoming.phase {
            Phase::Receiving { .. } => {
                incoming.phase = Phase::Verifying { grant, digest };
                self.push(Effect::Verify { grant, digest });
            }
            Phase::Verified { digest: ours, .. } if ours == digest => {
                self.send(from, Message::Verified { grant })
            }
            Phase::Reserving | Phase::Verifying { .. } | Phase::Verified { .. } => {}
        }
    }

    fn incoming_of(&mut self, from: NodeId, grant: Grant) -> Option<&mut Incoming> {
        self.incoming.as_mut().filter(|incoming| incoming.from == from && incoming.grant() == Some(grant))
    }

    pub(super) fn verified_here(&mut self, grant: Grant) {
        if let Some(incoming) = &mut self.incoming
            && let Phase::Verifying { grant: ours, digest } = incoming.phase
            && ours == grant
        {
            incoming.phase = Phase::Verified { grant, digest };
            let from = incoming.from;
            self.send(from, Message::Verified { grant });
        }
    }

    pub(super) fn not_verified(&mut self, grant: Grant, why: String) {
        if self.incoming.as_ref().is_some_and(|incoming| incoming.grant() == Some(grant)) {
            self.drop_incoming(Reason::Failed(why));
        }
    }

    /// The VM becomes ours: first on disk, then in fact.
    pub(super) fn committed(&mut self, from: NodeId, grant: Grant) {
        match self.incoming_of(from, grant) {
            Some(Incoming { phase: Phase::Verified { .. }, epoch, .. }) => {
                let epoch = *epoch;
                self.incoming = None;
                self.starting = Some((self.record.place, grant));
                self.record.accepted.push(Accepted { grant, from, epoch });
                self.put(Place::Owner { epoch });
                self.push(Effect::Run);
            }
            // Nobody who keeps to the protocol commits what we have not verified; he may ask again when we have.
            Some(_) => {}
            None => self.say_what_became_of(from, grant),
        }
    }

    pub(super) fn ran(&mut self, now: Duration) {
        if let Some((_, grant)) = self.starting.take() {
            let from = self.record.accepted.iter().find(|accepted| accepted.grant == grant);
            if let Some(from) = from.map(|accepted| accepted.from) {
                self.tell(Event::Arrived { from });
            }
            self.say_running(now);
        }
    }

    /// Not one instruction was executed, so the source's copy is as good as ours.
    pub(super) fn not_ran(&mut self, why: String) {
        if let Some((before, grant)) = self.starting.take() {
            let accepted = self.record.accepted.pop_if(|accepted| accepted.grant == grant);
            self.put(before);
            self.push(Effect::Drop { grant });
            if let Some(accepted) = accepted {
                self.send(accepted.from, Message::Aborted { grant, reason: Reason::Failed(why) });
            }
        }
    }

    pub(super) fn cancelled(&mut self, from: NodeId, grant: Grant) {
        if self.incoming_of(from, grant).is_some() {
            self.drop_incoming(Reason::Cancelled);
        } else {
            self.say_what_became_of(from, grant);
        }
    }

    /// Of a grant that is not under way only two things can be true: it was committed, or nothing ever becomes of it. Whatever
    /// was said about it, late or twice, this is the answer.
    fn say_what_became_of(&mut self, from: NodeId, grant: Grant) {
        let committed = |accepted: &Accepted| (accepted.grant, accepted.from) == (grant, from);
        if !self.record.accepted.iter().any(committed) {
            self.send(from, Message::Aborted { grant, reason: Reason::Unknown });
        } else if self.starting.is_none_or(|(_, starting)| starting != grant) {
            self.send(from, Message::Running { grant });
        }
    }

    pub(super) fn tick_incoming(&mut self, now: Duration) {
        let lease = self.limits.lease;
        if self.incoming.as_ref().is_some_and(|incoming| now >= incoming.heard + lease) {
            self.drop_incoming(Reason::LeaseOver);
        }
    }

    /// Forgets the grant, for ever.
    fn drop_incoming(&mut self, reason: Reason) {
        if let Some(incoming) = self.incoming.take()
            && let Some(grant) = incoming.grant()
        {
            self.push(Effect::Drop { grant });
            self.send(incoming.from, Message::Aborted { grant, reason });
        }
    }
}
