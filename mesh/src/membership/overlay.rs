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

mod parting;

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
/// Calls at a start and on a new network. One may be lost.
const HAILS_AT_FIRST: u32 = 2;
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
/// Somebody came into reach so shortly ago that others may be about to: whom it would dial may be among them. Where all
/// start at once, this saves two connections of three, each of 9 kB. A guess: a second is some exchanges of versions.
const LEARNS: Duration = Duration::from_secs(1);
/// A caller waits no longer for that, and a node that has too few links. 50 new nodes are 25 kB, on 64 kbit/s 3 s over
/// each of a few links; a neighbour that promises news and does not send it gains no more than this.
const LEARNS_AT_MOST: Duration = Duration::from_secs(8);
/// A dial that takes longer does not keep a lonely node from trying another one.
const DIAL_SLOW: Duration = Duration::from_millis(2500);
/// Time between links that are dialled for the sake of the degree, and as much again by chance: meanwhile others dial
/// this node. A guess.
const FILL_EVERY: Duration = Duration::from_millis(500);
/// A proposal to part stands so long.
const PART_TIMEOUT: Duration = Duration::from_secs(3);
/// Two neighbours that were asked to meet have so long.
const MEET_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Sighting {
    addresses: Vec<String>,
    dial_at: Duration,
    /// It is dialled then whatever is still to be learnt.
    at_last: Duration,
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
    /// When somebody last came into reach.
    pub(super) joined_at: Duration,
    /// No further link is dialled for the sake of [`Config::degree`] before this.
    fill_at: Duration,
    /// Since when there are fewer links than wanted.
    short_since: Option<Duration>,
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
            joined_at: now,
            fill_at: now,
            short_since: None,
            missing_at: now,
            hail_at: now + upto(rng, Duration::from_millis(300)),
            prune_at: now,
            // A start is called out even if somebody was reached at once by address.
            hails_left: HAILS_AT_FIRST,
            held: BTreeMap::new(),
        }
    }

    pub(super) fn check_soon(&mut self, now: Duration) {
        self.check_at = self.check_at.min(now);
    }

    /// Calls out although nobody may be missing: there may be others on a network that is new.
    pub(super) fn call_out(&mut self, now: Duration) {
        self.hails_left = HAILS_AT_FIRST;
        // Not later than a start does; an interface may take a moment until it carries anything.
        self.hail_at = self.hail_at.min(now + Duration::from_millis(300));
        self.check_soon(now);
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
        let most = if self.links.is_empty() { 150 } else { (there as u64 * 30).min(1500) };
        let dial_at = now + upto(&mut self.rng, Duration::from_millis(most));
        let at_last = dial_at + LEARNS_AT_MOST;
        self.overlay.sighted.entry(key).or_insert(Sighting { addresses, dial_at, at_last });
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
        let sighted = self.overlay.sighted.values().map(|sighting| sighting.dial_at);
        // Those that are due and wait are looked at again with everything else.
        let sighted = sighted.filter(|at| *at > now).min();
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
        let mut due = Vec::new();
        for key in keys {
            let node =
                self.certificates.iter().find(|(_, known)| known.proof.key == key).map(|(node, _)| *node);
            let entry = node.and_then(|node| self.entries.get(&node));
            let Some(sighting) = self.overlay.sighted.get(&key) else { continue };
            if entry.is_some_and(|entry| is_there(entry.reach)) {
                self.overlay.sighted.remove(&key);
            } else if sighting.dial_at <= now {
                due.push((sighting.at_last, key));
            }
        }
        // One at a time: over the link to one it may learn of all the others.
        let is_dialling = self.overlay.dialling.values().any(|since| *since + DIAL_SLOW > now);
        let learns = !self.links.is_empty() && self.is_learning();
        due.retain(|(at_last, _)| !is_dialling && (!learns || *at_last <= now));
        if due.is_empty() {
            return;
        }
        let (_, key) = due.swap_remove(self.rng.random_range(0..due.len()));
        if let Some(sighting) = self.overlay.sighted.remove(&key) {
            self.dial(Target::Node { key, addresses: sighting.addresses });
        }
    }

    /// Whether it is too early to say who is out of reach and who has few links.
    fn is_learning(&self) -> bool {
        let now = self.now.boot;
        let is_new = |link: &super::link::Link| !link.is_synced && link.up + LEARNS_AT_MOST > now;
        self.overlay.joined_at + LEARNS > now
            || self.wanted.values().any(|(_, until)| *until > now)
            || self.links.values().any(is_new)
    }

    /// Dials somebody if there are too few links; `true` if there are and somebody can be dialled.
    fn dial_for_degree(&mut self) -> bool {
        if self.links.len() + self.overlay.dialling.len() >= self.config.degree {
            self.overlay.short_since = None;
            return self.links.len() < self.config.degree && !self.overlay.dialling.is_empty();
        }
        let now = self.now.boot;
        let short_since = *self.overlay.short_since.get_or_insert(now);
        let learns = self.is_learning() && short_since + LEARNS_AT_MOST > now;
        if now < self.overlay.fill_at || learns && !self.links.is_empty() {
            return true;
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
            self.overlay.fill_at = now + FILL_EVERY + upto(&mut self.rng, FILL_EVERY);
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
}
