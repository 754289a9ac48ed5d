//! A mission with some members, and a forger who signs whatever is asked.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use mesh::NodeId;
use mesh::trust::{
    Authority, Bundle, CertificateDer, Device, Enroller, Grant, Identity, Mission, Permissions, Request,
    Role, Trust, Window,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

/// Begin of every mission here: 2026-11-23 12:00 UTC.
pub const BEGIN: u64 = 1_795_435_200;
pub const HOUR: u64 = 3600;
pub const END: u64 = BEGIN + 72 * HOUR;
pub const WINDOW: Window = Window { not_before_unix_s: BEGIN, not_after_unix_s: END };
pub const USE: Permissions = Permissions::USE_SERVICES;

pub fn authority() -> Authority {
    Authority::create("north ridge", WINDOW).unwrap()
}

pub fn node(byte: u8) -> NodeId {
    NodeId::from_bytes([byte; 16])
}

pub fn grant(permissions: Permissions) -> Grant {
    Grant { permissions, may_enroll: None, not_after_unix_s: None }
}

/// Enrolls a new device and gives its identity in the mission.
pub fn enroll(authority: &Authority, role: Role, grant: Grant) -> (Identity, Mission) {
    let device = Device::generate().unwrap();
    let request = Request::from_der(&device.request(role, "somebody").unwrap()).unwrap();
    install(device, &authority.enroll(&request, grant).unwrap())
}

pub fn install(device: Device, bundle: &Bundle) -> (Identity, Mission) {
    let bundle = Bundle::from_json(bundle.to_json().unwrap().as_bytes()).unwrap();
    let mission = bundle.mission().unwrap();
    (Identity::new(device, &bundle, &mission).unwrap(), mission)
}

pub fn cloudlet(authority: &Authority, byte: u8) -> (Identity, Mission) {
    enroll(authority, Role::Cloudlet(node(byte)), grant(Permissions::NONE))
}

/// A cloudlet that may enroll handhelds that use services.
pub fn enroller(authority: &Authority, byte: u8) -> (Identity, Mission) {
    let grant = Grant { may_enroll: Some(USE), ..grant(USE) };
    enroll(authority, Role::Cloudlet(node(byte)), grant)
}

/// A handheld that a cloudlet enrolled.
pub fn field_handheld(by: &Identity, mission: &Mission) -> (Identity, Mission) {
    let device = Device::generate().unwrap();
    let request = Request::from_der(&device.request(Role::Handheld, "hand").unwrap()).unwrap();
    let bundle = Enroller::new(by).unwrap().enroll(mission, &request, USE, BEGIN + HOUR, None).unwrap();
    install(device, &bundle)
}

pub fn trust((identity, mission): (Identity, Mission)) -> Trust {
    Trust::new(identity, mission)
}

/// What a forged certificate says.
#[derive(Clone)]
pub struct Forged {
    pub uris: Vec<String>,
    pub window: (u64, u64),
    pub ca: Option<u8>,
    pub serial: [u8; 16],
    pub server: bool,
}

pub fn uris(mission: &Mission, role: &str, more: &[String]) -> Vec<String> {
    let mut uris =
        vec![format!("urn:cloudlet:mission:{}", mission.id()), format!("urn:cloudlet:role:{role}")];
    uris.extend_from_slice(more);
    uris
}

/// Signs a certificate for `public` with the key and certificate of `issuer`: what somebody does who has that key.
pub fn forge(
    forged: &Forged,
    public: &Device,
    issuer: (&CertificateDer<'_>, &Device),
) -> CertificateDer<'static> {
    let key = key(issuer.1);
    let issuer = Issuer::from_ca_cert_der(issuer.0, &key).unwrap();
    params(forged).signed_by(&self::key(public), &issuer).unwrap().der().clone()
}

pub fn self_signed(forged: &Forged, device: &Device) -> CertificateDer<'static> {
    params(forged).self_signed(&key(device)).unwrap().der().clone()
}

fn params(forged: &Forged) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("forged {}", hex::encode(forged.serial)));
    params.serial_number = Some(SerialNumber::from_slice(&forged.serial));
    params.subject_alt_names =
        forged.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())).collect();
    let moment = |unix_s: u64| OffsetDateTime::from_unix_timestamp(unix_s as i64).unwrap();
    params.not_before = moment(forged.window.0);
    params.not_after = moment(forged.window.1);
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if forged.server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    match forged.ca {
        Some(length) => {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        None => params.is_ca = IsCa::ExplicitNoCa,
    }
    params
}

fn key(device: &Device) -> KeyPair {
    let mut pkcs8 = hex::decode("302e020100300506032b657004220420").unwrap();
    pkcs8.extend_from_slice(device.secret_seed());
    KeyPair::try_from(pkcs8).unwrap()
}
