//! Mission data: handhelds collect objects, and hand them over to whichever cloudlet they meet.
//!
//! What goes first is [`sync::scheduler`]'s decision, asked anew after every piece, so that something urgent that was
//! collected meanwhile overtakes. A handheld has one radio: it sends one piece at a time. A contact that ends in
//! the middle of a piece leaves the cloudlet with the beginning; the next contact with the same cloudlet resumes there.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use sync::scheduler::{self, Contact, Send, Waiting};
use sync::{Body, ContentId, Object, Priority, Revision, object::Change};

use super::cloudlet::node_id;
use super::{Event, World};
use crate::provisioning::transfer;
use crate::random::{self, Purpose};
use crate::scenario::{MissionData, seconds};

/// What a handheld has to hand over.
#[derive(Debug)]
pub(super) struct Courier {
    node: u32,
    rng: ChaCha8Rng,
    collected: u64,
    waiting: BTreeMap<ContentId, Revision>,
    /// How much of a content a cloudlet has already.
    begun: BTreeMap<(u32, ContentId), u64>,
    sending: Option<Sending>,
    pieces: u64,
}

/// A piece on its way.
#[derive(Debug, Clone, Copy)]
struct Sending {
    piece: u64,
    to: u32,
    since: Duration,
    send: Send,
}

impl Courier {
    pub(super) fn new(node: u32, seed: u64) -> Self {
        Self {
            node,
            rng: random::stream(seed, Purpose::MissionData, node),
            collected: 0,
            waiting: BTreeMap::new(),
            begun: BTreeMap::new(),
            sending: None,
            pieces: 0,
        }
    }

    /// Collects an object of random length and priority. Its content is not simulated, only named.
    fn collect(&mut self, now: Duration, data: &MissionData) -> Option<Revision> {
        self.collected += 1;
        let name = format!("handhelds/{}/{}", self.node, self.collected);
        let bytes = self.rng.random_range(data.smallest_bytes..=data.largest_bytes);
        let priority = Priority::ALL[self.rng.random_range(0..Priority::ALL.len())];
        let body = Body::Content { id: ContentId::of(name.as_bytes()), bytes };
        let change = Change { body, priority, deadline: Some(now + seconds(data.useful_s)) };
        let revision = Object::new(name.parse().ok()?).change(node_id(self.node), now, change);
        self.waiting.insert(ContentId::of(name.as_bytes()), revision.clone());
        Some(revision)
    }

    /// What waits, as far as `cloudlet` lacks it.
    fn queue_for(&self, cloudlet: u32) -> Vec<Waiting> {
        let waiting = |(content, revision): (&ContentId, &Revision)| Waiting {
            content: *content,
            priority: revision.priority,
            deadline: revision.deadline,
            bytes: revision.body.bytes(),
            sent_bytes: self.begun.get(&(cloudlet, *content)).copied().unwrap_or(0),
        };
        self.waiting.iter().map(waiting).collect()
    }

    /// Forgets a content that was delivered or is of no use any more.
    fn forget(&mut self, content: ContentId) -> Option<Revision> {
        self.begun.retain(|(_, begun), _| *begun != content);
        self.waiting.remove(&content)
    }
}

impl World<'_> {
    /// Draws when `handheld` collects something next.
    pub(super) fn next_object_of(&mut self, handheld: u32) {
        let Some(data) = &self.scenario.mission_data else { return };
        if let Some(state) = self.handhelds.get_mut(&handheld) {
            let wait = random::exponential(&mut state.courier.rng, seconds(data.mean_between_objects_s));
            self.engine.after(wait, Event::Collected { handheld });
        }
    }

    pub(super) fn collected(&mut self, handheld: u32) {
        self.next_object_of(handheld);
        let now = self.engine.now();
        let Some(data) = &self.scenario.mission_data else { return };
        let Some(state) = self.handhelds.get_mut(&handheld) else { return };
        let Some(revision) = state.courier.collect(now, data) else { return };
        self.report.data.collected += 1;
        self.tell(format_args!(
            "collected {} {:?} {}",
            revision.key,
            revision.priority,
            revision.body.bytes()
        ));
        self.hand_over(handheld);
    }

    /// Sends the next piece if nothing is on its way and a cloudlet is in reach.
    pub(super) fn hand_over(&mut self, handheld: u32) {
        let now = self.engine.now();
        let reachable = self.reachable(handheld);
        let Some(data) = &self.scenario.mission_data else { return };
        let Some(state) = self.handhelds.get_mut(&handheld) else { return };
        let courier = &mut state.courier;
        if courier.sending.is_some() {
            return;
        }
        let contact = Contact {
            rate_bytes_per_s: self.scenario.link.rate_bytes_per_s,
            expected_duration: seconds(data.expected_contact_s),
        };
        for to in reachable {
            let plan = scheduler::plan(now, contact, &courier.queue_for(to), u64::MAX);
            for content in plan.expired {
                self.report.data.expired += usize::from(courier.forget(content).is_some());
            }
            if let Some(send) = plan.sends.first() {
                courier.pieces += 1;
                let piece = courier.pieces;
                courier.sending = Some(Sending { piece, to, since: now, send: *send });
                let arrives = transfer(send.bytes, contact.rate_bytes_per_s);
                self.engine.after(arrives, Event::Arrived { handheld, piece });
                return;
            }
        }
    }

    /// A piece is over; one that was cut meanwhile is not looked at.
    pub(super) fn arrived(&mut self, handheld: u32, piece: u64) {
        let Some(state) = self.handhelds.get_mut(&handheld) else { return };
        let Some(sending) = state.courier.sending.take_if(|sending| sending.piece == piece) else { return };
        self.report.data.bytes += sending.send.bytes;
        if sending.send.completes {
            self.delivered(handheld, sending.to, sending.send.content);
        } else {
            let have = sending.send.offset + sending.send.bytes;
            state.courier.begun.insert((sending.to, sending.send.content), have);
        }
        self.hand_over(handheld);
    }

    fn delivered(&mut self, handheld: u32, cloudlet: u32, content: ContentId) {
        let now = self.engine.now();
        let Some(state) = self.handhelds.get_mut(&handheld) else { return };
        let Some(revision) = state.courier.forget(content) else { return };
        let Some(host) = self.cloudlets.get_mut(&cloudlet) else { return };
        self.report.delivered(revision.priority, now.saturating_sub(revision.written));
        if let Some(entry) = host.log.append(revision) {
            let (key, place) = (entry.revision.key.clone(), entry.sequence);
            self.tell(format_args!("delivered {key} {cloudlet} {place}"));
        }
    }

    /// The contact has ended: what got through of the piece stays with the cloudlet.
    pub(super) fn cut_transfer(&mut self, handheld: u32, cloudlet: u32) {
        let now = self.engine.now();
        let rate = self.scenario.link.rate_bytes_per_s;
        let Some(state) = self.handhelds.get_mut(&handheld) else { return };
        let Some(cut) = state.courier.sending.take_if(|sending| sending.to == cloudlet) else { return };
        let through = now.saturating_sub(cut.since).as_nanos().saturating_mul(rate.into()) / 1_000_000_000;
        let through = u64::try_from(through).unwrap_or(u64::MAX).min(cut.send.bytes);
        self.report.data.bytes += through;
        state.courier.begun.insert((cloudlet, cut.send.content), cut.send.offset + through);
        self.hand_over(handheld);
    }

    /// Objects that nobody was handed, as (still useful, expired).
    pub(super) fn not_delivered(&self) -> (usize, usize) {
        let now = self.engine.now();
        let waiting = self.handhelds.values().flat_map(|state| state.courier.waiting.values());
        let (expired, useful): (Vec<&Revision>, Vec<&Revision>) =
            waiting.partition(|revision| revision.deadline.is_some_and(|deadline| deadline <= now));
        (useful.len(), expired.len())
    }
}
