//! Revocations: they merge in any order, strangers cannot add to them, nobody can make them grow without end.

#![cfg(feature = "trust")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use mesh::trust::revocation::{self, MAX_BY_ENROLLER};
use mesh::trust::{CertificateDer, Enroller, Mission, Permissions, Reason, Refusal, Role, Serial, Statement};
use proptest::prelude::*;

mod trust_support;
use trust_support::*;

const NOW: u64 = BEGIN + 2 * HOUR;
const WHY: Reason = Reason::KeyCompromise;

fn serial(number: u16) -> Serial {
    format!("41{number:030x}").parse().unwrap()
}

fn learn(mission: &mut Mission, statements: &[&Statement]) -> mesh::trust::Learned {
    mission.learn(&revocation::encode(statements.iter().copied())).unwrap()
}

#[test]
fn pieces_merge_to_the_same_set_in_any_order() {
    let mut authority = authority();
    let (captain, mission) = enroller(&authority, 1);
    let by = Enroller::new(&captain).unwrap();
    let mut pieces = vec![
        authority.revoke(serial(1), WHY, NOW).unwrap(),
        // Two words on one certificate, as two hands of one authority would say them.
        authority.revoke(serial(2), WHY, NOW).unwrap(),
        authority.revoke(serial(2), Reason::CessationOfOperation, NOW + 9).unwrap(),
        by.revoke(&mission, serial(3), WHY, NOW).unwrap(),
        by.revoke(&mission, serial(4), WHY, NOW).unwrap(),
    ];
    let digest = |pieces: &[Statement]| {
        let mut mission = mission.clone();
        for piece in pieces {
            learn(&mut mission, &[piece]);
        }
        (mission.revoked().len(), mission.revoked().digest())
    };
    let first = digest(&pieces);
    assert_eq!(first.0, 4);
    for _ in 0..pieces.len() {
        pieces.rotate_left(1);
        assert_eq!(digest(&pieces), first);
        let mut reversed = pieces.clone();
        reversed.reverse();
        assert_eq!(digest(&reversed), first);
    }
    // All at once, from the encoded set, and again.
    let mut whole = mission.clone();
    learn(&mut whole, &pieces.iter().collect::<Vec<_>>());
    let encoded = whole.revoked().encode();
    let mut copy = mission.clone();
    assert_eq!(copy.learn(&encoded).unwrap().new, 4);
    assert_eq!(copy.learn(&encoded).unwrap().known, 4);
    assert_eq!(copy.revoked(), whole.revoked());
}

#[test]
fn only_those_who_may_are_heard() {
    let mut authority = authority();
    let mut stranger = trust_support::authority();
    let (captain, mut mission) = enroller(&authority, 1);
    let (plain, _) = enroll(&authority, Role::Cloudlet(node(2)), grant(Permissions::OPERATE));
    let (_, mut learner) = cloudlet(&authority, 3);

    // Another mission's authority, and its enroller.
    let (spy, foreign) = enroller(&stranger, 7);
    let false_words = [
        stranger.revoke(plain.member().serial, WHY, NOW).unwrap(),
        Enroller::new(&spy).unwrap().revoke(&foreign, plain.member().serial, WHY, NOW).unwrap(),
    ];
    let learned = learn(&mut learner, &false_words.iter().collect::<Vec<_>>());
    assert_eq!((learned.new, learned.refused), (0, 2));
    // A member who may not enroll has nothing to revoke with.
    assert!(Enroller::new(&plain).is_none());

    // An enroller's word counts for what it issued, and for nothing else.
    let word = Enroller::new(&captain).unwrap().revoke(&mission, plain.member().serial, WHY, NOW).unwrap();
    assert_eq!(learn(&mut learner, &[&word]).new, 1);
    assert!(learner.verify(plain.chain(), NOW).is_ok());
    let (hand, _) = field_handheld(&captain, &mission);
    let word = Enroller::new(&captain).unwrap().revoke(&mission, hand.member().serial, WHY, NOW).unwrap();
    learn(&mut mission, &[&word]);
    assert_eq!(mission.verify(hand.chain(), NOW), Err(Refusal::Revoked(hand.member().serial)));

    // The authority's counts for what an enroller issued.
    let (other, _) = field_handheld(&captain, &mission);
    let word = authority.revoke(other.member().serial, WHY, NOW).unwrap();
    learn(&mut learner, &[&word]);
    assert!(learner.verify(other.chain(), NOW).is_err());
}

#[test]
fn a_captured_enroller_cannot_fill_the_memory_and_falls_when_it_tries() {
    let authority = authority();
    let (captain, mission) = enroller(&authority, 1);
    let (hand, _) = field_handheld(&captain, &mission);
    let by = Enroller::new(&captain).unwrap();
    let words: Vec<_> = (0..MAX_BY_ENROLLER as u16 + 50)
        .map(|number| by.revoke(&mission, serial(number), WHY, NOW).unwrap())
        .collect();
    let mut one = mission.clone();
    let mut two = mission.clone();
    learn(&mut one, &words.iter().take(MAX_BY_ENROLLER).collect::<Vec<_>>());
    assert!(one.verify(hand.chain(), NOW).is_ok(), "as many as it may");
    learn(&mut one, &words.iter().collect::<Vec<_>>());
    learn(&mut two, &words.iter().rev().collect::<Vec<_>>());
    assert_eq!(one.revoked().len(), MAX_BY_ENROLLER + 1);
    assert_eq!(one.revoked().digest(), two.revoked().digest());
    assert!(matches!(one.verify(hand.chain(), NOW), Err(Refusal::IssuerRevoked(_))));
    assert!(one.verify(captain.chain(), NOW).is_ok(), "its own certificate is the authority's to revoke");
}

#[test]
fn cut_and_flipped_bytes_revoke_nothing() {
    let mut authority = authority();
    let (captain, mission) = enroller(&authority, 1);
    let own = authority.revoke(serial(1), WHY, NOW).unwrap();
    let word = Enroller::new(&captain).unwrap().revoke(&mission, serial(2), WHY, NOW).unwrap();
    let encoded = revocation::encode([&own, &word]);
    for length in 0..encoded.len() {
        let mut learner = mission.clone();
        let _ = learner.learn(&encoded[..length]);
        assert!(learner.revoked().len() <= 1, "cut at {length}");
    }
    for at in 0..encoded.len() {
        let mut bad = encoded.clone();
        bad[at] ^= 0x10;
        let mut learner = mission.clone();
        let _ = learner.learn(&bad);
        assert!(
            learner.revoked().serials().all(|(found, _)| found == serial(1) || found == serial(2)),
            "byte {at} made up a revocation"
        );
    }
}

#[test]
fn the_encoding_is_what_the_module_says() {
    let mut authority = authority();
    let own = authority.revoke(serial(1), WHY, NOW).unwrap();
    let encoded = revocation::encode([&own]);
    assert_eq!(encoded[..2], [1, 1]);
    let length = usize::from(u16::from_be_bytes([encoded[2], encoded[3]]));
    assert_eq!(encoded.len(), 4 + length);
    // What is inside is a list that others can read, too.
    let list = webpki::BorrowedCertRevocationList::from_der(&encoded[4..]).unwrap();
    let list = webpki::CertRevocationList::from(list);
    assert!(list.find_serial(serial(1).as_bytes()).unwrap().is_some());
    assert!(length < 400, "{length}");
}

#[test]
fn the_authority_stops_where_members_stop_reading() {
    let mut authority = authority();
    for number in 0..revocation::MAX_BY_AUTHORITY as u16 {
        authority.revoke(serial(number), WHY, NOW).unwrap();
    }
    assert!(authority.revoke(serial(u16::MAX), WHY, NOW).is_err());
    let encoded = authority.mission().revoked().encode();
    assert!(encoded.len() < revocation::MAX_ENCODED_BYTES, "{}", encoded.len());
    let (_, fresh) = cloudlet(&authority, 1);
    assert_eq!(fresh.revoked().len(), revocation::MAX_BY_AUTHORITY);
}

proptest! {
    #[test]
    fn any_bytes_revoke_nothing_and_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), begin_well: bool) {
        let mut mission = authority().mission().clone();
        if begin_well && bytes.len() > 4 {
            let length = (bytes.len() - 4) as u16;
            bytes[..2].copy_from_slice(&[1, 1]);
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
        }
        let _ = mission.learn(&bytes);
        prop_assert!(mission.revoked().is_empty());
    }

    #[test]
    fn any_bytes_are_no_member_and_never_panic(der in prop::collection::vec(any::<u8>(), 0..600)) {
        let mission = authority().mission().clone();
        let der = CertificateDer::from(der);
        prop_assert!(mission.verify(std::slice::from_ref(&der), NOW).is_err());
        prop_assert!(mission.verify(&[der.clone(), der], NOW).is_err());
    }

    #[test]
    fn scrambled_requests_never_panic(at in 0usize..400, value: u8, cut in 0usize..400) {
        let mut der = mesh::trust::Device::generate().unwrap().request(Role::Cloudlet(node(1)), "truck").unwrap();
        let at = at % der.len();
        der[at] = value;
        let _ = mesh::trust::Request::from_der(&der);
        let _ = mesh::trust::Request::from_bytes(&der[..cut.min(der.len())]);
    }
}
