//! The adverts that are held, and how they are signed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::bucket::Bucket;
use super::{Proof, Reach, Signed, Version};
use crate::NodeId;
use crate::advert::Advert;
use crate::wire::cells::{Cells, Delta};

/// Old states of an advert that are kept to make deltas from. A guess: a neighbour is rarely further behind.
const HISTORY: usize = 4;
/// New states of one node that are taken at once, and per second. An owner that changes faster is heard of at this
/// rate: what was passed over comes with the next exchange of versions. A guess.
const CHANGES_AT_ONCE: u64 = 40;
const CHANGES_PER_S: u64 = 2;
/// Highest sequence number; leaves room for an owner to outbid it.
pub(super) const MAX_SEQUENCE: u64 = 1 << 60;

/// What the owner of an advert signs.
pub fn signed_bytes(node: NodeId, sequence: u64, cells: &Cells) -> Vec<u8> {
    [&b"cloudlet advert 1\0"[..], node.as_bytes(), &sequence.to_be_bytes(), &cells.digest()].concat()
}

/// The owner's signature over a state.
pub fn sign(key: &SigningKey, node: NodeId, sequence: u64, cells: &Cells) -> [u8; 64] {
    key.sign(&signed_bytes(node, sequence, cells)).to_bytes()
}

/// Whether the owner signed this state.
pub(super) fn is_signed(proof: &Proof, sequence: u64, cells: &Cells, signature: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&proof.key) else { return false };
    let message = signed_bytes(proof.node, sequence, cells);
    key.verify_strict(&message, &Signature::from_bytes(signature)).is_ok()
}

/// A certificate that was found good.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub(super) chain: Vec<u8>,
    pub(super) proof: Proof,
}

/// A node's newest advert.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) version: Version,
    pub(super) signature: [u8; 64],
    pub(super) cells: Arc<Cells>,
    pub(super) advert: Arc<Advert>,
    history: VecDeque<(Version, Arc<Cells>)>,
    pub(super) reach: Reach,
    pub(super) heard: Duration,
    pub(super) changes: Bucket,
    /// Bytes that the newest state takes.
    weight: usize,
}

impl Entry {
    pub(super) fn new(signed: &Signed, cells: Cells, advert: Advert, now: Duration) -> Self {
        Self {
            version: signed.version(),
            signature: signed.signature,
            weight: cells.bytes(),
            cells: Arc::new(cells),
            advert: Arc::new(advert),
            history: VecDeque::new(),
            reach: Reach::UnreachableSince(now),
            heard: now,
            changes: Bucket::new(CHANGES_PER_S, CHANGES_AT_ONCE, now),
        }
    }

    /// Takes a newer state.
    pub(super) fn renew(&mut self, signed: &Signed, cells: Cells, advert: Advert, now: Duration) {
        self.weight = cells.bytes();
        let old = std::mem::replace(&mut self.cells, Arc::new(cells));
        self.history.push_back((self.version, old));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        self.version = signed.version();
        self.signature = signed.signature;
        self.advert = Arc::new(advert);
        self.heard = now;
    }

    /// The newest state as a delta against `have` if that is still kept and saves bytes, else whole.
    pub(super) fn since(&self, node: NodeId, have: Version) -> Signed {
        let whole = self.cells.since(&Cells::default());
        let old = self.history.iter().find(|(version, _)| *version == have);
        let (base, delta): (Version, Delta) = match old.map(|(base, cells)| (*base, self.cells.since(cells)))
        {
            Some((base, delta)) if delta.bytes() < whole.bytes() => (base, delta),
            _ => (Version::default(), whole),
        };
        Signed { node, sequence: self.version.sequence, base, delta, signature: self.signature }
    }

    /// Bytes of memory that this may take with its history.
    pub(super) fn bytes(&self) -> usize {
        self.weight * (1 + self.history.len())
    }

    /// The digest of node and version, one term of the sum that neighbours compare.
    pub(super) fn term(&self, node: NodeId) -> u64 {
        term(node, self.version)
    }
}

fn term(node: NodeId, version: Version) -> u64 {
    let bytes = [&node.as_bytes()[..], &version.sequence.to_be_bytes(), &version.mark.to_be_bytes()].concat();
    first_bytes(&bytes)
}

/// The first eight bytes of the BLAKE3 digest.
pub(super) fn first_bytes(bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(bytes).as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
