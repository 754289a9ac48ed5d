//! One node's part in the handoffs of one VM.

use std::time::Duration;

use mesh::NodeId;

use super::incoming::Incoming;
use super::message::{Effect, Event, Grant, Input, Limits, Message, Reason};
use super::outgoing::Outgoing;
use super::record::{Accepted, Place, Record};
use super::repeat::Repeat;
use super::{RESEND_MOST, RUNNING_RESEND_MOST};

/// What a restarted node finds of the VM on its own machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// Nothing.
    None,
    /// A copy that stands still.
    Paused,
    /// A copy that executes.
    Running,
}

/// One node's part in the handoffs of one VM; see the [module](super).
#[derive(Debug)]
pub struct Core {
    pub(super) me: NodeId,
    pub(super) limits: Limits,
    pub(super) record: Record,
    pub(super) out: Option<Outgoing>,
    pub(super) incoming: Option<Incoming>,
    /// While [`Effect::Run`] is outstanding: where the VM was before, and the grant.
    pub(super) starting: Option<(Place, Grant)>,
    /// When a doubt is put into words again; whether somebody wants it cancelled.
    doubt: Option<(Repeat, bool)>,
    /// When sources that have not released us are told again.
    unreleased: Option<Repeat>,
    effects: Vec<Effect>,
}

impl Core {
    /// A VM that is not known here, or that was just started here ([`Record::started`], which the driver has written down).
    pub fn new(me: NodeId, limits: Limits, record: Record) -> Self {
        Self {
            me,
            limits,
            record,
            out: None,
            incoming: None,
            starting: None,
            doubt: None,
            unreleased: None,
            effects: Vec::new(),
        }
    }

    /// After a restart: what was written down, and what is found of the VM.
    pub fn restore(
        me: NodeId,
        limits: Limits,
        record: Record,
        copy: Copy,
        now: Duration,
    ) -> (Self, Vec<Effect>) {
        let mut core = Self::new(me, limits, record);
        match (core.record.place, copy) {
            (Place::Owner { .. }, Copy::Running) => {}
            // Frozen for a handoff that was not committed, or committed to us and not begun.
            (Place::Owner { .. }, Copy::Paused) => core.push(Effect::Resume),
            (Place::Owner { epoch }, Copy::None) => core.lost(epoch),
            (Place::InDoubt { .. }, _) => core.ask(now),
            (Place::Fenced { .. }, Copy::Running) => core.push(Effect::Fence),
            (Place::Fenced { .. }, _) | (Place::Gone { .. } | Place::Unknown, Copy::None) => {}
            (Place::Gone { .. } | Place::Unknown, _) => core.push(Effect::Discard),
        }
        core.say_running(now);
        let effects = std::mem::take(&mut core.effects);
        (core, effects)
    }

    /// Where the VM is.
    pub fn place(&self) -> Place {
        self.record.place
    }

    /// The epoch that an advert may say this node owns the VM at. Not before it has run: until then it may be given back.
    pub fn advertised_epoch(&self) -> Option<u64> {
        match self.record.place {
            Place::Owner { epoch } if self.starting.is_none() => Some(epoch),
            _ => None,
        }
    }

    /// Where the VM is on its way to, if it is.
    pub fn moving_to(&self) -> Option<NodeId> {
        self.out.as_ref().map(|out| out.to)
    }

    /// Whether nothing is under way, so that the core can be made anew from its record later.
    pub fn idle(&self) -> bool {
        self.next_wakeup().is_none()
            && self.starting.is_none()
            && self.incoming.is_none()
            && self.out.is_none()
    }

    /// When a tick is wanted at the latest.
    pub fn next_wakeup(&self) -> Option<Duration> {
        let out = self.out.as_ref().and_then(|out| out.next_wakeup(&self.limits));
        let lease = self.incoming.as_ref().map(|incoming| incoming.heard + self.limits.lease);
        let doubt = self.doubt.map(|(repeat, _)| repeat.due);
        let unreleased = self.unreleased.map(|repeat| repeat.due);
        [out, lease, doubt, unreleased].into_iter().flatten().min()
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        match input {
            Input::Tick => self.tick(now),
            Input::Start { to, attempt, offer } => self.start(now, to, attempt, offer),
            Input::Cancel => self.cancel(),
            Input::Said(from, message) => self.said(now, from, message),
            Input::OwnedBy { node, epoch } => self.owned_by(node, epoch),
            Input::Progress => self.progress(now),
            Input::Reserved { attempt, grant } => self.reserved(now, attempt, Grant(grant)),
            Input::NotReserved { attempt, why } => self.not_reserved(attempt, why),
            Input::Freezable { grant } => self.freeze(now, grant),
            Input::Sent { grant, digest } => self.sent(now, grant, digest),
            Input::NotSent { grant, why } => self.not_sent(grant, why),
            Input::Verified { grant } => self.verified_here(grant),
            Input::NotVerified { grant, why } => self.not_verified(grant, why),
            Input::Ran => self.ran(now),
            Input::NotRan { why } => self.not_ran(why),
            Input::Force => self.force(),
            Input::Forget => self.forget(),
        }
        std::mem::take(&mut self.effects)
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.push(Effect::Send(to, message));
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.push(Effect::Tell(event));
    }

    /// The VM is there now, as far as we know; on disk before anything else happens.
    pub(super) fn put(&mut self, place: Place) {
        self.record.place = place;
        self.persist();
    }

    pub(super) fn persist(&mut self) {
        let written = self.record.written();
        self.push(Effect::Persist(written));
    }

    fn tick(&mut self, now: Duration) {
        self.tick_outgoing(now);
        self.tick_incoming(now);
        if self.doubt.as_mut().is_some_and(|(repeat, _)| repeat.take(now)) {
            self.put_doubt_into_words();
        }
        if self.unreleased.as_mut().is_some_and(|repeat| repeat.take(now)) {
            self.put_running_into_words();
        }
    }

    fn said(&mut self, now: Duration, from: NodeId, message: Message) {
        match message {
            Message::Offer { attempt, offer } => self.offered(now, from, attempt, offer),
            Message::Final { grant, digest } => self.finished(now, from, grant, digest),
            Message::Commit { grant } => self.committed(from, grant),
            Message::Cancel { grant } => self.cancelled(from, grant),
            Message::Release { grant } => self.released(from, grant),
            Message::Granted { attempt, grant } => self.granted(from, attempt, grant),
            Message::Refused { attempt, reason } => self.refused(from, attempt, reason),
            Message::Verified { grant } => self.verified_there(now, from, grant),
            Message::Running { grant } => self.runs_there(from, grant),
            Message::Superseded { grant } => self.superseded(from, grant),
            Message::Aborted { grant, reason } => self.aborted(from, grant, reason),
        }
    }

    /// Asks the destination, now and again, what became of the commit.
    pub(super) fn ask(&mut self, now: Duration) {
        self.doubt = Some((Repeat::after(now, RESEND_MOST), false));
        self.put_doubt_into_words();
    }

    fn put_doubt_into_words(&mut self) {
        if let Place::InDoubt { to, grant, .. } = self.record.place {
            let cancel = self.doubt.is_some_and(|(_, cancel)| cancel);
            self.send(to, if cancel { Message::Cancel { grant } } else { Message::Commit { grant } });
        }
    }

    /// Somebody wants it stopped. Once in doubt only the destination can say whether it still can be.
    fn cancel(&mut self) {
        match (&self.out, &mut self.doubt) {
            (Some(_), _) => self.give_up(Reason::Cancelled),
            (None, Some((_, cancel))) => {
                *cancel = true;
                self.put_doubt_into_words();
            }
            (None, None) => self.tell(Event::Declined(Reason::Unknown)),
        }
    }

    fn runs_there(&mut self, from: NodeId, grant: Grant) {
        match self.record.place {
            Place::InDoubt { epoch, to, grant: ours } if (to, ours) == (from, grant) => {
                self.moved(to, epoch + 1)
            }
            _ => {}
        }
        // Whatever we think of the VM: we are not in doubt about this grant and never will be again.
        let forced = self.record.forced.contains(&(from, grant));
        self.send(from, if forced { Message::Superseded { grant } } else { Message::Release { grant } });
    }

    fn moved(&mut self, to: NodeId, epoch: u64) {
        self.doubt = None;
        self.put(Place::Gone { epoch, to });
        self.push(Effect::Discard);
        self.tell(Event::Moved { to });
    }

    fn aborted(&mut self, from: NodeId, grant: Grant, reason: Reason) {
        match self.record.place {
            Place::InDoubt { epoch, to, grant: ours } if (to, ours) == (from, grant) => {
                self.doubt = None;
                self.put(Place::Owner { epoch });
                self.push(Effect::Resume);
                self.tell(Event::NotMoved { to, reason });
            }
            _ => self.aborted_before_commit(from, grant, reason),
        }
    }

    /// A node says of itself that it owns the VM. Only from the destination that we are in doubt about does that change
    /// anything here: else one captured node could stop every VM of the fleet.
    fn owned_by(&mut self, node: NodeId, epoch: u64) {
        match self.record.place {
            Place::InDoubt { to, epoch: ours, .. } if to == node && epoch > ours => self.moved(to, epoch),
            Place::Gone { epoch: known, .. } if node != self.me && epoch > known => {
                self.put(Place::Gone { epoch, to: node });
            }
            Place::Owner { epoch: ours } if node != self.me && epoch >= ours => {
                self.tell(Event::Contested { by: node, epoch });
            }
            _ => {}
        }
    }

    /// The new epoch is above the one that the destination may have; should it run, it is told that it must not.
    fn force(&mut self) {
        let Place::InDoubt { epoch, to, grant } = self.record.place else {
            return self.tell(Event::Declined(Reason::Unknown));
        };
        self.doubt = None;
        self.record.forced.push((to, grant));
        self.put(Place::Owner { epoch: epoch + 2 });
        self.push(Effect::Resume);
    }

    /// Our copy is of no use to anybody any more.
    fn forget(&mut self) {
        match self.record.place {
            Place::Fenced { epoch, owner } => {
                self.put(Place::Gone { epoch, to: owner });
                self.push(Effect::Discard);
            }
            _ => self.tell(Event::Declined(Reason::Unknown)),
        }
    }

    /// Who gave us the VM has taken it back without us, and his word is the one that counts.
    fn superseded(&mut self, from: NodeId, grant: Grant) {
        let given = |accepted: &Accepted| (accepted.from, accepted.grant) == (from, grant);
        let Some(accepted) = self.record.accepted.iter().copied().find(given) else { return };
        self.record.accepted.retain(|other| !given(other));
        match self.record.place {
            Place::Owner { epoch } if epoch == accepted.epoch => {
                self.starting = None;
                if let Some(out) = self.out.take() {
                    self.stop(&out);
                }
                self.put(Place::Fenced { epoch: epoch + 1, owner: from });
                self.push(Effect::Fence);
                self.tell(Event::Fenced { owner: from });
            }
            _ => self.persist(),
        }
    }

    /// We own the VM and it is not there. Who gave it to us and is still in doubt has the only copy left, and may have it back.
    fn lost(&mut self, epoch: u64) {
        self.record.accepted.retain(|accepted| accepted.epoch != epoch);
        self.put(Place::Unknown);
        self.tell(Event::Lost);
    }

    /// Tells sources that have not released us that we run it.
    pub(super) fn say_running(&mut self, now: Duration) {
        self.unreleased = (!self.record.accepted.is_empty()).then(|| Repeat::after(now, RUNNING_RESEND_MOST));
        self.put_running_into_words();
    }

    fn put_running_into_words(&mut self) {
        let starting = self.starting.map(|(_, grant)| grant);
        for accepted in self.record.accepted.clone() {
            if Some(accepted.grant) != starting {
                self.send(accepted.from, Message::Running { grant: accepted.grant });
            }
        }
    }

    fn released(&mut self, from: NodeId, grant: Grant) {
        let before = self.record.accepted.len();
        self.record.accepted.retain(|accepted| (accepted.grant, accepted.from) != (grant, from));
        if self.record.accepted.len() < before {
            self.persist();
        }
        if self.record.accepted.is_empty() {
            self.unreleased = None;
        }
    }
}
