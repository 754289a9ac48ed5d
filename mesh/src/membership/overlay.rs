//! Whom to be connected with.
//!
//! Every node wants [`Config::degree`] links. Who has fewer dials somebody who has few. Who has more proposes to part to
//! a neighbour that also has more; the neighbour hangs up if it still has more, and if both stay connected without the
//! link. It takes both, because many neighbours of one node could otherwise leave it at the same moment. Who has two too
//! many asks two neighbours to meet, and proposes to part to both once they did: so a node that everybody dialled first
//! (a rendezvous) does not stay a hub.
//!
//! Where parts of the mesh are out of sight, one node of each part calls out on the local network every two seconds
//! (the others hear it and keep quiet), and whoever hears a call from another part dials the caller. Where there is
//! no multicast, lost neighbours and rendezvous addresses are dialled again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::core::{Core, is_there};
use super::graph::has_detour;
use super::{Config, Effect, Frame, Reach, Target, Why};
use crate::NodeId;
use crate::advert::Presence;

/// How often links are looked at while something is to be done, and otherwise. Guesses.
const CHECK_BUSY: Duration = Duration::from_millis(300);
const CHECK_CALM: Duration = Duration::from_secs(2);
/// Time between calls on the local network while somebody is missing: contact is found within it, which leaves 3 s of
/// the 5 s after contact for dialling and catching up.
const HAIL_EVERY: Duration = Duration::from_secs(2);
/// How often a lost neighbour or a rendezvous is dialled: without multicast, and with it.
const REDIAL_ALONE: Duration = Duration::from_millis(2500);
const REDIAL_HAILING: Duration = Duration::from_secs(15);
/// A dial that said nothing for so long has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a node is not dialled after it could not be reached, or had too many links.
const BACK_OFF: Duration = Duration::from_secs(10);
/// Most dials at a time.
const MAX_DIALS: usize = 3;
/// Most lost neighbours that are dialled again, and most callers that are remembered.
const MAX_LOST: usize = 6;
const MAX_SIGHTED: usize = 64;
/// A proposal to part stands so long.
const PART_TIMEOUT: Duration = Duration::from_secs(3);
/// Two neighbours that were asked to meet have so long.
const MEET_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Sighting {
    addresses: Vec<String>,
    dial_at: Duration,
}

#[derive(Debug, Default)]
struct Rendezvous {
    key: Option<NodeId>,
    next: Duration,
}

#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) own_addresses: Vec<String>,
    pub(super) check_at: Duration,
    back_off: BTreeMap<NodeId, Duration>,
    dialling: BTreeMap<Target, Duration>,
    sighted: BTreeMap<[u8; 32], Sighting>,
    lost: BTreeMap<NodeId, Duration>,
    rendezvous: BTreeMap<String, Rendezvous>,
    meeting: BTreeMap<(NodeId, NodeId), Duration>,
    /// Neighbours to whom parting was proposed, and until when that stands.
    parting: BTreeMap<NodeId, Duration>,
    missing_at: Duration,
    hail_at: Duration,
    prune_at: Duration,
    hails_left: u32,
    /// Links that are used for more than adverts, and by how many.
    held: BTreeMap<NodeId, u32>,
}

impl Overlay {
    pub(super) fn new(config: &Config, now: Duration, rng: &mut StdRng) -> Self {
        let rendezvous = config.rendezvous.iter().map(|address| (address.clone(), Rendezvous::default()));
        Self {
            own_addresses: Vec::new(),
            check_at: now,
            back_off: BTreeMap::new(),
            dialling: BTreeMap::new(),
            sighted: BTreeMap::new(),
            lost: BTreeMap::new(),
            rendezvous: rendezvous.collect(),
            meeting: BTreeMap::new(),
            parting: BTreeMap::new(),
            missing_at: now,
            hail_at: now + upto(rng, Duration::from_millis(300)),
            prune_at: now,
            // A start is called out even if somebody was reached at once by address.
            hails_left: 2,
            held: BTreeMap::new(),
        }
    }

    pub(super) fn check_soon(&mut self, now: Duration) {
        self.check_at = self.check_at.min(now);
    }

    pub(super) fn back_off(&mut self, node: NodeId, now: Duration) {
        self.back_off.insert(node, now + BACK_OFF);
    }

    pub(super) fn linked(&mut self, node: NodeId, rendezvous: Option<String>, key: Option<[u8; 32]>) {
        self.lost.remove(&node);
        if let Some(known) = rendezvous.as_ref().and_then(|address| self.rendezvous.get_mut(address)) {
            known.key = Some(node);
        }
        if let Some(key) = key {
            self.sighted.remove(&key);
        }
        self.dialling.retain(|target, _| match target {
            Target::Node { key: dialled, .. } => Some(*dialled) != key,
            Target::Rendezvous(address) => Some(address) != rendezvous.as_ref(),
        });
    }

    pub(super) fn lost(&mut self, node: NodeId, now: Duration) {
        if self.lost.len() < MAX_LOST {
            self.lost.insert(node, now + Duration::from_millis(500));
        }
    }

    pub(super) fn hold(&mut self, node: NodeId, is_held: bool) {
        let count = self.held.entry(node).or_default();
        *count = if is_held { count.saturating_add(1) } else { count.saturating_sub(1) };
        if *count == 0 {
            self.held.remove(&node);
        }
    }

    pub(super) fn is_held(&self, node: NodeId) -> bool {
        self.held.contains_key(&node)
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.lost.remove(&node);
        self.back_off.remove(&node);
    }
}

/// A random time below `most`.
fn upto(rng: &mut StdRng, most: Duration) -> Duration {
    most.mul_f64(rng.random_range(0.0..1.0))
}

impl Core {
    pub(super) fn sighted(&mut self, key: [u8; 32], addresses: Vec<String>, digest: u32) {
        let now = self.now.boot;
        if key == self.identity.key.verifying_key().to_bytes() {
            return;
        }
        if digest == self.digest() && !self.links.is_empty() {
            // One of our own part called; that is enough for all of us.
            self.overlay.hail_at = self.overlay.hail_at.max(now + self.hail_interval());
            return;
        }
        let known = self.certificates.iter().find(|(_, known)| known.proof.key == key).map(|(node, _)| *node);
        let is_near = |node: &NodeId| self.entries.get(node).is_some_and(|entry| is_there(entry.reach));
        if known.as_ref().is_some_and(is_near) || self.overlay.sighted.len() >= MAX_SIGHTED {
            return;
        }
        if let Some(node) = known {
            // It is here: earlier failures do not count.
            self.overlay.back_off.remove(&node);
        }
        // Of many who hear the call, one should answer; the others learn from it that they need not.
        let there = self.entries.values().filter(|entry| is_there(entry.reach)).count();
        let most = if self.links.is_empty() { 50 } else { (there as u64 * 30).min(1500) };
        let dial_at = now + upto(&mut self.rng, Duration::from_millis(most));
        self.overlay.sighted.entry(key).or_insert(Sighting { addresses, dial_at });
        self.overlay.check_at = self.overlay.check_at.min(dial_at);
    }

    pub(super) fn dial_failed(&mut self, target: &Target) {
        self.overlay.dialling.remove(target);
        if let Target::Node { key, .. } = target {
            let node = self.certificates.iter().find(|(_, known)| known.proof.key == *key);
            if let Some(node) = node.map(|(node, _)| *node) {
                self.overlay.back_off(node, self.now.boot);
            }
        }
        let soon = self.now.boot + CHECK_BUSY;
        self.overlay.check_at = self.overlay.check_at.min(soon);
    }

    /// Dials somebody although there may be enough links.
    pub(super) fn connect(&mut self, node: NodeId) {
        self.overlay.back_off.remove(&node);
        self.dial_node(node);
    }

    /// Somebody with too many links asks us to connect with another of its neighbours.
    pub(super) fn on_meet(&mut self, node: NodeId) {
        if self.links.len() <= self.config.degree + 1 {
            self.dial_node(node);
        }
    }

    /// Links that will be left when everybody has answered.
    fn lasting_links(&self) -> usize {
        let parting = self.overlay.parting.keys().filter(|node| self.links.contains_key(*node)).count();
        self.links.len() - parting
    }

    fn propose_to_part(&mut self, node: NodeId) {
        self.overlay.parting.insert(node, self.now.boot + PART_TIMEOUT);
        self.send(node, Frame::Part);
    }

    /// A neighbour would part. Both may propose at once: the one with the greater id then waits.
    pub(super) fn on_part(&mut self, from: NodeId) {
        let proposed = self.overlay.parting.contains_key(&from);
        if proposed && self.identity.node > from {
            return;
        }
        self.overlay.parting.remove(&from);
        let is_spare = self.lasting_links() > self.config.degree && !self.overlay.is_held(from);
        if is_spare && has_detour(&self.graph(), self.identity.node, from) {
            self.overlay.back_off(from, self.now.boot);
            self.close(from, Why::Crowded);
        }
    }

    fn hail_interval(&mut self) -> Duration {
        HAIL_EVERY + upto(&mut self.rng, HAIL_EVERY / 4)
    }

    pub(super) fn check_overlay(&mut self) {
        let now = self.now.boot;
        if now < self.overlay.check_at {
            return;
        }
        self.overlay.dialling.retain(|_, since| *since + DIAL_TIMEOUT > now);
        self.overlay.back_off.retain(|_, until| *until > now);
        self.dial_sighted();
        let is_short = self.dial_for_degree();
        self.dial_lost();
        self.dial_missing();
        let is_waiting = self.dial_rendezvous();
        self.hail();
        let is_large = self.prune();
        let is_busy = is_short || is_waiting || is_large || !self.overlay.sighted.is_empty();
        let pause = if is_busy { CHECK_BUSY } else { CHECK_CALM };
        let mut next = now + pause + upto(&mut self.rng, pause / 2);
        if self.is_missing_somebody() {
            next = next.min(self.overlay.hail_at.max(now + CHECK_BUSY));
        }
        let sighted = self.overlay.sighted.values().map(|sighting| sighting.dial_at).min();
        self.overlay.check_at = sighted.map_or(next, |at| next.min(at.max(now + Duration::from_millis(10))));
    }

    fn dial(&mut self, target: Target) {
        let now = self.now.boot;
        if self.overlay.dialling.len() < MAX_DIALS && !self.overlay.dialling.contains_key(&target) {
            self.overlay.dialling.insert(target.clone(), now);
            self.out.push(Effect::Dial(target));
        }
    }

    fn dial_node(&mut self, node: NodeId) {
        let known = self.entries.get(&node).zip(self.certificates.get(&node));
        let Some((entry, certificate)) = known else { return };
        let addresses = entry.advert.addresses.clone();
        if !addresses.is_empty() && !self.links.contains_key(&node) {
            self.dial(Target::Node { key: certificate.proof.key, addresses });
        }
    }

    fn dial_sighted(&mut self) {
        let now = self.now.boot;
        let keys: Vec<[u8; 32]> = self.overlay.sighted.keys().copied().collect();
        for key in keys {
            let node =
                self.certificates.iter().find(|(_, known)| known.proof.key == key).map(|(node, _)| *node);
            let entry = node.and_then(|node| self.entries.get(&node));
            let is_due = self.overlay.sighted.get(&key).is_some_and(|sighting| sighting.dial_at <= now);
            if entry.is_some_and(|entry| is_there(entry.reach)) {
                self.overlay.sighted.remove(&key);
            } else if is_due && let Some(sighting) = self.overlay.sighted.remove(&key) {
                self.dial(Target::Node { key, addresses: sighting.addresses });
            }
        }
    }

    /// Dials somebody if there are too few links; `true` if there are and somebody can be dialled.
    fn dial_for_degree(&mut self) -> bool {
        if self.links.len() + self.overlay.dialling.len() >= self.config.degree {
            return self.links.len() < self.config.degree && !self.overlay.dialling.is_empty();
        }
        let mut best: Option<(usize, u32, NodeId)> = None;
        for (node, entry) in &self.entries {
            let is_candidate = *node != self.identity.node
                && is_there(entry.reach)
                && entry.advert.presence != Presence::Left
                && !entry.advert.addresses.is_empty()
                && !self.links.contains_key(node)
                && !self.overlay.back_off.contains_key(node);
            if is_candidate {
                let crowd = entry.advert.links.len().max(self.config.degree - 1);
                let candidate = (crowd, self.rng.random::<u32>(), *node);
                best = Some(best.map_or(candidate, |best| best.min(candidate)));
            }
        }
        if let Some((_, _, node)) = best {
            self.dial_node(node);
        }
        best.is_some()
    }

    /// Dials somebody who is out of reach: everybody if there is no link at all, otherwise one node of each part of the
    /// mesh at a time, by chance.
    fn dial_missing(&mut self) {
        let now = self.now.boot;
        if now < self.overlay.missing_at {
            return;
        }
        let interval = if self.links.is_empty() { REDIAL_ALONE } else { self.redial_interval() };
        self.overlay.missing_at = now + interval + upto(&mut self.rng, interval / 4);
        let there = self.entries.values().filter(|entry| is_there(entry.reach)).count();
        let mut missing: Vec<NodeId> = Vec::new();
        for (node, entry) in &self.entries {
            let is_away = !is_there(entry.reach) && entry.advert.presence != Presence::Left;
            if is_away && !self.overlay.back_off.contains_key(node) {
                missing.push(*node);
            }
        }
        if !missing.is_empty() && self.rng.random_range(0..there.max(1)) == 0 {
            let chosen = missing.swap_remove(self.rng.random_range(0..missing.len()));
            self.dial_node(chosen);
        }
    }

    fn redial_interval(&self) -> Duration {
        if self.config.multicast { REDIAL_HAILING } else { REDIAL_ALONE }
    }

    fn dial_lost(&mut self) {
        let (now, interval) = (self.now.boot, self.redial_interval());
        let lost: Vec<NodeId> = self.overlay.lost.keys().copied().collect();
        for node in lost {
            let is_missing = self
                .entries
                .get(&node)
                .is_some_and(|entry| !is_there(entry.reach) && entry.advert.presence != Presence::Left);
            if !is_missing {
                self.overlay.lost.remove(&node);
            } else if self.overlay.lost.get(&node).is_some_and(|at| *at <= now) {
                self.overlay.lost.insert(node, now + interval + upto(&mut self.rng, interval / 4));
                self.dial_node(node);
            }
        }
    }

    /// Dials rendezvous addresses behind which nobody known is there; `true` while this node is alone.
    fn dial_rendezvous(&mut self) -> bool {
        let now = self.now.boot;
        let is_alone = self.links.is_empty();
        let interval = if is_alone { REDIAL_ALONE } else { self.redial_interval() };
        let mut due = Vec::new();
        for (address, known) in &mut self.overlay.rendezvous {
            let entry = known.key.and_then(|node| self.entries.get(&node));
            let is_near = entry.is_some_and(|entry| is_there(entry.reach));
            let is_own = self.overlay.own_addresses.contains(address);
            if !is_near && !is_own && known.next <= now {
                known.next = now + interval + upto(&mut self.rng, interval / 4);
                due.push(Target::Rendezvous(address.clone()));
            } else if is_alone {
                known.next = known.next.min(now + REDIAL_ALONE);
            }
        }
        for target in due {
            self.dial(target);
        }
        is_alone && !self.overlay.rendezvous.is_empty()
    }

    fn is_missing_somebody(&self) -> bool {
        let missing = self.entries.values().any(|entry| {
            matches!(entry.reach, Reach::UnreachableSince(_)) && entry.advert.presence != Presence::Left
        });
        missing || self.links.is_empty() || self.overlay.hails_left > 0
    }

    fn hail(&mut self) {
        let now = self.now.boot;
        if !self.config.multicast || now < self.overlay.hail_at || !self.is_missing_somebody() {
            return;
        }
        self.overlay.hails_left = self.overlay.hails_left.saturating_sub(1);
        self.overlay.hail_at = now + self.hail_interval();
        let digest = self.digest();
        self.out.push(Effect::Hail { digest });
    }

    /// Lets go of links that nobody needs; `true` if there are still too many.
    fn prune(&mut self) -> bool {
        let now = self.now.boot;
        self.overlay.parting.retain(|_, until| *until > now);
        self.finish_meetings();
        let degree = self.config.degree;
        if self.lasting_links() <= degree || now < self.overlay.prune_at {
            return self.links.len() > degree + 1;
        }
        let graph = self.graph();
        let mut spare: Vec<(Duration, NodeId)> = Vec::new();
        for (node, link) in &self.links {
            let said = self.entries.get(node).map_or(0, |entry| entry.advert.links.len());
            // Who needs the link says in its beats that it has no more than enough.
            let has_more = if link.degree > 0 { link.degree > degree } else { said > degree };
            let is_free = !self.overlay.is_held(*node) && !self.overlay.parting.contains_key(node);
            let has_more = has_more && is_free;
            // A young link has work to do: whoever came just now learns over it whom else to dial.
            let is_settled = now.saturating_sub(link.up) > Duration::from_secs(1);
            if has_more && is_settled && has_detour(&graph, self.identity.node, *node) {
                spare.push((link.rtt.unwrap_or_default(), *node));
            }
        }
        if spare.is_empty() {
            return self.arrange_meetings();
        }
        let (_, node) = spare.swap_remove(self.rng.random_range(0..spare.len()));
        self.propose_to_part(node);
        let is_hub = self.links.len() > self.config.max_degree;
        let pause = Duration::from_millis(if is_hub { 200 } else { 1500 });
        self.overlay.prune_at = now + pause + upto(&mut self.rng, pause);
        true
    }

    /// Asks pairs of neighbours to connect with each other.
    fn arrange_meetings(&mut self) -> bool {
        let now = self.now.boot;
        let mut excess = self.lasting_links().saturating_sub(self.config.degree) / 2;
        excess = excess.saturating_sub(self.overlay.meeting.len());
        let is_settled = |node: &&NodeId| {
            let link = self.links.get(*node);
            link.is_some_and(|link| now.saturating_sub(link.up) > Duration::from_secs(1))
        };
        let mut free: Vec<NodeId> = self.links.keys().filter(is_settled).copied().collect();
        free.retain(|node| !self.overlay.meeting.keys().any(|(a, b)| a == node || b == node));
        while excess > 0 && free.len() >= 2 {
            let one = free.swap_remove(self.rng.random_range(0..free.len()));
            let strangers: Vec<usize> = (0..free.len())
                .filter(|n| free.get(*n).is_some_and(|two| !self.are_linked(one, *two)))
                .collect();
            if strangers.is_empty() {
                continue;
            }
            let chosen =
                strangers.get(self.rng.random_range(0..strangers.len())).copied().unwrap_or_default();
            let two = free.swap_remove(chosen);
            self.overlay.meeting.insert((one, two), now + MEET_TIMEOUT);
            self.send(one, Frame::Meet(two));
            excess -= 1;
        }
        self.links.len() > self.config.degree + 1
    }

    fn are_linked(&self, one: NodeId, two: NodeId) -> bool {
        let lists = |a: &NodeId, b: &NodeId| {
            self.entries.get(a).is_some_and(|entry| entry.advert.links.contains_key(b))
        };
        lists(&one, &two) || lists(&two, &one)
    }

    /// Lets go of neighbours that have met.
    fn finish_meetings(&mut self) {
        let now = self.now.boot;
        let pairs: Vec<(NodeId, NodeId)> = self.overlay.meeting.keys().copied().collect();
        for (one, two) in pairs {
            if self.are_linked(one, two) {
                self.overlay.meeting.remove(&(one, two));
                for node in [one, two] {
                    let is_spare = self.lasting_links() > self.config.degree
                        && !self.overlay.is_held(node)
                        && self.links.contains_key(&node)
                        && has_detour(&self.graph(), self.identity.node, node);
                    if is_spare {
                        self.propose_to_part(node);
                    }
                }
            } else if self.overlay.meeting.get(&(one, two)).is_some_and(|until| *until <= now) {
                self.overlay.meeting.remove(&(one, two));
            }
        }
    }
}
