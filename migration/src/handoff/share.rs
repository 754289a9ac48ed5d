//! Several handoffs at once over one link: who may send now. Pure.
//!
//! Sharing a link evenly makes everybody late: of five VMs that leave together over a contact that is too short for five, none
//! arrives. So one sends at a time, in this order: a VM that stands still before those that run; then the higher
//! [`Priority`]; then who began first. Nobody waits for one that has nothing to send just now, so the link is not idle. A
//! VM is not frozen while another one stands still, whose rest it would wait for.
//!
//! A link is a destination here. That several destinations are reached through one radio is not known.

use std::collections::BTreeMap;

use mesh::NodeId;
use serde::{Deserialize, Serialize};

/// What goes first over a link that several handoffs use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// After the others.
    Low,
    /// Neither.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// One who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// Nobody's.
    pub const NONE: Self = Self(0);
}

/// Those who send.
#[derive(Debug, Default)]
pub struct Share {
    last: u64,
    senders: BTreeMap<Ticket, Sender>,
}

#[derive(Debug)]
struct Sender {
    to: NodeId,
    priority: Priority,
    stands_still: bool,
    has_bytes: bool,
}

impl Sender {
    fn rank(&self) -> (bool, Priority) {
        (self.stands_still, self.priority)
    }
}

impl Share {
    /// One more sends there; it has nothing to send yet.
    pub fn join(&mut self, to: NodeId, priority: Priority) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.senders.insert(ticket, Sender { to, priority, stands_still: false, has_bytes: false });
        ticket
    }

    /// It sends nothing any more.
    pub fn leave(&mut self, ticket: Ticket) {
        self.senders.remove(&ticket);
    }

    /// Whether it has something to send, or something of it is on its way.
    pub fn set_bytes(&mut self, ticket: Ticket, has_bytes: bool) {
        self.senders.entry(ticket).and_modify(|sender| sender.has_bytes = has_bytes);
    }

    /// Its VM stands still.
    pub fn stand_still(&mut self, ticket: Ticket) {
        self.senders.entry(ticket).and_modify(|sender| sender.stands_still = true);
    }

    /// Whether nobody goes before it.
    pub fn may_send(&self, ticket: Ticket) -> bool {
        self.others(ticket).all(|(other, sender, own)| {
            let first = sender.rank() > own.rank() || (sender.rank() == own.rank() && other < ticket);
            !(sender.has_bytes && first)
        })
    }

    /// Whether no other VM stands still.
    pub fn may_freeze(&self, ticket: Ticket) -> bool {
        self.others(ticket).all(|(_, sender, _)| !sender.stands_still)
    }

    /// The others that send to the same destination, and itself.
    fn others(&self, ticket: Ticket) -> impl Iterator<Item = (Ticket, &Sender, &Sender)> {
        let own = self.senders.get(&ticket);
        let all =
            own.into_iter().flat_map(|own| self.senders.iter().map(move |(other, one)| (*other, one, own)));
        all.filter(move |(other, sender, own)| *other != ticket && sender.to == own.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; NodeId::BYTES])
    }

    /// Those that may send, of senders who all have something to send.
    fn sending(share: &Share, all: &[Ticket]) -> Vec<usize> {
        (0..all.len()).filter(|at| share.may_send(all[*at])).collect()
    }

    #[test]
    fn one_sends_at_a_time_and_the_link_is_never_idle() {
        let mut share = Share::default();
        let priorities = [Priority::Low, Priority::Normal, Priority::High, Priority::High];
        let all = priorities.map(|priority| share.join(node(1), priority));
        assert_eq!(sending(&share, &all), [0, 1, 2, 3], "nobody has anything to send");
        all.iter().for_each(|ticket| share.set_bytes(*ticket, true));
        assert_eq!(sending(&share, &all), [2], "the higher priority, who came first");
        share.set_bytes(all[2], false);
        assert_eq!(sending(&share, &all), [2, 3], "who has nothing keeps nobody from sending");
        share.stand_still(all[0]);
        assert_eq!(sending(&share, &all), [0], "a VM stands still");
        assert!(share.may_freeze(all[0]) && !share.may_freeze(all[1]));
        share.leave(all[0]);
        assert!(share.may_freeze(all[1]));
        share.leave(all[3]);
        assert_eq!(sending(&share, &all[1..3]), [0, 1]);
    }

    #[test]
    fn other_destinations_are_other_links() {
        let mut share = Share::default();
        let (one, two) = (share.join(node(1), Priority::High), share.join(node(2), Priority::Low));
        [one, two].iter().for_each(|ticket| share.set_bytes(*ticket, true));
        share.stand_still(one);
        assert!(share.may_send(one) && share.may_send(two) && share.may_freeze(two));
    }
}
