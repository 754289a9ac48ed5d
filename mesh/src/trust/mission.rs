//! The mission as its members know it, and the check whether somebody is one of them. Reads no clock.

use std::fmt;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::certificate::{MAX_CERTIFICATE_BYTES, Parsed, is_signed_by, parse};
use super::device::Role;
use super::error::Error;
use super::issue::Window;
use super::names::{MissionId, Serial, Subject};
use super::permissions::Permissions;
use super::refusal::Refusal;
use super::revocation::{self, DecodeError, List, RevocationSet, Statement};
use super::rules::Rules;
use crate::NodeId;

/// How far clocks may be wrong: a certificate counts this much before and after its window, seconds.
///
/// Guess. A quartz clock that is 100 ppm off loses 26 s in a mission of 72 h, so what has to be bridged is a clock that
/// somebody set by hand from a watch or a radio. More would let expired certificates serve for longer than it takes to
/// notice that a clock is wrong.
pub const CLOCK_TOLERANCE_S: u64 = 15 * 60;
/// Most certificates in a chain: the member's, and the enroller's that issued it.
pub const MAX_CHAIN: usize = 2;

/// A mission: who its authority is, what was revoked, and the secret that hides names from strangers.
#[derive(Clone)]
pub struct Mission {
    root: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    facts: Parsed,
    secret: [u8; 32],
    revoked: RevocationSet,
}

/// A member of the mission, proved by certificate. That the peer also has the key is for TLS or libp2p to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is; for a cloudlet, its node id.
    pub role: Role,
    /// Its name for people.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
    /// Its Ed25519 key; of a cloudlet also the key that its libp2p peer id is made of.
    pub public_key: [u8; 32],
    /// Last second of its certificate, without [`CLOCK_TOLERANCE_S`], seconds since 1970 UTC.
    pub expires_unix_s: u64,
    /// Serial of its certificate.
    pub serial: Serial,
    begins_unix_s: u64,
    issuer: Option<Issuer>,
}

/// The enroller that issued a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Issuer {
    serial: Serial,
    companion: Serial,
}

impl Member {
    /// Its Ed25519 key.
    pub fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    /// Its node id, if it is a cloudlet.
    pub fn node(&self) -> Option<NodeId> {
        match self.role {
            Role::Cloudlet(node) => Some(node),
            Role::Handheld => None,
        }
    }

    /// Whether it may do all of this.
    pub fn may(&self, wanted: Permissions) -> Result<(), Refusal> {
        if self.permissions.contains(wanted) { Ok(()) } else { Err(Refusal::Lacks(wanted)) }
    }
}

/// What came of hearing revocations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learned {
    /// How many were new and are kept.
    pub new: usize,
    /// How many were known, or not needed.
    pub known: usize,
    /// How many were not signed by somebody who may; whoever sent them is no friend.
    pub refused: usize,
}

impl Mission {
    /// The mission of this authority's certificate. The certificate must come from a trusted hand.
    pub fn new(root: CertificateDer<'static>, secret: [u8; 32]) -> Result<Self, Error> {
        const WHAT: &str = "the mission's certificate";
        let refused = |source| Error::Refused { what: WHAT, source };
        let facts = parse(&root).map_err(refused)?;
        if facts.claims.subject != Subject::Authority || facts.issuer.is_none() || !facts.may_sign {
            return Err(Error::bad(WHAT, "it is not an authority's"));
        }
        is_signed_by(&root, &facts.public_key).map_err(refused)?;
        let anchor = anchor_from_trusted_cert(&root).map_err(|error| Error::bad(WHAT, error))?.to_owned();
        Ok(Self { anchor, facts, secret, revoked: RevocationSet::default(), root })
    }

    /// Its id.
    pub fn id(&self) -> MissionId {
        self.facts.claims.mission
    }

    /// Its name for people.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// When it takes place.
    pub fn window(&self) -> Window {
        window(&self.facts)
    }

    /// The authority's certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// What holds for everybody in it.
    pub fn rules(&self) -> &Rules {
        &self.facts.claims.rules
    }

    /// What is known to be revoked.
    pub fn revoked(&self) -> &RevocationSet {
        &self.revoked
    }

    pub(super) fn revoked_mut(&mut self) -> &mut RevocationSet {
        &mut self.revoked
    }

    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The name of a topic on the air: a keyed hash, which says nothing to who is not in the mission.
    pub fn topic_name(&self, name: &str) -> String {
        self.hidden("topic", name)
    }

    /// The name of a service on the air, as [`Self::topic_name`].
    pub fn service_name(&self, name: &str) -> String {
        self.hidden("service", name)
    }

    fn hidden(&self, kind: &str, name: &str) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        // The kind has no zero byte, so no other kind and name give the same bytes.
        hasher.update(kind.as_bytes()).update(&[0]).update(name.as_bytes());
        // Half of the hash: nobody gains by two names that collide, and 16 bytes fit into an advert.
        hex::encode(&hasher.finalize().as_bytes()[..16])
    }

    /// Whether the holder of this chain (its own certificate first) is a member now.
    ///
    /// Signatures and the path are webpki's to check; roles, delegation, revocation and clocks are checked here.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now_unix_s: u64) -> Result<Member, Refusal> {
        self.verify_for(chain, now_unix_s, KeyUsage::client_auth())
    }

    /// As [`Self::verify`], for who serves: a cloudlet, and if `expected` is given, the one of this id.
    pub fn verify_server(
        &self,
        chain: &[CertificateDer<'_>],
        now_unix_s: u64,
        expected: Option<NodeId>,
    ) -> Result<Member, Refusal> {
        let member = self.verify_for(chain, now_unix_s, KeyUsage::server_auth())?;
        match (member.node(), expected) {
            (None, _) => Err(Refusal::WrongPeer("it belongs to a handheld")),
            (Some(node), Some(expected)) if node != expected => {
                Err(Refusal::WrongPeer("it belongs to another cloudlet"))
            }
            _ => Ok(member),
        }
    }

    fn verify_for(&self, chain: &[CertificateDer<'_>], now: u64, usage: KeyUsage) -> Result<Member, Refusal> {
        let (leaf, above) = chain.split_first().ok_or(Refusal::Malformed("there is none"))?;
        if chain.len() > MAX_CHAIN || chain.iter().any(|one| one.len() > MAX_CERTIFICATE_BYTES) {
            return Err(Refusal::Malformed("the chain is too long"));
        }
        let parsed = parse(leaf)?;
        self.same_mission(&parsed)?;
        let role = match parsed.claims.subject {
            Subject::Cloudlet(node) => Role::Cloudlet(node),
            Subject::Handheld => Role::Handheld,
            _ => return Err(Refusal::Malformed("an issuer's certificate is no member's")),
        };
        let at = tolerant(window(&parsed), now)?;
        let issuer = self.path(leaf, above, at, usage)?;
        match &issuer {
            Some(issuer) => self.check_delegation(&parsed, issuer)?,
            None if !self.window().contains(window(&parsed)) => {
                return Err(Refusal::Escalation("it is valid for longer than the mission"));
            }
            None => {}
        }
        if role == Role::Handheld && parsed.claims.permissions.contains(Permissions::ENROLL) {
            return Err(Refusal::Escalation("handhelds do not enroll"));
        }
        let member = Member {
            role,
            name: parsed.name,
            permissions: parsed.claims.permissions,
            public_key: parsed.public_key,
            expires_unix_s: parsed.not_after_unix_s,
            serial: parsed.serial,
            begins_unix_s: parsed.not_before_unix_s,
            issuer: issuer.as_ref().and_then(|issuer| {
                Some(Issuer { serial: issuer.serial, companion: issuer.claims.companion? })
            }),
        };
        self.check_revoked(&member)?;
        Ok(member)
    }

    /// Signatures, path and purposes; gives the enroller in between, if there is one.
    fn path(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        at: u64,
        usage: KeyUsage,
    ) -> Result<Option<Parsed>, Refusal> {
        let end = EndEntityCert::try_from(leaf).map_err(Refusal::NotSigned)?;
        let anchors = std::slice::from_ref(&self.anchor);
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        let path = end
            .verify_for_usage(&[webpki::aws_lc_rs::ED25519], anchors, above, time, usage, None, None)
            .map_err(Refusal::NotSigned)?;
        path.intermediate_certificates().next().map(|issuer| parse(&issuer.der())).transpose()
    }

    /// What webpki does not know: an enroller issues certificates of handhelds only, with no more than it may grant, and
    /// within its own time.
    fn check_delegation(&self, leaf: &Parsed, issuer: &Parsed) -> Result<(), Refusal> {
        self.check_enroller(issuer)?;
        if leaf.claims.subject != Subject::Handheld {
            return Err(Refusal::Escalation("only the authority issues cloudlets' certificates"));
        }
        if !issuer.claims.permissions.contains(leaf.claims.permissions) {
            return Err(Refusal::Escalation("it grants more than it may"));
        }
        if !window(issuer).contains(window(leaf)) {
            return Err(Refusal::Escalation("it is valid for longer than its issuer"));
        }
        Ok(())
    }

    fn check_enroller(&self, issuer: &Parsed) -> Result<(), Refusal> {
        self.same_mission(issuer)?;
        let enroller = matches!(issuer.claims.subject, Subject::Enroller(_));
        if !enroller || issuer.issuer != Some(Some(0)) || !issuer.may_sign {
            return Err(Refusal::Escalation("its issuer is no enroller"));
        }
        if !self.window().contains(window(issuer)) {
            return Err(Refusal::Escalation("its issuer is valid for longer than the mission"));
        }
        Ok(())
    }

    fn same_mission(&self, parsed: &Parsed) -> Result<(), Refusal> {
        let theirs = parsed.claims.mission;
        if theirs == self.id() { Ok(()) } else { Err(Refusal::ForeignMission { theirs, ours: self.id() }) }
    }

    fn check_revoked(&self, member: &Member) -> Result<(), Refusal> {
        if self.revoked.by_authority(member.serial) {
            return Err(Refusal::Revoked(member.serial));
        }
        let Some(issuer) = member.issuer else { return Ok(()) };
        if self.revoked.by_authority(issuer.serial)
            || self.revoked.by_authority(issuer.companion)
            || self.revoked.overflowed(issuer.serial)
        {
            return Err(Refusal::IssuerRevoked(issuer.serial));
        }
        if self.revoked.by_enroller(issuer.serial, member.serial) {
            return Err(Refusal::Revoked(member.serial));
        }
        Ok(())
    }

    /// Whether somebody who was verified before is still a member: neither expired nor revoked since.
    pub fn still(&self, member: &Member, now_unix_s: u64) -> Result<(), Refusal> {
        let window =
            Window { not_before_unix_s: member.begins_unix_s, not_after_unix_s: member.expires_unix_s };
        tolerant(window, now_unix_s)?;
        self.check_revoked(member)
    }

    /// Hears of revocations in the form of [`revocation`]; keeps those that are signed by somebody who may.
    ///
    /// What is already known is not checked again, so hearing the same thing often costs little.
    pub fn learn(&mut self, encoded: &[u8]) -> Result<Learned, DecodeError> {
        let mut learned = Learned::default();
        for statement in revocation::decode(encoded)? {
            match self.take(statement) {
                Ok(true) => learned.new += 1,
                Ok(false) => learned.known += 1,
                Err(_) => learned.refused += 1,
            }
        }
        Ok(learned)
    }

    fn take(&mut self, statement: Statement) -> Result<bool, Refusal> {
        let list = List::parse(&statement.list)?;
        let serial = list.serial;
        let enroller = match &statement.enroller {
            None if self.revoked.has(None, serial, &statement) => return Ok(false),
            None => {
                list.check(&self.facts.public_key, &self.facts.subject_der)?;
                None
            }
            Some(der) => {
                let issuer = parse(der)?;
                if self.revoked.has(Some(issuer.serial), serial, &statement) {
                    return Ok(false);
                }
                self.check_enroller(&issuer)?;
                is_signed_by(&CertificateDer::from(der.as_slice()), &self.facts.public_key)?;
                list.check(&issuer.public_key, &issuer.subject_der)?;
                Some(issuer.serial)
            }
        };
        Ok(self.revoked.insert(enroller, serial, statement))
    }
}

impl fmt::Debug for Mission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mission({} '{}', {} revocations)", self.id(), self.name(), self.revoked.len())
    }
}

fn window(parsed: &Parsed) -> Window {
    Window { not_before_unix_s: parsed.not_before_unix_s, not_after_unix_s: parsed.not_after_unix_s }
}

/// The moment for which a certificate of this window is checked: now, moved into the window if the clocks may be that
/// wrong. Everything above a certificate is valid for as long as it is, so that moment does for the whole path.
fn tolerant(window: Window, now: u64) -> Result<u64, Refusal> {
    let Window { not_before_unix_s: from, not_after_unix_s: to } = window;
    if now.saturating_add(CLOCK_TOLERANCE_S) < from {
        return Err(Refusal::NotYetValid { in_s: from - now });
    }
    if now > to.saturating_add(CLOCK_TOLERANCE_S) {
        return Err(Refusal::Expired { ago_s: now - to });
    }
    Ok(now.clamp(from, to.max(from)))
}
