//! What neighbours say, and whether it is taken.

use super::core::Core;
use super::spread::whole;
use super::store::{Entry, MAX_SEQUENCE, is_signed};
use super::{Bye, Event, Frame, Proof, Reach, Signed, Version, Why};
use crate::NodeId;
use crate::advert::Presence;
use crate::wire;
use crate::wire::cells::Cells;

/// Forged or damaged adverts after which a neighbour is cut. It could be one of a node whose certificate was renewed,
/// hence not the first.
const MAX_STRIKES: u32 = 3;

impl Core {
    pub(super) fn frame(&mut self, from: NodeId, frame: Frame, bytes: usize) {
        let now = self.now.boot;
        let Some(link) = self.links.get_mut(&from) else { return };
        if !link.admits(bytes, now) {
            self.close(from, Why::Offence);
            return;
        }
        link.heard = now;
        link.is_asked = false;
        match frame {
            // The driver has used them up; here they mean nothing.
            Frame::Hello { .. } | Frame::Ready => {}
            Frame::Ask => self.on_ask(from),
            // That it was heard is all that it says.
            Frame::Here => {}
            Frame::Beat { digest, held_us, degree } => self.on_beat(from, digest, held_us, degree),
            Frame::Summary { versions, revocations } => self.on_summary(from, &versions, revocations),
            Frame::Have(versions) => self.on_have(from, &versions),
            Frame::Want(wants) => self.on_want(from, &wants),
            Frame::Adverts(adverts) => {
                for signed in &adverts {
                    self.take(from, signed);
                }
            }
            Frame::Certificates(chains) => self.on_certificates(from, &chains),
            Frame::Revocations(statements) => {
                if !statements.iter().all(|statement| self.revoke(statement)) {
                    self.strike(from);
                }
            }
            Frame::Bye(why) => self.on_bye(from, why),
            Frame::Meet(node) => self.on_meet(node),
            Frame::Part => self.on_part(from),
        }
    }

    fn on_bye(&mut self, from: NodeId, why: Bye) {
        if why == Bye::Crowded {
            self.overlay.back_off(from, self.now.boot);
        }
        self.close(from, Why::TheyLeft);
    }

    /// Counts an offence of a neighbour.
    fn strike(&mut self, from: NodeId) {
        let Some(link) = self.links.get_mut(&from) else { return };
        link.strikes += 1;
        if link.strikes >= MAX_STRIKES {
            self.close(from, Why::Offence);
        }
    }

    fn on_certificates(&mut self, from: NodeId, chains: &[Vec<u8>]) {
        for chain in chains {
            // One that this node finds expired may be good by the neighbour's clock: no offence.
            let Ok(proof) = self.verifier.verify(chain, self.now.unix_s) else { continue };
            let asked = self.wanted.contains_key(&proof.node);
            if asked && proof.node != self.identity.node && self.certificates.len() < self.config.max_nodes {
                self.learn_certificate(chain, proof);
            }
            let _ = from;
        }
    }

    pub(super) fn is_forgotten(&self, node: NodeId, version: Version) -> bool {
        // Whom somebody is connected with lives, whatever was forgotten.
        let is_old = self.forgotten.get(&node).is_some_and(|(old, _)| version <= *old);
        is_old && !self.is_listed(node)
    }

    fn is_listed(&self, node: NodeId) -> bool {
        let lists =
            |entry: &Entry| super::core::is_there(entry.reach) && entry.advert.links.contains_key(&node);
        self.links.contains_key(&node) || self.entries.values().any(lists)
    }

    pub(super) fn own_version(&self) -> Version {
        self.entries.get(&self.identity.node).map(|entry| entry.version).unwrap_or_default()
    }

    /// Somebody shows a newer state of our own advert than we know: from before a restart, then it is signed by us and
    /// is outbid. Whoever only says so could make us publish without end, or use up the numbers that are left.
    fn outbid(&mut self, from: NodeId, signed: &Signed) {
        if signed.version() <= self.own_version() {
            return;
        }
        if !whole(signed) {
            return self.want(from, self.identity.node);
        }
        let key = self.identity.key.verifying_key().to_bytes();
        let own = Proof { node: self.identity.node, key, expires_unix_s: 0 };
        match Cells::default().with(&signed.delta) {
            Ok(cells) if is_signed(&own, signed.sequence, &cells, &signed.signature) => {
                self.sequence = self.sequence.max(signed.sequence);
                self.publish();
            }
            _ => self.strike(from),
        }
    }

    /// Takes an advert, or not.
    fn take(&mut self, from: NodeId, signed: &Signed) {
        let (node, version) = (signed.node, signed.version());
        let now = self.now.boot;
        let Some(link) = self.links.get_mut(&from) else { return };
        link.holds(node, version);
        if signed.sequence > MAX_SEQUENCE {
            return self.strike(from);
        }
        if node == self.identity.node {
            return self.outbid(from, signed);
        }
        if self.is_forgotten(node, version) {
            return;
        }
        let Some(certificate) = self.certificates.get(&node) else { return self.want(from, node) };
        let proof = certificate.proof;
        let held = self.entries.get_mut(&node);
        let base = match &held {
            Some(entry) if entry.version >= version => return,
            _ if whole(signed) => &Cells::default(),
            Some(entry) if entry.version == signed.base => &*entry.cells.clone(),
            _ => return self.want(from, node),
        };
        if held.is_some_and(|entry| !entry.changes.try_take(1, now)) {
            return;
        }
        let Ok(cells) = base.with(&signed.delta) else { return self.strike(from) };
        if !is_signed(&proof, signed.sequence, &cells, &signed.signature) {
            // Perhaps the node has a new certificate; the neighbour that sent this will have it.
            self.certificates_may_be_old(from, node);
            return self.strike(from);
        }
        // Signed and yet not readable: a release with other ideas. It can wait until this one is replaced.
        let Ok(advert) = wire::advert::decode(node, signed.sequence, &cells) else { return };
        if !self.has_room_for(node, cells.bytes()) {
            return;
        }
        let has_left = advert.presence == Presence::Left;
        let old = self.entries.get(&node).map(|entry| entry.advert.presence);
        match self.entries.get_mut(&node) {
            Some(entry) => entry.renew(signed, cells, advert, now),
            None => drop(self.entries.insert(node, Entry::new(signed, cells, advert, now))),
        }
        self.wanted.remove(&node);
        self.forgotten.remove(&node);
        self.changed();
        match old {
            Some(Presence::Left) if has_left => {}
            _ if has_left => self.event(Event::Left(node)),
            Some(_) => self.event(Event::Changed(node)),
            None => {}
        }
        self.spread(node);
    }

    fn certificates_may_be_old(&mut self, from: NodeId, node: NodeId) {
        self.wanted.insert(node, (from, self.now.boot + std::time::Duration::from_secs(2)));
        let have = self.entries.get(&node).map(|entry| entry.version).unwrap_or_default();
        self.wants.entry(from).or_default().push(super::Want { node, have, certificate: true });
    }

    /// Makes room for one more advert by forgetting who was away for longest; `false` if nobody is away.
    fn has_room_for(&mut self, node: NodeId, bytes: usize) -> bool {
        loop {
            let held: usize = self.entries.values().map(Entry::bytes).sum();
            let is_new = !self.entries.contains_key(&node);
            if held + bytes <= self.config.max_bytes
                && !(is_new && self.entries.len() >= self.config.max_nodes)
            {
                return true;
            }
            let away = |(other, entry): (&NodeId, &Entry)| match entry.reach {
                Reach::UnreachableSince(since) if *other != node => Some((since, *other)),
                _ => None,
            };
            match self.entries.iter().filter_map(away).min() {
                Some((_, longest)) => self.forget_node(longest),
                None => return false,
            }
        }
    }
}
