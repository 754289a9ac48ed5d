//! The key of a device, and the request for a certificate that it makes.

use std::fmt;
use std::path::Path;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, DnValue, KeyPair, PublicKeyData as _, SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::Error;
use super::files::{self, Readers};
use super::names::{MAX_NAME_BYTES, Subject};
use super::random;
use crate::NodeId;

/// Longest request that is read, bytes. Ours have about 300.
pub const MAX_REQUEST_BYTES: usize = 2048;
/// An Ed25519 key in PKCS #8 is this and the 32 bytes of the seed (RFC 8410, section 7 and appendix A).
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const MAX_KEY_FILE_BYTES: u64 = 1024;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A cloudlet of this id.
    Cloudlet(NodeId),
    /// A handheld.
    Handheld,
}

impl From<Role> for Subject {
    fn from(role: Role) -> Self {
        match role {
            Role::Cloudlet(node) => Self::Cloudlet(node),
            Role::Handheld => Self::Handheld,
        }
    }
}

/// The Ed25519 key of a device. It is made on the device and never leaves it.
pub struct Device {
    seed: [u8; 32],
    key: KeyPair,
}

impl Device {
    /// A new key from the system's random generator.
    pub fn generate() -> Result<Self, Error> {
        Self::from_seed(random::bytes()?)
    }

    /// The key of this seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, Error> {
        let mut pkcs8 = PKCS8_PREFIX.to_vec();
        pkcs8.extend_from_slice(&seed);
        let key =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &rcgen::PKCS_ED25519);
        Ok(Self { seed, key: key.map_err(Error::x509("use the device's key"))? })
    }

    /// The key in `path` (PKCS #8 in PEM, mode 0600); `None` if there is no such file.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let Some(pem) = files::read(path, MAX_KEY_FILE_BYTES, Readers::Owner)? else { return Ok(None) };
        let bad = |reason| Error::bad("the key file", format!("{}: {reason}", path.display()));
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| bad("it is not PKCS #8 in PEM"))?;
        let seed = key.secret_pkcs8_der().strip_prefix(&PKCS8_PREFIX);
        let seed =
            seed.and_then(|seed| seed.try_into().ok()).ok_or_else(|| bad("it holds no Ed25519 key"))?;
        Self::from_seed(seed).map(Some)
    }

    /// The key in `path`, or a new one that is stored there first.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        if let Some(device) = Self::load(path)? {
            return Ok(device);
        }
        let device = Self::generate()?;
        device.store(path)?;
        Ok(device)
    }

    /// Stores the key in a new file, mode 0600.
    pub fn store(&self, path: &Path) -> Result<(), Error> {
        files::create(path, self.key.serialize_pem().as_bytes(), Readers::Owner)
    }

    /// The public half; for a cloudlet, also the key that its libp2p peer id is made of.
    pub fn public_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.key.public_key_raw());
        key
    }

    /// The secret half, for the protocols that prove possession of it (libp2p). Never to be stored or sent.
    pub fn secret_seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// A request for a certificate (PKCS #10, DER), signed with the key: proof that the device has it.
    pub fn request(&self, role: Role, name: &str) -> Result<Vec<u8>, Error> {
        Ok(self.sign_request(role, name)?.der().to_vec())
    }

    /// The same in PEM, for files.
    pub fn request_pem(&self, role: Role, name: &str) -> Result<String, Error> {
        self.sign_request(role, name)?.pem().map_err(Error::x509("make a request"))
    }

    fn sign_request(&self, role: Role, name: &str) -> Result<rcgen::CertificateSigningRequest, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = super::issue::distinguished_name(None, Subject::from(role), name)?;
        params.subject_alt_names = super::issue::uris(Subject::from(role).uris())?;
        params.serialize_request(&self.key).map_err(Error::x509("make a request"))
    }

    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    pub(super) fn tls_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialized_der().to_vec()).into()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", hex::encode(self.public_key()))
    }
}

/// A device's request for a certificate, whose signature is right. What it asks for is a wish; who signs decides.
#[derive(Debug)]
pub struct Request {
    /// What the device says it is.
    pub role: Role,
    /// Its name for people: 1 to [`MAX_NAME_BYTES`] bytes without control characters.
    pub name: String,
    /// The key that it has.
    pub public_key: [u8; 32],
    pub(super) key: rcgen::PublicKey,
}

impl Request {
    /// Reads a request in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "the certificate request";
        if der.len() > MAX_REQUEST_BYTES {
            return Err(Error::bad(WHAT, "it is too long"));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(Error::x509("read the certificate request"))?;
        let key = request.public_key;
        if key.algorithm() != &rcgen::PKCS_ED25519 {
            return Err(Error::bad(WHAT, "its key is not Ed25519"));
        }
        let public_key = key.der_bytes().try_into().map_err(|_| Error::bad(WHAT, "its key is malformed"))?;
        let uris = request.params.subject_alt_names.iter().filter_map(|name| match name {
            SanType::URI(uri) => Some(uri.as_str()),
            _ => None,
        });
        let subject = Subject::from_uris(uris).map_err(|source| Error::Refused { what: WHAT, source })?;
        let role = match subject {
            Subject::Cloudlet(node) => Role::Cloudlet(node),
            Subject::Handheld => Role::Handheld,
            _ => return Err(Error::bad(WHAT, "only cloudlets and handhelds may ask")),
        };
        let name = match request.params.distinguished_name.get(&DnType::CommonName) {
            Some(DnValue::Utf8String(name)) => checked_name(name)?.to_owned(),
            _ => return Err(Error::bad(WHAT, "it has no name")),
        };
        Ok(Self { role, name, public_key, key })
    }

    /// Reads a request in PEM or DER.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let pem: Result<CertificateSigningRequestDer<'_>, _> =
            CertificateSigningRequestDer::from_pem_slice(bytes);
        match pem {
            Ok(der) => Self::from_der(&der),
            Err(_) => Self::from_der(bytes),
        }
    }
}

/// A name that can be shown.
pub(super) fn checked_name(name: &str) -> Result<&str, Error> {
    let sound = (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
    if sound {
        Ok(name)
    } else {
        Err(Error::bad(
            "the name",
            format!("1 to {MAX_NAME_BYTES} bytes without control characters are wanted"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 8032, section 7.1, test 1.
    #[test]
    fn the_public_key_is_that_of_the_rfc() {
        let mut seed = [0; 32];
        hex::decode_to_slice("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", &mut seed)
            .unwrap();
        let public = hex::encode(Device::from_seed(seed).unwrap().public_key());
        assert_eq!(public, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    }

    #[test]
    fn a_key_is_made_once_and_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let device = Device::load_or_create(&path).unwrap();
        assert_eq!(Device::load_or_create(&path).unwrap().public_key(), device.public_key());
        assert!(!format!("{device:?}").contains(&hex::encode(device.secret_seed())));
    }

    #[test]
    fn a_request_says_who_asks_and_a_flipped_bit_changes_nothing_in_it() {
        let device = Device::generate().unwrap();
        let node = NodeId::from_bytes([5; 16]);
        let der = device.request(Role::Cloudlet(node), "truck 7").unwrap();
        let request = Request::from_der(&der).unwrap();
        assert_eq!((request.role, &*request.name), (Role::Cloudlet(node), "truck 7"));
        assert_eq!(request.public_key, device.public_key());
        for at in 0..der.len() {
            let mut bad = der.clone();
            bad[at] ^= 1;
            // What lies around the signed part may be read leniently; what is signed may not change.
            if let Ok(read) = Request::from_der(&bad) {
                assert_eq!((read.role, &read.name), (request.role, &request.name), "byte {at}");
                assert_eq!(read.public_key, request.public_key, "byte {at}");
            }
        }
        assert!(device.request(Role::Handheld, "").is_err());
        assert!(device.request(Role::Handheld, "a\nb").is_err());
    }
}
