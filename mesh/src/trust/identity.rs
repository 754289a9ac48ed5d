//! A device as a member: its key and the certificates that prove it.

use rustls_pki_types::CertificateDer;

use super::bundle::Bundle;
use super::certificate::parse;
use super::device::Device;
use super::error::Error;
use super::mission::{Member, Mission};
use super::names::Subject;
use super::refusal::Refusal;

/// A key and its certificates.
#[derive(Debug)]
pub struct Identity {
    device: Device,
    chain: Vec<CertificateDer<'static>>,
    enroller: Option<CertificateDer<'static>>,
    member: Member,
}

impl Identity {
    /// What a bundle makes of a device, if it is for this device. Its certificate must not have been revoked; whether it
    /// has expired is not looked at, so that an expired one can be told from none.
    pub fn new(device: Device, bundle: &Bundle, mission: &Mission) -> Result<Self, Error> {
        const WHAT: &str = "the bundle";
        let refused = |source| Error::Refused { what: WHAT, source };
        let leaf = bundle.chain.first().ok_or_else(|| Error::bad(WHAT, "it has no certificate"))?;
        let parsed = parse(leaf).map_err(refused)?;
        let member = mission.verify(&bundle.chain, parsed.not_after_unix_s).map_err(refused)?;
        if member.public_key != device.public_key() {
            return Err(Error::bad(WHAT, "it was made for another device's key"));
        }
        if let Some(enroller) = &bundle.enroller {
            let own = parse(enroller).map_err(refused)?;
            let fits = member.node().is_some_and(|node| own.claims.subject == Subject::Enroller(node))
                && own.public_key == member.public_key
                && own.claims.companion == Some(member.serial);
            if !fits {
                return Err(refused(Refusal::WrongPeer(
                    "its enroller certificate belongs to another cloudlet",
                )));
            }
        }
        Ok(Self { device, chain: bundle.chain.clone(), enroller: bundle.enroller.clone(), member })
    }

    /// The key.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What is shown to peers: the own certificate, and the issuer's if the authority did not issue it itself.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The enroller certificate, if it may enroll handhelds.
    pub fn enroller(&self) -> Option<&CertificateDer<'static>> {
        self.enroller.as_ref()
    }

    /// The member that it is.
    pub fn member(&self) -> &Member {
        &self.member
    }
}
