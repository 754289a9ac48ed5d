//! Making certificates and revocations: what the authority and its enrollers have in common.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::device::{Device, checked_name};
use super::error::Error;
use super::names::{Claims, MissionId, Serial, Subject};
use super::random;

/// A time window, both ends in it. Seconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First second.
    pub not_before_unix_s: u64,
    /// Last second.
    pub not_after_unix_s: u64,
}

impl Window {
    /// Whether all of `inner` is in here.
    pub fn contains(self, inner: Self) -> bool {
        self.not_before_unix_s <= inner.not_before_unix_s
            && inner.not_before_unix_s <= inner.not_after_unix_s
            && inner.not_after_unix_s <= self.not_after_unix_s
    }
}

/// Subject of a certificate: readable for people, and different for every issuer of every mission.
pub(super) fn distinguished_name(
    mission: Option<MissionId>,
    subject: Subject,
    name: &str,
) -> Result<DistinguishedName, Error> {
    let mut full = DistinguishedName::new();
    if let Some(mission) = mission {
        full.push(DnType::OrganizationName, format!("mission {mission}"));
    }
    full.push(DnType::OrganizationalUnitName, subject.role());
    full.push(DnType::CommonName, checked_name(name)?);
    Ok(full)
}

pub(super) fn uris(uris: Vec<String>) -> Result<Vec<SanType>, Error> {
    let uri = |uri: String| uri.try_into().map(SanType::URI);
    uris.into_iter().map(uri).collect::<Result<_, _>>().map_err(Error::x509("make a certificate"))
}

/// Parameters of a certificate with these claims, and its serial.
pub(super) fn params(
    claims: &Claims,
    name: &str,
    window: Window,
) -> Result<(CertificateParams, Serial), Error> {
    let serial = Serial::from_random(random::bytes()?);
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.distinguished_name = distinguished_name(Some(claims.mission), claims.subject, name)?;
    params.subject_alt_names = uris(claims.uris())?;
    params.not_before = moment(window.not_before_unix_s)?;
    params.not_after = moment(window.not_after_unix_s)?;
    params.use_authority_key_identifier_extension = true;
    let (is_ca, usages, purposes) = match claims.subject {
        Subject::Authority => (ca(1), signing(), vec![]),
        // Purposes hold for what it issues as well: nothing below it can be a server.
        Subject::Enroller(_) => (ca(0), signing(), vec![ExtendedKeyUsagePurpose::ClientAuth]),
        Subject::Cloudlet(_) => (
            IsCa::ExplicitNoCa,
            vec![KeyUsagePurpose::DigitalSignature],
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        ),
        Subject::Handheld => (
            IsCa::ExplicitNoCa,
            vec![KeyUsagePurpose::DigitalSignature],
            vec![ExtendedKeyUsagePurpose::ClientAuth],
        ),
    };
    params.is_ca = is_ca;
    params.key_usages = usages;
    params.extended_key_usages = purposes;
    Ok((params, serial))
}

fn ca(path_length: u8) -> IsCa {
    IsCa::Ca(BasicConstraints::Constrained(path_length))
}

fn signing() -> Vec<KeyUsagePurpose> {
    vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]
}

pub(super) fn issuer<'a>(
    certificate: &CertificateDer<'_>,
    device: &'a Device,
) -> Result<Issuer<'static, &'a KeyPair>, Error> {
    Issuer::from_ca_cert_der(certificate, device.key()).map_err(Error::x509("read the issuer's certificate"))
}

/// Why something is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Somebody else may have the key.
    KeyCompromise,
    /// It is no longer used.
    CessationOfOperation,
}

/// A revocation list (RFC 5280, section 5) of a single certificate.
pub(super) fn revocation(
    issuer: &Issuer<'_, &KeyPair>,
    serial: Serial,
    reason: Reason,
    now_unix_s: u64,
    until_unix_s: u64,
) -> Result<Vec<u8>, Error> {
    let now = moment(now_unix_s)?;
    let params = CertificateRevocationListParams {
        this_update: now,
        next_update: moment(until_unix_s)?,
        crl_number: SerialNumber::from(now_unix_s),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.as_bytes()),
            revocation_time: now,
            reason_code: Some(match reason {
                Reason::KeyCompromise => RevocationReason::KeyCompromise,
                Reason::CessationOfOperation => RevocationReason::CessationOfOperation,
            }),
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(issuer).map_err(Error::x509("sign a revocation"))?;
    Ok(list.der().to_vec())
}

fn moment(unix_s: u64) -> Result<OffsetDateTime, Error> {
    let bad = || Error::bad("the time window", format!("{unix_s} s after 1970 is out of range"));
    let moment =
        OffsetDateTime::from_unix_timestamp(unix_s.try_into().map_err(|_| bad())?).map_err(|_| bad())?;
    // X.509 writes four digits.
    if moment.year() > 9999 { Err(bad()) } else { Ok(moment) }
}
