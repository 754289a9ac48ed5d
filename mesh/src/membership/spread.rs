//! How news leaves this node.

use std::time::Duration;

use super::core::Core;
use super::link::Link;
use super::{Frame, Want};
use crate::NodeId;
use crate::advert::Presence;
use crate::wire::frame::{MAX_ENTRIES, Signed, Version};

/// Adverts are sent in frames of about this size, so that what is urgent does not wait for all.
const BATCH_BYTES: usize = 8 * 1024;
/// Bytes of revocations in one frame.
const REVOCATIONS_BYTES: usize = 32 * 1024;
/// Bytes of an advert beside its delta: node, numbers, signature.
const ADVERT_BYTES: usize = 110;
/// Bytes of a node and its version.
const VERSION_BYTES: usize = 28;
/// What arrives within this time after news went out over a link goes out together. Five hops of it are half the 2 s
/// that news may take, and only while there is much of it: the first goes at once.
const NEWS_TOGETHER: Duration = Duration::from_millis(200);
/// How long a neighbour that was asked for a state may take before somebody else is asked: 30 new nodes are 15 kB,
/// two seconds on 64 kbit/s.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// IP, UDP and QUIC headers of a packet and of its acknowledgement (measured).
const PACKET_BYTES: usize = 115;

impl Core {
    /// Notes that everybody who does not know the newest state of `node` should hear of it.
    pub(super) fn spread(&mut self, node: NodeId) {
        let Some(entry) = self.entries.get(&node) else { return };
        for (neighbour, link) in &mut self.links {
            let knows = link.known.get(&node).is_some_and(|known| *known >= entry.version);
            if !knows && *neighbour != node {
                link.dirty.insert(node);
            }
        }
    }

    pub(super) fn flush(&mut self) {
        for node in self.links.keys().copied().collect::<Vec<_>>() {
            self.flush_link(node, false);
        }
    }

    /// Sends what a neighbour should hear, as much as the budget allows, or all of it if `at_once`.
    pub(super) fn flush_link(&mut self, to: NodeId, at_once: bool) {
        let now = self.now.boot;
        loop {
            let Some(link) = self.links.get_mut(&to) else { return };
            let may_go = link.is_synced && link.flush_at <= now && link.budget.is_open(now);
            if link.dirty.is_empty() || !(at_once || may_go) {
                return;
            }
            let mut queue: Vec<(u8, NodeId)> = Vec::with_capacity(link.dirty.len());
            for node in &link.dirty {
                let known = link.known.contains_key(node);
                if let Some(entry) = self.entries.get(node) {
                    queue.push((urgency(entry.advert.presence, known), *node));
                }
            }
            queue.sort_unstable();
            let (mut batch, mut news) = (Vec::new(), Vec::new());
            let mut bytes = PACKET_BYTES;
            let mut done = Vec::new();
            for (_, node) in &queue {
                let Some(entry) = self.entries.get(node) else { continue };
                done.push(*node);
                let known = link.known.get(node).copied().or(at_once.then(Version::default));
                let Some(known) = known else {
                    // It may hear of this one from several sides: it asks one of them.
                    link.known.insert(*node, entry.version);
                    bytes += VERSION_BYTES;
                    news.push((*node, entry.version));
                    continue;
                };
                if known < entry.version {
                    let signed = entry.since(*node, known);
                    bytes += ADVERT_BYTES + signed.delta.bytes();
                    batch.push(signed);
                }
                if bytes >= BATCH_BYTES {
                    break;
                }
            }
            let is_all = done.len() >= queue.len();
            for node in done {
                link.dirty.remove(&node);
            }
            for signed in &batch {
                link.known.insert(signed.node, signed.version());
            }
            if is_all {
                link.dirty.clear();
            }
            if batch.is_empty() && news.is_empty() {
                continue;
            }
            link.budget.take(u64::try_from(bytes).unwrap_or(u64::MAX), now);
            if is_all {
                link.flush_at = now + NEWS_TOGETHER;
            }
            if !news.is_empty() {
                self.send(to, Frame::Have(news));
            }
            if !batch.is_empty() {
                self.send(to, Frame::Adverts(batch));
            }
        }
    }

    pub(super) fn send_summary(&mut self, to: NodeId) {
        let now = self.now.boot;
        let mut versions: Vec<(NodeId, Version)> =
            self.entries.iter().map(|(node, entry)| (*node, entry.version)).collect();
        // Whoever was forgotten and comes back must learn which number to outbid.
        if let Some((version, _)) = self.forgotten.get(&to)
            && !self.entries.contains_key(&to)
        {
            versions.push((to, *version));
        }
        versions.truncate(MAX_ENTRIES);
        if let Some(link) = self.links.get_mut(&to) {
            link.summary_sent = Some(now);
            link.offered = versions.iter().copied().collect();
        }
        let revocations = self.revocation_digest();
        self.send(to, Frame::Summary { versions, revocations });
    }

    /// A neighbour says what it holds: tell it what it lacks, ask for what we lack.
    pub(super) fn on_summary(&mut self, from: NodeId, versions: &[(NodeId, Version)], revocations: u64) {
        if revocations != self.revocation_digest() {
            self.send_revocations(from);
        }
        let Some(link) = self.links.get_mut(&from) else { return };
        link.known = versions.iter().copied().collect();
        link.is_synced = true;
        link.offered.clear();
        for (node, entry) in &self.entries {
            if link.known.get(node).is_none_or(|known| *known < entry.version) {
                link.dirty.insert(*node);
            }
        }
        self.want_newer(from, versions);
        // Also if there is nothing to ask for: the other side learns from it that we hold the rest.
        self.wants.entry(from).or_default();
        // Revocations have no number of their own; the side that holds more cannot be told, so both sides speak.
        let asked = self.links.get(&from).is_some_and(|link| link.summary_sent.is_some());
        if revocations != self.revocation_digest() && !asked {
            self.send_summary(from);
        }
    }

    /// Tells a neighbour every revocation, in frames that are not too long.
    fn send_revocations(&mut self, to: NodeId) {
        let now = self.now.boot;
        let statements = self.verifier.revocations();
        let bytes = statements.iter().map(|one| one.len() + 3).sum();
        if !self.links.get_mut(&to).is_some_and(|link| link.may_ask(bytes, now)) {
            return;
        }
        let mut batch: Vec<Vec<u8>> = Vec::new();
        let mut length = 0;
        for statement in statements {
            if length + statement.len() > REVOCATIONS_BYTES || batch.len() == MAX_ENTRIES {
                length = 0;
                self.send(to, Frame::Revocations(std::mem::take(&mut batch)));
            }
            length += statement.len() + 3;
            batch.push(statement);
        }
        if !batch.is_empty() {
            self.send(to, Frame::Revocations(batch));
        }
    }

    /// A neighbour holds states that it thinks we may lack.
    pub(super) fn on_have(&mut self, from: NodeId, versions: &[(NodeId, Version)]) {
        let Some(link) = self.links.get_mut(&from) else { return };
        for &(node, version) in versions {
            link.holds(node, version);
        }
        self.want_newer(from, versions);
    }

    fn want_newer(&mut self, from: NodeId, versions: &[(NodeId, Version)]) {
        for &(node, version) in versions {
            if node == self.identity.node {
                // It is ours only if we signed it.
                if version > self.own_version() {
                    self.want(from, node);
                }
            } else if self.entries.get(&node).is_none_or(|entry| entry.version < version)
                && !self.is_forgotten(node, version)
            {
                self.want(from, node);
            }
        }
    }

    /// A neighbour is gone that had not answered: asks others who hold what it was asked for.
    pub(super) fn ask_others(&mut self, gone: NodeId) {
        let open = self.wanted.iter().filter(|(_, (asked, _))| *asked == gone);
        for node in open.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.wanted.remove(&node);
            let held = self.entries.get(&node).map(|entry| entry.version).unwrap_or_default();
            let knows = |link: &Link| link.known.get(&node).is_some_and(|version| *version > held);
            let other = self.links.iter().find(|(_, link)| knows(link)).map(|(other, _)| *other);
            if let Some(other) = other {
                self.want(other, node);
            }
        }
    }

    /// Asks for a node's newest state, and its certificate if need be; once in a while, not at once of everybody.
    pub(super) fn want(&mut self, from: NodeId, node: NodeId) {
        let now = self.now.boot;
        let rtt = self.links.get(&from).and_then(|link| link.rtt).unwrap_or_default();
        if self.wanted.get(&node).is_some_and(|(_, at)| *at > now) {
            return;
        }
        self.wanted.insert(node, (from, now + rtt * 2 + ANSWER_TIME));
        let is_own = node == self.identity.node;
        // Our own is wanted whole: what we hold now is not what the other holds a change of.
        let have = self.entries.get(&node).filter(|_| !is_own).map(|entry| entry.version).unwrap_or_default();
        let certificate = !is_own && !self.certificates.contains_key(&node);
        self.wants.entry(from).or_default().push(Want { node, have, certificate });
    }

    pub(super) fn send_wants(&mut self) {
        for (node, mut wants) in std::mem::take(&mut self.wants) {
            wants.truncate(MAX_ENTRIES);
            let Some(link) = self.links.get_mut(&node) else { continue };
            if link.may_question(self.now.boot) {
                self.send(node, Frame::Want(wants));
            } else {
                self.wants.insert(node, wants);
            }
        }
    }

    /// A neighbour asks.
    pub(super) fn on_want(&mut self, from: NodeId, wants: &[Want]) {
        let now = self.now.boot;
        let own = (self.identity.node, self.identity.certificate.as_slice());
        let mut chains = Vec::new();
        let mut bytes = 0;
        let Some(link) = self.links.get_mut(&from) else { return };
        if !link.is_synced {
            // The answer to our summary: what is not asked for is there.
            link.known.extend(std::mem::take(&mut link.offered));
            link.is_synced = true;
        }
        for want in wants {
            let known = self.certificates.get(&want.node).map(|known| known.chain.as_slice());
            let chain = if want.node == own.0 { Some(own.1) } else { known };
            if let Some(chain) = chain.filter(|_| want.certificate && bytes < 48 * 1024) {
                bytes += chain.len() + 3;
                chains.push(chain.to_vec());
            }
            if self.entries.contains_key(&want.node) {
                link.known.insert(want.node, want.have);
            }
            link.dirty.insert(want.node);
        }
        if !chains.is_empty() && link.may_ask(bytes, now) {
            link.budget.take(u64::try_from(bytes).unwrap_or(u64::MAX), now);
            self.send(from, Frame::Certificates(chains));
        }
    }
}

/// Departures first, then newcomers, then the rest.
fn urgency(presence: Presence, is_known: bool) -> u8 {
    match (presence, is_known) {
        (Presence::Left | Presence::Draining, _) => 0,
        (Presence::Serving, false) => 1,
        (Presence::Serving, true) => 2,
    }
}

/// The whole state of an advert, as it is sent to one who knows nothing of the node.
pub(super) fn whole(signed: &Signed) -> bool {
    signed.base == Version::default()
}
