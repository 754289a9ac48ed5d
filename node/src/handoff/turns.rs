//! Whose turn it is to send, among the handoffs of this cloudlet. The policy is [`migration::handoff::share`].

use mesh::NodeId;
use migration::handoff::share::{Priority, Share, Ticket};
use tokio::sync::watch;

/// Those who send.
#[derive(Debug, Default)]
pub(super) struct Turns(watch::Sender<Share>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: watch::Sender<Share>,
    ticket: Ticket,
}

impl Turns {
    /// One more sends there.
    pub fn join(&self, to: NodeId, priority: Priority) -> Turn {
        let mut turn = Turn { turns: self.0.clone(), ticket: Ticket::NONE };
        self.0.send_modify(|share| turn.ticket = share.join(to, priority));
        turn
    }
}

impl Turn {
    /// Whether there is something to send, or something is on its way.
    pub fn set_bytes(&self, has_bytes: bool) {
        self.turns.send_modify(|share| share.set_bytes(self.ticket, has_bytes));
    }

    /// The VM stands still.
    pub fn stand_still(&self) {
        self.turns.send_modify(|share| share.stand_still(self.ticket));
    }

    /// Nothing more is sent.
    pub fn leave(&self) {
        self.turns.send_modify(|share| share.leave(self.ticket));
    }

    /// Waits until nobody goes before it.
    pub async fn comes(&self) {
        let mut turns = self.turns.subscribe();
        // It fails when there are no senders any more, and here is one.
        let _ = turns.wait_for(|share| share.may_send(self.ticket)).await;
    }

    /// Whether no other VM stands still.
    pub fn may_freeze(&self) -> bool {
        self.turns.borrow().may_freeze(self.ticket)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}
