//! Reading certificates: the fields that webpki does not hand out.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer as _;

use super::names::{Claims, Serial};
use super::refusal::Refusal;

/// Longest certificate that is looked at, bytes. Ours have about 600.
pub const MAX_CERTIFICATE_BYTES: usize = 4096;

/// What a certificate says. Nothing of it is proved yet.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub claims: Claims,
    pub serial: Serial,
    pub not_before_unix_s: u64,
    pub not_after_unix_s: u64,
    pub public_key: [u8; 32],
    /// For people.
    pub name: String,
    /// Whether it may sign certificates, and how many issuers may follow.
    pub issuer: Option<Option<u32>>,
    pub may_sign: bool,
    /// The subject as encoded: what a revocation list names as its issuer.
    pub subject_der: Vec<u8>,
}

/// Reads a certificate. Only version 3 with an Ed25519 key and the names of [`super::names`] is one.
pub(super) fn parse(der: &[u8]) -> Result<Parsed, Refusal> {
    let certificate = read(der)?;
    let uris = uris(&certificate)?;
    let basic = certificate.basic_constraints().map_err(|_| Refusal::Malformed("its basic constraints"))?;
    let usage = certificate.key_usage().map_err(|_| Refusal::Malformed("its key usage"))?;
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(Parsed {
        claims: Claims::from_uris(uris.iter().copied())?,
        serial: serial(certificate.raw_serial())?,
        not_before_unix_s: moment(certificate.validity().not_before.timestamp())?,
        not_after_unix_s: moment(certificate.validity().not_after.timestamp())?,
        public_key: public_key(&certificate)?,
        name: name.unwrap_or_default().to_owned(),
        issuer: basic.filter(|basic| basic.value.ca).map(|basic| basic.value.path_len_constraint),
        may_sign: usage.is_some_and(|usage| usage.value.key_cert_sign()),
        subject_der: certificate.subject().as_raw().to_vec(),
    })
}

fn read(der: &[u8]) -> Result<X509Certificate<'_>, Refusal> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(Refusal::Malformed("it is too long"));
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(Refusal::Malformed("something follows it")),
        Err(_) => Err(Refusal::Malformed("it is no X.509 certificate")),
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, Refusal> {
    let names = certificate.subject_alternative_name();
    let Ok(Some(names)) = names else { return Err(Refusal::Malformed("it has no names")) };
    let uri = |name: &GeneralName<'a>| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    };
    Ok(names.value.general_names.iter().filter_map(uri).collect())
}

/// A serial number of ours: exactly 16 bytes.
pub(super) fn serial(raw: &[u8]) -> Result<Serial, Refusal> {
    raw.try_into().map(Serial).map_err(|_| Refusal::Malformed("its serial number is not one of ours"))
}

fn moment(unix_s: i64) -> Result<u64, Refusal> {
    unix_s.try_into().map_err(|_| Refusal::Malformed("it is from before 1970"))
}

fn public_key(certificate: &X509Certificate<'_>) -> Result<[u8; 32], Refusal> {
    let key = certificate.public_key();
    if key.algorithm.algorithm != OID_SIG_ED25519 {
        return Err(Refusal::Malformed("its key is not Ed25519"));
    }
    (*key.subject_public_key.data).try_into().map_err(|_| Refusal::Malformed("its key has a wrong length"))
}

/// Whether `key` signed this certificate. For issuers only, which webpki takes as parts of a path and not alone.
pub(super) fn is_signed_by(der: &CertificateDer<'_>, key: &[u8; 32]) -> Result<(), Refusal> {
    let certificate = read(der)?;
    let signature = &certificate.signature_value.data;
    is_signature(key, certificate.tbs_certificate.as_ref(), signature)
}

/// Whether this is an Ed25519 signature by `key`.
pub(super) fn is_signature(key: &[u8; 32], message: &[u8], signature: &[u8]) -> Result<(), Refusal> {
    webpki::aws_lc_rs::ED25519
        .verify_signature(key, message, signature)
        .map_err(|_| Refusal::Malformed("its signature is wrong"))
}
