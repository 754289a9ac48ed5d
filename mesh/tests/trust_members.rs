//! Who is a member and who is not.

#![cfg(feature = "trust")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use mesh::trust::{
    Authority, CLOCK_TOLERANCE_S, CertificateDer, Device, Enroller, Grant, Identity, MAX_IMAGE_SIGNERS,
    Mission, Permissions, Reason, Refusal, Request, Role, Rules, Serial,
};

mod trust_support;
use trust_support::*;

const NOW: u64 = BEGIN + 2 * HOUR;

#[test]
fn members_are_who_the_authority_says_they_are() {
    let authority = authority();
    let (one, mission) = cloudlet(&authority, 1);
    let (other, _) = cloudlet(&authority, 2);
    let member = mission.verify(other.chain(), NOW).unwrap();
    assert_eq!(member.node(), Some(node(2)));
    assert_eq!(member.public_key(), other.device().public_key());
    assert_eq!(member.expires_unix_s, END);
    assert_eq!(mission.verify_server(one.chain(), NOW, Some(node(1))).unwrap().node(), Some(node(1)));

    let (hand, _) = enroll(&authority, Role::Handheld, grant(USE | Permissions::OPERATE));
    let member = mission.verify(hand.chain(), NOW).unwrap();
    assert_eq!((member.role, member.permissions), (Role::Handheld, USE | Permissions::OPERATE));
    assert_eq!(member.may(Permissions::PUSH_PACKAGES), Err(Refusal::Lacks(Permissions::PUSH_PACKAGES)));
    // A handheld cannot pose as a cloudlet, nor one cloudlet as another.
    assert!(mission.verify_server(hand.chain(), NOW, None).is_err());
    assert!(matches!(mission.verify_server(one.chain(), NOW, Some(node(2))), Err(Refusal::WrongPeer(_))));
}

#[test]
fn a_cloudlet_that_may_enroll_lets_handhelds_in_with_the_authority_away() {
    let authority = authority();
    let (captain, mission) = enroller(&authority, 1);
    let (hand, hands_mission) = field_handheld(&captain, &mission);
    drop(authority);
    // A cloudlet that never met either of them.
    let member = mission.verify(hand.chain(), NOW).unwrap();
    assert_eq!((member.role, member.permissions), (Role::Handheld, USE));
    assert!(hands_mission.verify_server(captain.chain(), NOW, Some(node(1))).is_ok());
    assert!(mission.verify_server(hand.chain(), NOW, None).is_err());
}

#[test]
fn requests_for_more_than_the_role_allows_are_not_signed() {
    let authority = authority();
    let request = |role| Request::from_der(&Device::generate().unwrap().request(role, "x").unwrap()).unwrap();
    let hand = request(Role::Handheld);
    let truck = request(Role::Cloudlet(node(1)));
    assert!(authority.enroll(&hand, Grant { may_enroll: Some(USE), ..grant(USE) }).is_err());
    assert!(authority.enroll(&hand, grant(Permissions::ENROLL)).is_err());
    assert!(authority.enroll(&truck, Grant { may_enroll: Some(Permissions::ENROLL), ..grant(USE) }).is_err());
    assert!(authority.enroll(&truck, Grant { not_after_unix_s: Some(END + 1), ..grant(USE) }).is_err());

    let (captain, mission) = enroller(&authority, 1);
    let captain = Enroller::new(&captain).unwrap();
    assert!(captain.enroll(&mission, &truck, USE, NOW, None).is_err());
    assert!(captain.enroll(&mission, &hand, USE | Permissions::OPERATE, NOW, None).is_err());
    assert!(captain.enroll(&mission, &hand, USE, END, None).is_err());
}

/// A captured cloudlet has its enroller's key and signs what our own code would not.
struct Captured {
    authority: Authority,
    captain: Identity,
    device: Device,
}

impl Captured {
    fn new() -> Self {
        let authority = authority();
        let (captain, _) = enroller(&authority, 1);
        Self { authority, captain, device: Device::generate().unwrap() }
    }

    fn sound(&self) -> Forged {
        let allow = "urn:cloudlet:allow:use-services".to_owned();
        let uris = uris(self.authority.mission(), "handheld", &[allow]);
        Forged { uris, window: (BEGIN, END), ca: None, serial: [0x41; 16], server: false }
    }

    fn offer(&self, forged: &Forged) -> Result<(), Refusal> {
        let enroller = self.captain.enroller().unwrap();
        let leaf = forge(forged, &self.device, (enroller, self.captain.device()));
        self.authority.mission().verify(&[leaf, enroller.clone()], NOW).map(drop)
    }
}

#[test]
fn an_enroller_that_exceeds_what_it_may_is_refused() {
    let captured = Captured::new();
    let mission = captured.authority.mission();
    let sound = captured.sound();
    assert_eq!(captured.offer(&sound), Ok(()), "the forger works");

    let of_cloudlet = uris(mission, "cloudlet", &[format!("urn:cloudlet:node:{}", node(9))]);
    let as_cloudlet = Forged { uris: of_cloudlet.clone(), ..sound.clone() };
    assert!(matches!(captured.offer(&as_cloudlet), Err(Refusal::Escalation(_))));
    // With the purpose of servers it does not even get past webpki.
    let as_server = Forged { server: true, ..as_cloudlet };
    let enroller = captured.captain.enroller().unwrap();
    let leaf = forge(&as_server, &captured.device, (enroller, captured.captain.device()));
    let refused = mission.verify_server(&[leaf, enroller.clone()], NOW, None);
    assert!(matches!(refused, Err(Refusal::NotSigned(_))), "{refused:?}");

    for more in ["operate", "push-packages", "enroll"] {
        let mut uris = sound.uris.clone();
        uris.push(format!("urn:cloudlet:allow:{more}"));
        let refused = captured.offer(&Forged { uris, ..sound.clone() });
        assert!(matches!(refused, Err(Refusal::Escalation(_))), "{more}: {refused:?}");
    }
    for window in [(BEGIN - 1, END), (BEGIN, END + 1)] {
        let refused = captured.offer(&Forged { window, ..sound.clone() });
        assert!(matches!(refused, Err(Refusal::Escalation(_))), "{refused:?}");
    }
    let foreign =
        sound.uris.iter().map(|uri| uri.replace(&mission.id().to_string(), &"0".repeat(32))).collect();
    assert!(matches!(
        captured.offer(&Forged { uris: foreign, ..sound.clone() }),
        Err(Refusal::ForeignMission { .. })
    ));
    let short = Forged { uris: sound.uris.clone(), ..sound.clone() };
    assert!(captured.offer(&short).is_ok());
}

#[test]
fn a_member_cannot_issue_and_an_enroller_cannot_make_enrollers() {
    let captured = Captured::new();
    let mission = captured.authority.mission();
    // A plain member signs.
    let leaf =
        forge(&captured.sound(), &captured.device, (&captured.captain.chain()[0], captured.captain.device()));
    let refused = mission.verify(&[leaf, captured.captain.chain()[0].clone()], NOW);
    assert!(matches!(refused, Err(Refusal::NotSigned(_))), "{refused:?}");

    // An enroller under an enroller: too long a chain, and without the middle no path.
    let enroller = captured.captain.enroller().unwrap();
    let more =
        [format!("urn:cloudlet:node:{}", node(1)), format!("urn:cloudlet:companion:{}", "41".repeat(16))];
    let below = Forged { uris: uris(mission, "enroller", &more), ca: Some(0), ..captured.sound() };
    let below = forge(&below, &captured.device, (enroller, captured.captain.device()));
    let leaf = forge(&captured.sound(), &captured.device, (&below, &captured.device));
    let long = [leaf.clone(), below.clone(), enroller.clone()];
    assert!(mission.verify(&long, NOW).is_err());
    assert!(mission.verify(&[leaf, below.clone()], NOW).is_err());
    assert!(mission.verify(&[below, enroller.clone()], NOW).is_err());
    assert!(mission.verify(std::slice::from_ref(enroller), NOW).is_err());
    assert!(mission.verify(&[mission.root().clone()], NOW).is_err());
    assert!(mission.verify(&[], NOW).is_err());
}

#[test]
fn rules_are_the_authoritys_alone() {
    let key = vm_images::SigningKey::from_secret(&[7; 32]).public();
    let rules = Rules { quiet: true, image_signers: [key].into() };
    let authority = Authority::create_with("north ridge", WINDOW, rules.clone()).unwrap();
    // Every member has them, whoever let it in.
    let (captain, mission) = enroller(&authority, 1);
    let (_, hands_mission) = field_handheld(&captain, &mission);
    assert_eq!((mission.rules(), hands_mission.rules()), (&rules, &rules));
    assert_eq!(self::authority().mission().rules(), &Rules::default());

    // A captured enroller writes some of its own into what it issues: nobody takes that for a member any more.
    let captured = Captured::new();
    for rule in ["urn:cloudlet:rule:quiet".to_owned(), format!("urn:cloudlet:images:{key}")] {
        let more = Forged {
            uris: uris(captured.authority.mission(), "handheld", std::slice::from_ref(&rule)),
            ..captured.sound()
        };
        let refused = captured.offer(&more);
        assert!(matches!(refused, Err(Refusal::Escalation(_))), "{rule}: {refused:?}");
    }
    // It hands newcomers an authority's certificate with more in it than the authority signed.
    let root = authority.mission().root();
    let with = hex::encode(key.as_bytes());
    let other = hex::encode(vm_images::SigningKey::from_secret(&[8; 32]).public().as_bytes());
    let at = root.windows(with.len()).position(|bytes| bytes == with.as_bytes()).unwrap();
    let mut changed = root.to_vec();
    changed[at..at + with.len()].copy_from_slice(other.as_bytes());
    assert!(Mission::new(CertificateDer::from(changed), [1; 32]).is_err());
    // And too many keys are no mission.
    let many = (0..=MAX_IMAGE_SIGNERS as u8)
        .map(|seed| vm_images::SigningKey::from_secret(&[seed; 32]).public())
        .collect();
    assert!(Authority::create_with("x", WINDOW, Rules { quiet: false, image_signers: many }).is_err());
}

#[test]
fn strangers_and_other_missions_are_refused() {
    let (ours, theirs) = (authority(), authority());
    let (spy, _) = cloudlet(&theirs, 1);
    let refused = ours.mission().verify(spy.chain(), NOW);
    assert!(matches!(refused, Err(Refusal::ForeignMission { .. })), "{refused:?}");

    // Signed by somebody who calls himself our authority.
    let device = Device::generate().unwrap();
    let forged = Forged {
        uris: uris(ours.mission(), "handheld", &[]),
        window: (BEGIN, END),
        ca: None,
        serial: [0x41; 16],
        server: false,
    };
    let refused = ours.mission().verify(&[self_signed(&forged, &device)], NOW);
    assert!(matches!(refused, Err(Refusal::NotSigned(_))), "{refused:?}");
    let false_authority = forge(&forged, &device, (ours.mission().root(), &device));
    let refused = ours.mission().verify(&[false_authority], NOW);
    assert!(matches!(refused, Err(Refusal::NotSigned(_))), "{refused:?}");
}

#[test]
fn clocks_may_be_wrong_by_the_bound_and_not_more() {
    let authority = authority();
    let (one, mission) = cloudlet(&authority, 1);
    let at = |now| mission.verify(one.chain(), now).map(drop);
    assert_eq!(at(BEGIN - CLOCK_TOLERANCE_S), Ok(()));
    assert_eq!(at(BEGIN - CLOCK_TOLERANCE_S - 1), Err(Refusal::NotYetValid { in_s: CLOCK_TOLERANCE_S + 1 }));
    assert_eq!(at(END + CLOCK_TOLERANCE_S), Ok(()));
    assert_eq!(at(END + CLOCK_TOLERANCE_S + 1), Err(Refusal::Expired { ago_s: CLOCK_TOLERANCE_S + 1 }));
    assert!(at(0).is_err() && at(u64::MAX).is_err());

    let member = mission.verify(one.chain(), END).unwrap();
    assert_eq!(mission.still(&member, END + CLOCK_TOLERANCE_S), Ok(()));
    assert!(matches!(mission.still(&member, END + CLOCK_TOLERANCE_S + 1), Err(Refusal::Expired { .. })));

    // The same through an enroller.
    let (captain, _) = enroller(&authority, 2);
    let (hand, _) = field_handheld(&captain, &mission);
    assert!(mission.verify(hand.chain(), END + CLOCK_TOLERANCE_S).is_ok());
    assert!(mission.verify(hand.chain(), END + CLOCK_TOLERANCE_S + 1).is_err());
    assert!(mission.verify(hand.chain(), BEGIN + HOUR - CLOCK_TOLERANCE_S).is_ok());
    assert!(mission.verify(hand.chain(), BEGIN + HOUR - CLOCK_TOLERANCE_S - 1).is_err());
}

#[test]
fn names_on_the_air_say_nothing_to_strangers_and_the_same_to_all_members() {
    let authority = authority();
    let (_, one) = cloudlet(&authority, 1);
    let (_, two) = cloudlet(&authority, 2);
    assert_eq!(one.topic_name("adverts"), two.topic_name("adverts"));
    assert_ne!(one.topic_name("adverts"), one.service_name("adverts"));
    assert_ne!(one.topic_name("adverts"), trust_support::authority().mission().topic_name("adverts"));
    assert!(!one.topic_name("adverts").contains("adverts"));
}

#[test]
fn a_bundle_for_another_device_is_not_installed() {
    let authority = authority();
    let device = Device::generate().unwrap();
    let request = Request::from_der(&device.request(Role::Handheld, "x").unwrap()).unwrap();
    let bundle = authority.enroll(&request, grant(USE)).unwrap();
    let mission = bundle.mission().unwrap();
    let error = Identity::new(Device::generate().unwrap(), &bundle, &mission).unwrap_err();
    assert!(error.to_string().contains("another device's key"), "{error}");
    assert!(!format!("{bundle:?}").contains(&hex::encode(authority.secret())));
}

#[test]
fn chains_with_flipped_bits_are_never_members() {
    let authority = authority();
    let (captain, mission) = enroller(&authority, 1);
    let (hand, _) = field_handheld(&captain, &mission);
    for part in 0..2 {
        for at in 0..hand.chain()[part].len() {
            let mut chain = hand.chain().to_vec();
            let mut der = chain[part].to_vec();
            der[at] ^= 0x01;
            chain[part] = CertificateDer::from(der);
            assert!(mission.verify(&chain, NOW).is_err(), "part {part}, byte {at}");
        }
    }
}

#[test]
fn the_revoked_are_refused_wherever_the_word_has_come() {
    let mut authority = authority();
    let (captain, mut mission) = enroller(&authority, 1);
    let (hand, _) = field_handheld(&captain, &mission);
    let (other, _) = field_handheld(&captain, &mission);
    let member = mission.verify(hand.chain(), NOW).unwrap();

    let word = Enroller::new(&captain).unwrap();
    let word = word.revoke(&mission, hand.member().serial, Reason::KeyCompromise, NOW).unwrap();
    let word = mesh::trust::revocation::encode([&word]);
    assert_eq!(mission.learn(&word).unwrap().new, 1);
    assert_eq!(mission.learn(&word).unwrap().known, 1);
    assert_eq!(mission.verify(hand.chain(), NOW), Err(Refusal::Revoked(hand.member().serial)));
    assert_eq!(mission.still(&member, NOW), Err(Refusal::Revoked(hand.member().serial)));
    assert!(mission.verify(other.chain(), NOW).is_ok());

    // The cloudlet falls into wrong hands: everything that it issued falls with it.
    let word = authority.revoke(captain.member().serial, Reason::KeyCompromise, NOW).unwrap();
    mission.learn(&mesh::trust::revocation::encode([&word])).unwrap();
    assert_eq!(mission.verify(captain.chain(), NOW), Err(Refusal::Revoked(captain.member().serial)));
    assert!(matches!(mission.verify(other.chain(), NOW), Err(Refusal::IssuerRevoked(_))));
    // The authority's bundles tell newcomers.
    let (_, fresh) = cloudlet(&authority, 5);
    assert!(fresh.verify(captain.chain(), NOW).is_err());
}

#[test]
fn a_device_finds_itself_again_after_a_restart() {
    let mut authority = authority();
    let dir = tempfile::tempdir().unwrap();
    let home = mesh::trust::Home::at(dir.path().join("trust"));
    assert!(home.load().unwrap().is_none());
    let device = home.device().unwrap();
    let request = Request::from_der(&device.request(Role::Cloudlet(node(1)), "truck").unwrap()).unwrap();
    let trust = home.join(&authority.enroll(&request, grant(USE)).unwrap()).unwrap();
    let (spy, _) = cloudlet(&authority, 2);
    let word = authority.revoke(spy.member().serial, Reason::KeyCompromise, NOW).unwrap();
    trust.learn_one(&word).unwrap();
    home.keep_revocations(&trust).unwrap();
    drop(trust);
    let again = home.load().unwrap().unwrap();
    assert_eq!(again.identity().member().node(), Some(node(1)));
    assert_eq!(again.verify(spy.chain(), NOW), Err(Refusal::Revoked(spy.member().serial)));
    for secret in ["device.key", "bundle.json"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(home.path().join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
}

#[test]
fn a_serial_is_what_people_type() {
    let serial: Serial = "41".repeat(16).parse().unwrap();
    assert_eq!(serial.to_string(), "41".repeat(16));
    assert!("4".parse::<Serial>().is_err());
}

#[test]
fn certificates_are_small_enough_for_slow_links() {
    let mut authority = authority();
    let (captain, mission) = enroller(&authority, 1);
    let (hand, _) = field_handheld(&captain, &mission);
    let word = authority.revoke(hand.member().serial, Reason::KeyCompromise, NOW).unwrap();
    let bytes = |chain: &[CertificateDer<'_>]| chain.iter().map(|one| one.len()).sum::<usize>();
    let sizes = [bytes(captain.chain()), bytes(hand.chain()), mesh::trust::revocation::encode([&word]).len()];
    println!("cloudlet's chain, field handheld's chain, revocation: {sizes:?} bytes");
    assert!(sizes[0] < 800 && sizes[1] < 1500 && sizes[2] < 400, "{sizes:?}");
}
