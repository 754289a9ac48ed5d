//! What a new member is handed: its certificates, the mission's, the secret, and what is revoked so far.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::certificate::MAX_CERTIFICATE_BYTES;
use super::error::Error;
use super::mission::{MAX_CHAIN, Mission};
use super::revocation;

/// Version of the file.
const VERSION: u32 = 1;
/// Longest bundle that is read, bytes: revocations in base64 and little else.
pub const MAX_BYTES: usize = revocation::MAX_ENCODED_BYTES / 3 * 4 + 64 * 1024;

/// A bundle. It holds the mission's secret, so its file is as private as a key's; without the device's key it proves
/// nothing.
#[derive(Clone)]
pub struct Bundle {
    /// The authority's certificate.
    pub root: CertificateDer<'static>,
    /// The member's certificate, and the enroller's that issued it, if one did.
    pub chain: Vec<CertificateDer<'static>>,
    /// The member's own enroller certificate, if it may enroll.
    pub enroller: Option<CertificateDer<'static>>,
    /// The mission's secret.
    pub(super) secret: [u8; 32],
    /// Encoded revocations.
    pub revoked: Vec<u8>,
}

/// The bundle's JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    cloudlet_bundle: u32,
    root: String,
    chain: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enroller: Option<String>,
    secret: String,
    revoked: String,
}

impl Bundle {
    pub(super) fn new(
        mission: &Mission,
        chain: Vec<CertificateDer<'static>>,
        enroller: Option<CertificateDer<'static>>,
    ) -> Self {
        Self {
            root: mission.root().clone(),
            chain,
            enroller,
            secret: *mission.secret(),
            revoked: mission.revoked().encode(),
        }
    }

    /// The mission that it tells of, with its revocations.
    pub fn mission(&self) -> Result<Mission, Error> {
        let mut mission = Mission::new(self.root.clone(), self.secret)?;
        mission.learn(&self.revoked).map_err(|error| Error::bad("the bundle", error))?;
        Ok(mission)
    }

    /// As JSON.
    pub fn to_json(&self) -> Result<String, Error> {
        let text = Text {
            cloudlet_bundle: VERSION,
            root: BASE64.encode(&self.root),
            chain: self.chain.iter().map(|one| BASE64.encode(one)).collect(),
            enroller: self.enroller.as_ref().map(|one| BASE64.encode(one)),
            secret: BASE64.encode(self.secret),
            revoked: BASE64.encode(&self.revoked),
        };
        serde_json::to_string_pretty(&text).map_err(|error| Error::bad("the bundle", error))
    }

    /// From JSON. What it says is not believed yet.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let bad = |reason: &str| Error::bad("the bundle", reason);
        if json.len() > MAX_BYTES {
            return Err(bad("it is too long"));
        }
        // The error of the parser could repeat parts of the secret.
        let text: Text = serde_json::from_slice(json).map_err(|error| {
            Error::bad(
                "the bundle",
                format!("it is no bundle's JSON (line {}, column {})", error.line(), error.column()),
            )
        })?;
        if text.cloudlet_bundle != VERSION {
            return Err(bad("it is of another release"));
        }
        let certificate = |text: &String| match BASE64.decode(text) {
            Ok(der) if der.len() <= MAX_CERTIFICATE_BYTES => Ok(CertificateDer::from(der)),
            _ => Err(bad("one of its certificates is damaged")),
        };
        if text.chain.is_empty() || text.chain.len() > MAX_CHAIN {
            return Err(bad("its chain has a wrong length"));
        }
        let secret = BASE64.decode(&text.secret).ok().and_then(|secret| secret.try_into().ok());
        Ok(Self {
            root: certificate(&text.root)?,
            chain: text.chain.iter().map(certificate).collect::<Result<_, _>>()?,
            enroller: text.enroller.as_ref().map(certificate).transpose()?,
            secret: secret.ok_or_else(|| bad("its secret is damaged"))?,
            revoked: BASE64.decode(&text.revoked).map_err(|_| bad("its revocations are damaged"))?,
        })
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({} certificates)", self.chain.len())
    }
}
