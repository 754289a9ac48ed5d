//! How news leaves this node.

use super::core::Core;
use super::{Frame, Want};
use crate::NodeId;
use crate::advert::Presence;
use crate::wire::frame::{MAX_ENTRIES, Signed, Version};

/// Adverts are sent in frames of about this size, so that what is urgent does not wait for all.
const BATCH_BYTES: usize = 8 * 1024;
/// Bytes of an advert beside its delta: node, numbers, signature.
const ADVERT_BYTES: usize = 110;
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
            if link.dirty.is_empty() || !(at_once || link.budget.is_open(now)) {
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
            let mut batch = Vec::new();
            let mut bytes = PACKET_BYTES;
            let mut done = Vec::new();
            for (_, node) in &queue {
                let Some(entry) = self.entries.get(node) else { continue };
                let known = link.known.get(node).copied().unwrap_or_default();
                done.push(*node);
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
            if !batch.is_empty() {
                link.budget.take(u64::try_from(bytes).unwrap_or(u64::MAX), now);
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
        }
        let revocations = self.revocation_digest();
        self.send(to, Frame::Summary { versions, revocations });
    }

    /// A neighbour says what it holds: tell it what it lacks, ask for what we lack.
    pub(super) fn on_summary(&mut self, from: NodeId, versions: &[(NodeId, Version)], revocations: u64) {
        let own = self.identity.node;
        if revocations != self.revocation_digest() {
            let statements = self.verifier.revocations();
            if !statements.is_empty() {
                self.send(from, Frame::Revocations(statements));
            }
        }
        let Some(link) = self.links.get_mut(&from) else { return };
        link.known = versions.iter().copied().collect();
        for (node, entry) in &self.entries {
            if link.known.get(node).is_none_or(|known| *known < entry.version) {
                link.dirty.insert(*node);
            }
        }
        for &(node, version) in versions {
            if node == own {
                self.outbid(version);
            } else if self.entries.get(&node).is_none_or(|entry| entry.version < version)
                && !self.is_forgotten(node, version)
            {
                self.want(from, node);
            }
        }
        // Revocations have no number of their own; the side that holds more cannot be told, so both sides speak.
        let asked = self.links.get(&from).is_some_and(|link| link.summary_sent.is_some());
        if revocations != self.revocation_digest() && !asked {
            self.send_summary(from);
        }
    }

    /// Asks for a node's newest state, and its certificate if need be; once in a while, not at once of everybody.
    pub(super) fn want(&mut self, from: NodeId, node: NodeId) {
        let now = self.now.boot;
        let rtt = self.links.get(&from).and_then(|link| link.rtt).unwrap_or_default();
        if self.wanted.get(&node).is_some_and(|at| *at > now) {
            return;
        }
        self.wanted.insert(node, now + rtt * 2 + std::time::Duration::from_millis(500));
        let have = self.entries.get(&node).map(|entry| entry.version).unwrap_or_default();
        let certificate = !self.certificates.contains_key(&node);
        self.wants.entry(from).or_default().push(Want { node, have, certificate });
    }

    pub(super) fn send_wants(&mut self) {
        for (node, mut wants) in std::mem::take(&mut self.wants) {
            wants.truncate(MAX_ENTRIES);
            if self.links.contains_key(&node) {
                self.send(node, Frame::Want(wants));
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
        for want in wants {
            let known = self.certificates.get(&want.node).map(|known| known.chain.as_slice());
            let chain = if want.node == own.0 { Some(own.1) } else { known };
            if let Some(chain) = chain.filter(|_| want.certificate && bytes < 48 * 1024) {
                bytes += chain.len() + 3;
                chains.push(chain.to_vec());
            }
            link.known.insert(want.node, want.have);
            link.dirty.insert(want.node);
        }
        if !chains.is_empty() {
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
