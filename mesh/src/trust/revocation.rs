//! What was revoked: pieces that are signed one by one and merge in any order.
//!
//! A *statement* is an X.509 certificate revocation list (RFC 5280, section 5) that names exactly one certificate,
//! signed by the mission's authority or by the enroller that issued the certificate; an enroller's comes with its
//! enroller certificate. Lists of one, because whole lists do not merge: of two lists that two hands of one issuer wrote
//! on two sides of a split, one would win. A list of one never changes, so the set only grows, and the order in which
//! pieces arrive does not matter.
//!
//! * The authority's word counts for every certificate of the mission (serials are random, so there is no second one of
//!   the same number). An enroller's word counts for what it issued.
//! * Revoking a cloudlet's certificate revokes its enroller certificate (its *companion*), and with it every
//!   certificate that it issued: whoever has the key can date them back.
//! * An enroller that revokes more than [`MAX_BY_ENROLLER`] certificates is itself taken as revoked. So a captured
//!   enroller cannot fill the others' memory, and which pieces a node heard first does not matter either.
//!
//! Encoded, on disk and in gossip alike: one byte [`VERSION`], then the statements one after another. A statement is
//! one byte kind (1: the authority's, 2: an enroller's), then for kind 2 the enroller certificate, then the list; both
//! in DER after their length in two bytes, most significant first.

use std::collections::BTreeMap;

use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::{MAX_CERTIFICATE_BYTES, is_signature, serial};
use super::names::Serial;
use super::refusal::Refusal;

/// Version of the encoding.
pub const VERSION: u8 = 1;
/// Most certificates that an enroller revokes. Guess: it enrolls some dozens of handhelds.
pub const MAX_BY_ENROLLER: usize = 256;
/// Most certificates that the authority revokes; with more, a new mission is due. Guess: 1.5 MB encoded.
pub const MAX_BY_AUTHORITY: usize = 4096;
/// Longest revocation list that is looked at, bytes. Ours have about 300.
pub const MAX_LIST_BYTES: usize = 1024;
/// Longest encoded set that is read, bytes: what the authority may revoke, and as much again by enrollers.
pub const MAX_ENCODED_BYTES: usize = 2 * MAX_BY_AUTHORITY * 512;

const BY_AUTHORITY: u8 = 1;
const BY_ENROLLER: u8 = 2;

/// One signed statement, not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The enroller's certificate in DER, if it is not the authority's statement.
    pub(super) enroller: Option<Vec<u8>>,
    /// The list in DER.
    pub(super) list: Vec<u8>,
}

/// Bytes that are no encoded set. Nothing was taken from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Of another release.
    #[error("the revocations are encoded in version {0}, this release reads {VERSION}")]
    Version(u8),
    /// Cut, too long or scrambled.
    #[error("the revocations are cut, too long or scrambled")]
    Malformed,
}

/// Writes a set of statements.
pub fn encode<'a>(statements: impl IntoIterator<Item = &'a Statement>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for statement in statements {
        statement.encode(&mut bytes);
    }
    bytes
}

/// Reads a set of statements; whether they are true is not looked at.
pub fn decode(bytes: &[u8]) -> Result<Vec<Statement>, DecodeError> {
    let (&version, mut rest) = bytes.split_first().ok_or(DecodeError::Malformed)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    if bytes.len() > MAX_ENCODED_BYTES {
        return Err(DecodeError::Malformed);
    }
    let mut statements = Vec::new();
    while !rest.is_empty() {
        let (kind, after) = rest.split_first().ok_or(DecodeError::Malformed)?;
        rest = after;
        let enroller = match *kind {
            BY_AUTHORITY => None,
            BY_ENROLLER => Some(take(&mut rest, MAX_CERTIFICATE_BYTES)?),
            _ => return Err(DecodeError::Malformed),
        };
        statements.push(Statement { enroller, list: take(&mut rest, MAX_LIST_BYTES)? });
    }
    Ok(statements)
}

fn take(rest: &mut &[u8], most: usize) -> Result<Vec<u8>, DecodeError> {
    let (length, after) = rest.split_first_chunk().ok_or(DecodeError::Malformed)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length > most || length > after.len() {
        return Err(DecodeError::Malformed);
    }
    let (value, after) = after.split_at(length);
    *rest = after;
    Ok(value.to_vec())
}

impl Statement {
    fn encode(&self, bytes: &mut Vec<u8>) {
        match &self.enroller {
            None => bytes.push(BY_AUTHORITY),
            Some(enroller) => {
                bytes.push(BY_ENROLLER);
                put(bytes, enroller);
            }
        }
        put(bytes, &self.list);
    }
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    // Far below 64 KiB: whoever made or read the part saw to it.
    bytes.extend_from_slice(&(part.len() as u16).to_be_bytes());
    bytes.extend_from_slice(part);
}

/// A list of one, read but not checked.
pub(super) struct List<'a> {
    parsed: CertificateRevocationList<'a>,
    /// The certificate that it revokes.
    pub serial: Serial,
}

impl<'a> List<'a> {
    pub fn parse(list: &'a [u8]) -> Result<Self, Refusal> {
        let Ok(([], parsed)) = CertificateRevocationList::from_der(list) else {
            return Err(Refusal::Malformed("it is no revocation list"));
        };
        let serial = match &*parsed.tbs_cert_list.revoked_certificates {
            [one] => serial(one.raw_serial())?,
            _ => return Err(Refusal::Malformed("it revokes not exactly one certificate")),
        };
        Ok(Self { parsed, serial })
    }

    /// Whether the holder of `key`, whose encoded name is `issuer_der`, signed it.
    pub fn check(&self, key: &[u8; 32], issuer_der: &[u8]) -> Result<(), Refusal> {
        let parsed = &self.parsed;
        let outer = &parsed.signature_algorithm.algorithm;
        if *outer != OID_SIG_ED25519 || parsed.tbs_cert_list.signature.algorithm != OID_SIG_ED25519 {
            return Err(Refusal::Malformed("it is not signed with Ed25519"));
        }
        if parsed.issuer().as_raw() != issuer_der {
            return Err(Refusal::Malformed("its issuer has another name"));
        }
        is_signature(key, parsed.tbs_cert_list.as_ref(), &parsed.signature_value.data)
    }
}

/// What is known to be revoked. Grows only; see the module for what it takes in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationSet {
    by_authority: BTreeMap<Serial, Statement>,
    by_enroller: BTreeMap<Serial, BTreeMap<Serial, Statement>>,
}

impl RevocationSet {
    /// Takes in a checked statement of the authority (`enroller` is `None`) or of an enroller; says whether anything
    /// changed. Of several statements on one certificate, and of too many, the smallest stay: the order of arrival
    /// must not matter.
    pub(super) fn insert(&mut self, enroller: Option<Serial>, serial: Serial, statement: Statement) -> bool {
        let (place, most) = match enroller {
            None => (&mut self.by_authority, MAX_BY_AUTHORITY),
            // One more than allowed is what shows that it was too many.
            Some(enroller) => (self.by_enroller.entry(enroller).or_default(), MAX_BY_ENROLLER + 1),
        };
        match place.get(&serial) {
            Some(known) if known.list <= statement.list => return false,
            None if place.len() >= most && place.last_key_value().is_some_and(|(last, _)| *last < serial) => {
                return false;
            }
            _ => {}
        }
        place.insert(serial, statement);
        if place.len() > most {
            place.pop_last();
        }
        true
    }

    /// Whether this very statement is in here.
    pub(super) fn has(&self, enroller: Option<Serial>, serial: Serial, statement: &Statement) -> bool {
        let known = match enroller {
            None => self.by_authority.get(&serial),
            Some(enroller) => self.by_enroller.get(&enroller).and_then(|revoked| revoked.get(&serial)),
        };
        known == Some(statement)
    }

    /// Whether the authority revoked this certificate.
    pub(super) fn by_authority(&self, serial: Serial) -> bool {
        self.by_authority.contains_key(&serial)
    }

    /// Whether this enroller revoked this certificate.
    pub(super) fn by_enroller(&self, enroller: Serial, serial: Serial) -> bool {
        self.by_enroller.get(&enroller).is_some_and(|revoked| revoked.contains_key(&serial))
    }

    /// Whether this enroller revoked more than it may.
    pub(super) fn overflowed(&self, enroller: Serial) -> bool {
        self.by_enroller.get(&enroller).is_some_and(|revoked| revoked.len() > MAX_BY_ENROLLER)
    }

    /// Every statement, in a fixed order.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.by_authority.values().chain(self.by_enroller.values().flat_map(BTreeMap::values))
    }

    /// The serials that are revoked, each with the enroller whose word it is, if it is not the authority's.
    pub fn serials(&self) -> impl Iterator<Item = (Serial, Option<Serial>)> {
        let own = self.by_authority.keys().map(|serial| (*serial, None));
        own.chain(self.by_enroller.iter().flat_map(|(by, all)| all.keys().map(|serial| (*serial, Some(*by)))))
    }

    /// How many statements there are.
    pub fn len(&self) -> usize {
        self.by_authority.len() + self.by_enroller.values().map(BTreeMap::len).sum::<usize>()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole set, encoded. The same set gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(self.statements())
    }

    /// Hash of the whole set: two nodes with the same one need not exchange anything.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }
}
