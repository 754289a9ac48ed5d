//! Who lets members in: the mission's authority, and cloudlets that it allowed to enroll handhelds.

use rustls_pki_types::CertificateDer;

use super::bundle::Bundle;
use super::device::{Device, Request, Role};
use super::error::Error;
use super::identity::Identity;
use super::issue::{self, Reason, Window};
use super::mission::{CLOCK_TOLERANCE_S, Mission};
use super::names::{Claims, MissionId, Serial, Subject};
use super::permissions::Permissions;
use super::random;
use super::revocation::{MAX_BY_AUTHORITY, Statement};
use super::rules::Rules;

/// The mission's authority. Its key can lie in a drawer: nobody needs it but to enroll and to revoke.
#[derive(Debug)]
pub struct Authority {
    device: Device,
    mission: Mission,
}

/// What a request is granted.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// What the member may do.
    pub permissions: Permissions,
    /// For a cloudlet that may enroll handhelds: what it may grant them.
    pub may_enroll: Option<Permissions>,
    /// Last second of the certificate, if earlier than the mission's, seconds since 1970 UTC.
    pub not_after_unix_s: Option<u64>,
}

impl Authority {
    /// A new mission with a new key, without rules.
    pub fn create(name: &str, window: Window) -> Result<Self, Error> {
        Self::create_with(name, window, Rules::default())
    }

    /// A new mission with a new key, whose rules are fixed in its certificate.
    pub fn create_with(name: &str, window: Window, rules: Rules) -> Result<Self, Error> {
        rules.check()?;
        if window.not_before_unix_s >= window.not_after_unix_s {
            return Err(Error::bad("the time window", "it ends before it begins"));
        }
        let device = Device::generate()?;
        let claims = Claims {
            mission: MissionId(random::bytes()?),
            subject: Subject::Authority,
            permissions: Permissions::NONE,
            companion: None,
            rules,
        };
        let (params, _) = issue::params(&claims, name, window)?;
        let root = params.self_signed(device.key()).map_err(Error::x509("make the mission's certificate"))?;
        Self::load(device, root.der().clone(), random::bytes()?)
    }

    /// The authority of this key and certificate, with the mission's secret.
    pub fn load(device: Device, root: CertificateDer<'static>, secret: [u8; 32]) -> Result<Self, Error> {
        Self::of(device, Mission::new(root, secret)?)
    }

    /// The authority of a mission whose key this is.
    pub fn of(device: Device, mission: Mission) -> Result<Self, Error> {
        let root = super::certificate::parse(mission.root())
            .map_err(|source| Error::Refused { what: "the mission's certificate", source })?;
        if root.public_key != device.public_key() {
            return Err(Error::bad("the authority's key", "it is not the key of the mission's certificate"));
        }
        Ok(Self { device, mission })
    }

    /// The mission as its members see it.
    pub fn mission(&self) -> &Mission {
        &self.mission
    }

    /// The mission, to hear of revocations.
    pub fn mission_mut(&mut self) -> &mut Mission {
        &mut self.mission
    }

    /// The key.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The secret that goes into every bundle; to be stored as carefully as the key.
    pub fn secret(&self) -> &[u8; 32] {
        self.mission.secret()
    }

    /// Lets a cloudlet or a handheld into the mission.
    pub fn enroll(&self, request: &Request, grant: Grant) -> Result<Bundle, Error> {
        let mut permissions = grant.permissions;
        if let Some(granted) = grant.may_enroll {
            if request.role == Role::Handheld {
                return Err(Error::NotAllowed(
                    "a handheld cannot enroll others; only a cloudlet can".to_owned(),
                ));
            }
            if granted.contains(Permissions::ENROLL) {
                return Err(Error::NotAllowed("a cloudlet cannot let handhelds enroll others".to_owned()));
            }
            permissions = permissions | Permissions::ENROLL;
        } else if permissions.contains(Permissions::ENROLL) {
            return Err(Error::NotAllowed(
                "say what it may grant to handhelds that it enrolls, instead of the bare permission 'enroll'"
                    .to_owned(),
            ));
        }
        let window = self.window(grant.not_after_unix_s)?;
        let claims = self.claims(request.role.into(), permissions, None);
        let (member, serial) = self.sign(&claims, request, &request.name, window)?;
        let enroller = match (grant.may_enroll, request.role) {
            (Some(granted), Role::Cloudlet(node)) => {
                let claims = self.claims(Subject::Enroller(node), granted, Some(serial));
                Some(self.sign(&claims, request, &format!("enroller {node}"), window)?.0)
            }
            _ => None,
        };
        Ok(Bundle::new(&self.mission, vec![member], enroller))
    }

    fn window(&self, not_after: Option<u64>) -> Result<Window, Error> {
        let mut window = self.mission.window();
        if let Some(not_after) = not_after {
            window.not_after_unix_s = not_after;
        }
        if !self.mission.window().contains(window) {
            return Err(Error::NotAllowed("the certificate must end within the mission".to_owned()));
        }
        Ok(window)
    }

    fn claims(&self, subject: Subject, permissions: Permissions, companion: Option<Serial>) -> Claims {
        Claims { mission: self.mission.id(), subject, permissions, companion, rules: Rules::default() }
    }

    fn sign(
        &self,
        claims: &Claims,
        request: &Request,
        name: &str,
        window: Window,
    ) -> Result<(CertificateDer<'static>, Serial), Error> {
        let (params, serial) = issue::params(claims, name, window)?;
        let issuer = issue::issuer(self.mission.root(), &self.device)?;
        let signed = params.signed_by(&request.key, &issuer).map_err(Error::x509("sign a certificate"))?;
        Ok((signed.der().clone(), serial))
    }

    /// Revokes any certificate of the mission, whoever issued it. The authority's own view learns it too.
    pub fn revoke(&mut self, serial: Serial, reason: Reason, now_unix_s: u64) -> Result<Statement, Error> {
        let known = self.mission.revoked().serials().filter(|(_, by)| by.is_none()).count();
        if known >= MAX_BY_AUTHORITY && !self.mission.revoked().by_authority(serial) {
            return Err(Error::NotAllowed(format!(
                "{MAX_BY_AUTHORITY} certificates are revoked already; make a new mission"
            )));
        }
        let issuer = issue::issuer(self.mission.root(), &self.device)?;
        let until = self.mission.window().not_after_unix_s.saturating_add(CLOCK_TOLERANCE_S);
        let list = issue::revocation(&issuer, serial, reason, now_unix_s, until)?;
        let statement = Statement { enroller: None, list };
        self.mission.revoked_mut().insert(None, serial, statement.clone());
        Ok(statement)
    }
}

/// A cloudlet that may enroll handhelds.
#[derive(Debug, Clone, Copy)]
pub struct Enroller<'a> {
    identity: &'a Identity,
    certificate: &'a CertificateDer<'static>,
}

impl<'a> Enroller<'a> {
    /// What this identity allows; `None` if it may not enroll.
    pub fn new(identity: &'a Identity) -> Option<Self> {
        Some(Self { identity, certificate: identity.enroller()? })
    }

    /// Its enroller certificate.
    pub fn certificate(&self) -> &'a CertificateDer<'static> {
        self.certificate
    }

    fn facts(&self) -> Result<super::certificate::Parsed, Error> {
        super::certificate::parse(self.certificate)
            .map_err(|source| Error::Refused { what: "this cloudlet's enroller certificate", source })
    }

    /// What it may grant.
    pub fn grants(&self) -> Result<Permissions, Error> {
        Ok(self.facts()?.claims.permissions)
    }

    /// Lets a handheld into the mission, until `not_after_unix_s` or for as long as this cloudlet may.
    pub fn enroll(
        &self,
        mission: &Mission,
        request: &Request,
        permissions: Permissions,
        now_unix_s: u64,
        not_after_unix_s: Option<u64>,
    ) -> Result<Bundle, Error> {
        if request.role != Role::Handheld {
            return Err(Error::NotAllowed("only the mission's authority enrolls cloudlets".to_owned()));
        }
        let own = self.facts()?;
        if !own.claims.permissions.contains(permissions) {
            return Err(Error::NotAllowed(format!(
                "this cloudlet may grant {} only",
                own.claims.permissions
            )));
        }
        let last = own.not_after_unix_s;
        let window = Window {
            not_before_unix_s: now_unix_s.clamp(own.not_before_unix_s, last),
            not_after_unix_s: not_after_unix_s.unwrap_or(last).min(last),
        };
        if window.not_before_unix_s >= window.not_after_unix_s {
            return Err(Error::NotAllowed("this cloudlet's own certificate has expired".to_owned()));
        }
        let claims = Claims {
            mission: mission.id(),
            subject: Subject::Handheld,
            permissions,
            companion: None,
            rules: Rules::default(),
        };
        let (params, _) = issue::params(&claims, &request.name, window)?;
        let issuer = issue::issuer(self.certificate, self.identity.device())?;
        let signed = params.signed_by(&request.key, &issuer).map_err(Error::x509("sign a certificate"))?;
        Ok(Bundle::new(mission, vec![signed.der().clone(), self.certificate.clone()], None))
    }

    /// Revokes a certificate that it issued.
    pub fn revoke(
        &self,
        mission: &Mission,
        serial: Serial,
        reason: Reason,
        now_unix_s: u64,
    ) -> Result<Statement, Error> {
        let issuer = issue::issuer(self.certificate, self.identity.device())?;
        let until = mission.window().not_after_unix_s.saturating_add(CLOCK_TOLERANCE_S);
        let list = issue::revocation(&issuer, serial, reason, now_unix_s, until)?;
        Ok(Statement { enroller: Some(self.certificate.to_vec()), list })
    }
}
