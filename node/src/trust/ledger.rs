//! The directory of a mission's authority: key, certificate, secret, what it issued, what it revoked.

use std::path::{Path, PathBuf};

use mesh::trust::files::{self, Readers};
use mesh::trust::{
    Authority, Bundle, CertificateDer, Device, Error, Grant, MAX_CERTIFICATE_BYTES, Permissions, Reason,
    Request, Role, Rules, Serial, Window, revocation,
};
use serde::{Deserialize, Serialize};

const KEY: &str = "authority.key";
const ROOT: &str = "mission.der";
const SECRET: &str = "secret";
const REVOKED: &str = "revoked";
const ISSUED: &str = "issued.json";
/// Longest record of what was issued, bytes. Guess: ten thousand members.
const MAX_ISSUED_BYTES: u64 = 8 << 20;

/// Something that the authority issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Serial of the member's certificate, 32 hexadecimal digits.
    pub serial: String,
    /// `cloudlet` or `handheld`.
    pub role: String,
    /// Node id of a cloudlet.
    pub node: Option<String>,
    /// Name for people.
    pub name: String,
    /// The member's Ed25519 key, hexadecimal.
    pub public_key: String,
    /// What it may do.
    pub permissions: Permissions,
    /// Last second of the certificate, seconds since 1970 UTC.
    pub expires_unix_s: u64,
}

/// An authority and its records.
pub struct Ledger {
    directory: PathBuf,
    authority: Authority,
    issued: Vec<Issued>,
}

impl Ledger {
    /// A new mission in a new directory.
    pub fn create(directory: &Path, name: &str, window: Window, rules: Rules) -> Result<Self, Error> {
        let authority = Authority::create_with(name, window, rules)?;
        files::private_directory(directory)?;
        // The key first, and never over another one.
        authority.device().store(&directory.join(KEY))?;
        files::create(&directory.join(SECRET), hex::encode(authority.secret()).as_bytes(), Readers::Owner)?;
        files::create(&directory.join(ROOT), authority.mission().root(), Readers::Everybody)?;
        Ok(Self { directory: directory.to_owned(), authority, issued: Vec::new() })
    }

    /// The authority in this directory.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let missing =
            |what: &str| bad(format!("{} has no {what}; is it an authority's?", directory.display()));
        let device = Device::load(&directory.join(KEY))?.ok_or_else(|| missing(KEY))?;
        let root = files::read(&directory.join(ROOT), MAX_CERTIFICATE_BYTES as u64, Readers::Everybody)?;
        let secret =
            files::read(&directory.join(SECRET), 64, Readers::Owner)?.ok_or_else(|| missing(SECRET))?;
        let mut key = [0; 32];
        hex::decode_to_slice(&secret, &mut key).map_err(|_| bad(format!("{SECRET} is damaged")))?;
        let root = CertificateDer::from(root.ok_or_else(|| missing(ROOT))?);
        let mut authority = Authority::load(device, root, key)?;
        let most = revocation::MAX_ENCODED_BYTES as u64;
        if let Some(revoked) = files::read(&directory.join(REVOKED), most, Readers::Everybody)? {
            authority.mission_mut().learn(&revoked).map_err(|error| bad(error.to_string()))?;
        }
        let issued = match files::read(&directory.join(ISSUED), MAX_ISSUED_BYTES, Readers::Everybody)? {
            Some(json) => serde_json::from_slice(&json).map_err(|error| bad(format!("{ISSUED}: {error}")))?,
            None => Vec::new(),
        };
        Ok(Self { directory: directory.to_owned(), authority, issued })
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What it issued, in order.
    pub fn issued(&self) -> &[Issued] {
        &self.issued
    }

    /// Whether a certificate is revoked.
    pub fn is_revoked(&self, issued: &Issued) -> bool {
        self.authority.mission().revoked().serials().any(|(serial, _)| serial.to_string() == issued.serial)
    }

    /// Signs what a request asks for, as far as granted. A cloudlet that already has a certificate for another key is
    /// refused unless `replace`: then the old one is revoked, in the same bundle.
    pub fn enroll(
        &mut self,
        request: &Request,
        grant: Grant,
        replace: bool,
        now_unix_s: u64,
    ) -> Result<(Bundle, Issued), Error> {
        let node = match request.role {
            Role::Cloudlet(node) => Some(node.to_string()),
            Role::Handheld => None,
        };
        let public_key = hex::encode(request.public_key);
        let others = |one: &&Issued| one.node.is_some() && one.node == node && one.public_key != public_key;
        let earlier: Vec<Issued> =
            self.issued.iter().filter(others).filter(|one| !self.is_revoked(one)).cloned().collect();
        if let (Some(first), false) = (earlier.first(), replace) {
            return Err(Error::NotAllowed(format!(
                "the node '{}' has a certificate for another key ({}); --replace revokes that one",
                first.name, first.serial
            )));
        }
        for one in &earlier {
            self.revoke(&one.serial, Reason::KeyCompromise, now_unix_s)?;
        }
        let bundle = self.authority.enroll(request, grant)?;
        let member = bundle.mission()?.verify(&bundle.chain, now_unix_s);
        let member = member.map_err(|source| Error::Refused { what: "the new certificate", source })?;
        let issued = Issued {
            serial: member.serial.to_string(),
            role: if node.is_some() { "cloudlet" } else { "handheld" }.to_owned(),
            node,
            name: member.name,
            public_key,
            permissions: member.permissions,
            expires_unix_s: member.expires_unix_s,
        };
        self.issued.push(issued.clone());
        let json = serde_json::to_vec_pretty(&self.issued).map_err(|error| bad(error.to_string()))?;
        files::write(&self.directory.join(ISSUED), &json, Readers::Everybody)?;
        Ok((bundle, issued))
    }

    /// Revokes a certificate by its serial, or every one of a node id or name; gives the serials.
    pub fn revoke(&mut self, what: &str, reason: Reason, now_unix_s: u64) -> Result<Vec<Serial>, Error> {
        let meant =
            |one: &&Issued| one.serial == what || one.name == what || one.node.as_deref() == Some(what);
        let known = self.issued.iter().filter(meant).map(|one| one.serial.as_str());
        let mut serials = known
            .map(str::parse)
            .collect::<Result<Vec<Serial>, _>>()
            .map_err(|error| bad(error.to_string()))?;
        if serials.is_empty() {
            // Not in the records: one that an enroller issued.
            let serial = what.parse().map_err(|_| {
                Error::NotAllowed(format!(
                    "nothing was issued to '{what}'; give a serial, a node id or a name"
                ))
            })?;
            serials.push(serial);
        }
        for serial in &serials {
            self.authority.revoke(*serial, reason, now_unix_s)?;
        }
        let encoded = self.authority.mission().revoked().encode();
        files::write(&self.directory.join(REVOKED), &encoded, Readers::Everybody)?;
        Ok(serials)
    }
}

fn bad(reason: String) -> Error {
    Error::Bad { what: "the authority's directory", reason }
}
