//! TLS between members, in memory: who gets through and who does not.

#![cfg(feature = "trust")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::sync::Arc;

use mesh::trust::{CertificateDer, Device, Permissions, Reason, Refusal, Role, Trust, revocation, tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, ServerConnection, SignatureScheme,
};

mod trust_support;
use trust_support::*;

/// A clock that stands.
#[derive(Debug)]
struct Clock(u64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0)))
    }
}

const NOW: u64 = BEGIN + 2 * HOUR;

fn server(trust: &Trust, now: u64) -> ServerConnection {
    let mut config = tls::server(trust).unwrap();
    config.time_provider = Arc::new(Clock(now));
    ServerConnection::new(Arc::new(config)).unwrap()
}

fn client(trust: &Trust, expected: Option<mesh::NodeId>, now: u64) -> ClientConnection {
    let mut config = tls::client(trust, expected).unwrap();
    config.time_provider = Arc::new(Clock(now));
    connect(config)
}

fn connect(config: ClientConfig) -> ClientConnection {
    ClientConnection::new(Arc::new(config), ServerName::try_from("10.0.0.1").unwrap()).unwrap()
}

/// Lets both talk until nobody has anything to say; the first error of each side.
fn talk(
    client: ClientConnection,
    server: ServerConnection,
) -> (Option<rustls::Error>, Option<rustls::Error>) {
    let (mut client, mut server) = (Connection::from(client), Connection::from(server));
    let mut errors = (None, None);
    loop {
        let sent =
            pass(&mut client, &mut server, &mut errors.1) + pass(&mut server, &mut client, &mut errors.0);
        if sent == 0 {
            break;
        }
    }
    if errors == (None, None) {
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
    errors
}

fn pass(from: &mut Connection, to: &mut Connection, error: &mut Option<rustls::Error>) -> usize {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        if let Err(found) = to.process_new_packets() {
            error.get_or_insert(found);
            break;
        }
    }
    bytes.len()
}

fn refusal(error: &Option<rustls::Error>) -> &Refusal {
    tls::refusal(error.as_ref().unwrap()).unwrap()
}

struct World {
    cloudlet: Trust,
    hand: Trust,
    authority: mesh::trust::Authority,
}

fn world() -> World {
    let authority = authority();
    let captain = enroller(&authority, 1);
    let hand = trust(field_handheld(&captain.0, &captain.1));
    World { cloudlet: trust(captain), hand, authority }
}

#[test]
fn members_talk() {
    let World { cloudlet, hand, authority } = world();
    assert_eq!(talk(client(&hand, None, NOW), server(&cloudlet, NOW)), (None, None));
    assert_eq!(talk(client(&hand, Some(node(1)), NOW), server(&cloudlet, NOW)), (None, None));
    let other = trust(enroll(&authority, Role::Cloudlet(node(2)), grant(Permissions::NONE)));
    assert_eq!(talk(client(&other, Some(node(1)), NOW), server(&cloudlet, NOW)), (None, None));
    // The wrong cloudlet answers, or a handheld plays one.
    let (refused, _) = talk(client(&hand, Some(node(2)), NOW), server(&cloudlet, NOW));
    assert!(matches!(refusal(&refused), Refusal::WrongPeer(_)));
    let (refused, _) = talk(client(&cloudlet, None, NOW), server(&hand, NOW));
    assert!(matches!(refusal(&refused), Refusal::NotSigned(_)), "{refused:?}");
}

#[test]
fn the_revoked_and_the_expired_are_shut_out_at_once() {
    let World { cloudlet, hand, mut authority } = world();
    let server_config = Arc::new({
        let mut config = tls::server(&cloudlet).unwrap();
        config.time_provider = Arc::new(Clock(NOW));
        config
    });
    let mut config = tls::client(&hand, None).unwrap();
    config.time_provider = Arc::new(Clock(NOW));
    let config = Arc::new(config);
    let attempt = || {
        let name = ServerName::try_from("10.0.0.1").unwrap();
        let client = ClientConnection::new(config.clone(), name).unwrap();
        talk(client, ServerConnection::new(server_config.clone()).unwrap())
    };
    assert_eq!(attempt(), (None, None));
    // The same configurations on both sides, so whatever could be resumed would be.
    let word = authority.revoke(hand.identity().member().serial, Reason::KeyCompromise, NOW).unwrap();
    cloudlet.learn(&revocation::encode([&word])).unwrap();
    let (_, refused) = attempt();
    assert!(matches!(refusal(&refused), Refusal::Revoked(_)), "{refused:?}");

    let late = END + mesh::trust::CLOCK_TOLERANCE_S + 1;
    let World { cloudlet, hand, .. } = world();
    let (refused, _) = talk(client(&hand, None, late), server(&cloudlet, NOW));
    assert!(matches!(refusal(&refused), Refusal::Expired { .. }));
    let (_, refused) = talk(client(&hand, None, NOW), server(&cloudlet, late));
    assert!(matches!(refusal(&refused), Refusal::Expired { .. }));
}

/// Believes any server: for peers that play without the rules.
#[derive(Debug)]
struct Believer;

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn lawless(certificate: Option<(Vec<CertificateDer<'static>>, &Device)>) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer));
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some((chain, device)) => {
            let mut key = hex::decode("302e020100300506032b657004220420").unwrap();
            key.extend_from_slice(device.secret_seed());
            let key =
                rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(key)).unwrap();
            // Not checked whether they belong together.
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))))
        }
    };
    connect(config)
}

#[test]
fn a_stranger_gets_nothing() {
    let World { cloudlet, hand, authority } = world();
    let (_, refused) = talk(lawless(None), server(&cloudlet, NOW));
    assert_eq!(refused, Some(rustls::Error::NoCertificatesPresented));

    let device = Device::generate().unwrap();
    let forged = Forged {
        uris: uris(authority.mission(), "handheld", &["urn:cloudlet:allow:operate".to_owned()]),
        window: (BEGIN, END),
        ca: None,
        serial: [0x41; 16],
        server: false,
    };
    let own = self_signed(&forged, &device);
    let (_, refused) = talk(lawless(Some((vec![own], &device))), server(&cloudlet, NOW));
    assert!(matches!(refusal(&refused), Refusal::NotSigned(_)), "{refused:?}");

    // A member's certificate, overheard or copied, without the member's key.
    let chain = hand.identity().chain().to_vec();
    let (_, refused) = talk(lawless(Some((chain, &device))), server(&cloudlet, NOW));
    assert!(refused.is_some());

    // Another mission.
    let theirs = trust_support::authority();
    let spy = trust(trust_support::cloudlet(&theirs, 1));
    let (_, refused) = talk(
        lawless(Some((spy.identity().chain().to_vec(), spy.identity().device()))),
        server(&cloudlet, NOW),
    );
    assert!(matches!(refusal(&refused), Refusal::ForeignMission { .. }));
    let (refused, _) = talk(client(&hand, None, NOW), server(&spy, NOW));
    assert!(matches!(refusal(&refused), Refusal::ForeignMission { .. }));
}
