//! Pairing with a short code, and what a stranger in between can do to it.

#![cfg(feature = "trust")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::time::Duration;

use mesh::trust::pairing::{
    Asked, Cloudlet, Code, Failure, Handheld, Invitation, LIFETIME, MAX_WRONG_TRIES, State,
};
use mesh::trust::{Bundle, Device, Enroller, Request, Role};
use proptest::prelude::*;

mod trust_support;
use trust_support::*;

const NOW: Duration = Duration::from_secs(1000);

fn code(text: &str) -> Code {
    text.parse().unwrap()
}

fn shown() -> Cloudlet {
    Cloudlet::show(code("12345678"), NOW)
}

/// Runs the protocol until the cloudlet has decided.
fn ask(cloudlet: &mut Cloudlet, typed: &str, connection: u64) -> Result<Asked, Failure> {
    let (handheld, hello) = Handheld::begin(&code(typed)).unwrap();
    let answer = cloudlet.hello(NOW, connection, &hello)?;
    let (_, request) = handheld.request(&answer, b"request")?;
    cloudlet.request(NOW, connection, &request)
}

#[test]
fn a_handheld_with_the_code_becomes_a_member() {
    let authority = authority();
    let (captain, mission) = enroller(&authority, 1);
    let captain = Enroller::new(&captain).unwrap();
    let device = Device::generate().unwrap();
    let mut cloudlet = shown();

    let (handheld, hello) = Handheld::begin(&code("1234 5678")).unwrap();
    let answer = cloudlet.hello(NOW, 1, &hello).unwrap();
    let request = device.request(Role::Handheld, "hand 3").unwrap();
    let (waiting, frame) = handheld.request(&answer, &request).unwrap();
    assert!(!frame.windows(6).any(|part| part == b"hand 3"), "the request travels sealed");
    let asked = cloudlet.request(NOW, 1, &frame).unwrap();
    assert_eq!(asked.request, request);

    let request = Request::from_der(&asked.request).unwrap();
    let bundle = captain.enroll(&mission, &request, USE, BEGIN + HOUR, None).unwrap();
    let grant = asked.grant(bundle.to_json().unwrap().as_bytes()).unwrap();
    let bundle = Bundle::from_json(&waiting.bundle(&grant).unwrap()).unwrap();
    let invitation = Invitation::new("10.0.0.1:1".parse().unwrap(), code("12345678"), captain.certificate());
    assert!(invitation.fits(&bundle));
    let (identity, _) = install(device, &bundle);
    assert!(mission.verify(identity.chain(), BEGIN + HOUR).is_ok());

    // Another cloudlet of the same mission did not invite.
    let (other, _) = enroller(&authority, 2);
    let elsewhere =
        Invitation::new("10.0.0.1:1".parse().unwrap(), code("12345678"), other.enroller().unwrap());
    assert!(!elsewhere.fits(&bundle));
}

#[test]
fn a_code_is_good_once() {
    let mut cloudlet = shown();
    assert!(ask(&mut cloudlet, "12345678", 1).is_ok());
    assert_eq!(cloudlet.state(NOW), State::Used);
    assert_eq!(ask(&mut cloudlet, "12345678", 2).err(), Some(Failure::Used));
}

#[test]
fn of_two_handhelds_at_once_one_gets_in() {
    let mut cloudlet = shown();
    let begin = |cloudlet: &mut Cloudlet, connection| {
        let (handheld, hello) = Handheld::begin(&code("12345678")).unwrap();
        let answer = cloudlet.hello(NOW, connection, &hello).unwrap();
        handheld.request(&answer, b"request").unwrap().1
    };
    let (first, second) = (begin(&mut cloudlet, 1), begin(&mut cloudlet, 2));
    assert!(cloudlet.request(NOW, 2, &second).is_ok());
    assert!(cloudlet.request(NOW, 1, &first).is_err());
}

#[test]
fn wrong_tries_lock_the_code_and_the_right_one_no_longer_helps() {
    let mut cloudlet = shown();
    for connection in 0..u64::from(MAX_WRONG_TRIES) {
        assert_eq!(ask(&mut cloudlet, "87654321", connection).err(), Some(Failure::WrongCode));
    }
    assert_eq!(cloudlet.state(NOW), State::Locked);
    assert_eq!(ask(&mut cloudlet, "12345678", 9).err(), Some(Failure::Locked));
}

#[test]
fn many_runs_begun_at_once_give_no_more_tries() {
    let mut cloudlet = shown();
    let frames: Vec<_> = (0..20)
        .map(|connection| {
            let (handheld, hello) = Handheld::begin(&code(&format!("{connection:08}"))).unwrap();
            let answer = cloudlet.hello(NOW, connection, &hello).unwrap();
            (connection, handheld.request(&answer, b"request").unwrap().1)
        })
        .collect();
    let failures: Vec<_> = frames
        .iter()
        .map(|(connection, frame)| cloudlet.request(NOW, *connection, frame).err().unwrap())
        .collect();
    let tries = failures.iter().filter(|failure| **failure == Failure::WrongCode).count();
    assert_eq!(tries, MAX_WRONG_TRIES as usize);
    assert!(failures[tries..].iter().all(|failure| *failure == Failure::Locked));
}

#[test]
fn who_only_begins_runs_locks_the_code_in_the_end() {
    let mut cloudlet = shown();
    let hello = Handheld::begin(&code("00000000")).unwrap().1;
    let refused = (0..1000).find_map(|connection| {
        let answered = cloudlet.hello(NOW, connection, &hello);
        cloudlet.lost(connection);
        answered.err()
    });
    assert_eq!(refused, Some(Failure::Locked));
}

#[test]
fn a_code_expires_also_in_the_middle_of_a_run() {
    let mut cloudlet = shown();
    let (handheld, hello) = Handheld::begin(&code("12345678")).unwrap();
    let late = NOW + LIFETIME;
    let answer = cloudlet.hello(late - Duration::from_millis(1), 1, &hello).unwrap();
    let (_, request) = handheld.request(&answer, b"request").unwrap();
    assert_eq!(cloudlet.request(late, 1, &request).err(), Some(Failure::Expired));
    assert_eq!(cloudlet.hello(late, 2, &hello).err(), Some(Failure::Expired));
}

/// Somebody in between runs the protocol with both sides, with a code that he guessed.
#[test]
fn a_man_in_the_middle_with_a_wrong_code_gets_nothing() {
    let mut cloudlet = shown();
    let (handheld, hello) = Handheld::begin(&code("12345678")).unwrap();
    // Towards the handheld he is a cloudlet, towards the cloudlet a handheld.
    let mut false_cloudlet = Cloudlet::show(code("11111111"), NOW);
    let answer = false_cloudlet.hello(NOW, 1, &hello).unwrap();
    let (waiting, request) = handheld.request(&answer, b"request").unwrap();
    assert_eq!(false_cloudlet.request(NOW, 1, &request).err(), Some(Failure::WrongCode));

    assert_eq!(ask(&mut cloudlet, "11111111", 1).err(), Some(Failure::WrongCode));
    assert_eq!(cloudlet.request(NOW, 7, &request).err(), Some(Failure::Malformed), "a frame of another run");

    // And whatever he makes up as a grant is not believed.
    let mut own = Cloudlet::show(code("11111111"), NOW);
    let grant = ask(&mut own, "11111111", 1).unwrap().grant(b"{}").unwrap();
    assert_eq!(waiting.bundle(&grant).err(), Some(Failure::WrongCode));
}

#[test]
fn a_man_in_the_middle_who_changes_frames_breaks_the_run_and_nothing_else() {
    for (frame_number, at) in [(0, 5), (0, 34), (1, 3), (1, 34), (2, 2), (2, 40), (3, 2), (3, 40)] {
        let flip = |number, mut frame: Vec<u8>| {
            if number == frame_number {
                let at = at.min(frame.len() - 1);
                frame[at] ^= 1;
            }
            frame
        };
        let mut cloudlet = shown();
        let run = || -> Result<Vec<u8>, Failure> {
            let (handheld, hello) = Handheld::begin(&code("12345678"))?;
            let answer = cloudlet.hello(NOW, 1, &flip(0, hello))?;
            let (waiting, request) = handheld.request(&flip(1, answer), b"request")?;
            let grant = cloudlet.request(NOW, 1, &flip(2, request))?.grant(b"bundle")?;
            waiting.bundle(&flip(3, grant))
        };
        let mut run = run;
        assert!(run().is_err(), "frame {frame_number}, byte {at}");
    }
}

#[test]
fn a_frame_cannot_be_sent_back_to_where_it_came_from() {
    let mut cloudlet = shown();
    let (handheld, hello) = Handheld::begin(&code("12345678")).unwrap();
    let answer = cloudlet.hello(NOW, 1, &hello).unwrap();
    let (waiting, request) = handheld.request(&answer, b"request").unwrap();
    let mut reflected = request;
    reflected[1] = 4;
    assert_eq!(waiting.bundle(&reflected).err(), Some(Failure::WrongCode));
    // The handheld's own element is no answer.
    let (handheld, mut hello) = Handheld::begin(&code("12345678")).unwrap();
    hello[1] = 2;
    assert!(handheld.request(&hello, b"request").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_comes_is_refused_and_never_panics(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..4)) {
        let mut cloudlet = shown();
        for (connection, frame) in frames.iter().enumerate() {
            let _ = cloudlet.hello(NOW, connection as u64, frame);
            prop_assert!(cloudlet.request(NOW, connection as u64, frame).is_err());
            let (handheld, _) = Handheld::begin(&code("12345678")).unwrap();
            prop_assert!(handheld.request(frame, b"request").is_err() || frame.starts_with(&[1, 2]));
        }
    }

    #[test]
    fn bundles_from_outside_never_panic(json in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Bundle::from_json(&json).is_err());
    }
}
