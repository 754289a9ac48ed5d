//! The words of a handoff as bytes: what they are for ever, and what happens with bytes that are not.

use migration::VmId;
use migration::handoff::wire::{Error, MAX_BYTES, MAX_WORDS_BYTES, Word, decode, encode};
use migration::handoff::{Attempt, Grant, Message, Offer, Reason};
use proptest::prelude::*;
use uuid::Uuid;
use vm_images::manifest::Accelerator;
use vm_images::{Digest, Hardware, ImageId};

fn word(message: Message) -> Word {
    Word { vm: VmId(Uuid::from_u128(0x0123_4567_89ab_cdef)), message }
}

fn offer() -> Message {
    Message::Offer {
        attempt: Attempt(1),
        offer: Box::new(Offer {
            epoch: 2,
            image: ImageId(Digest::of(b"image")),
            hardware: Hardware {
                machine: "pc-q35-10.0".to_owned(),
                cpu_model: "Nehalem".to_owned(),
                accelerator: Accelerator::Tcg,
                topology: 1,
                memory_bytes: 256 << 20,
                vcpus: 1,
                command_line: "console=ttyS0".to_owned(),
            },
            disk_bytes: 1_500_000,
            estimate_bytes: 210_000,
        }),
    }
}

fn all() -> Vec<Message> {
    let grant = Grant(7);
    let reasons = [
        Reason::NoAnswer,
        Reason::FrozenTooLong,
        Reason::LeaseOver,
        Reason::Cancelled,
        Reason::Unknown,
        Reason::Busy,
        Reason::Stale { epoch: 9 },
        Reason::Failed("no room: 3 GiB lacking".to_owned()),
    ];
    let mut all = vec![
        offer(),
        Message::Granted { attempt: Attempt(1), grant },
        Message::Final { grant, digest: Digest::of(b"all") },
        Message::Verified { grant },
        Message::Commit { grant },
        Message::Running { grant },
        Message::Superseded { grant },
        Message::Cancel { grant },
        Message::Release { grant },
    ];
    for reason in reasons {
        all.push(Message::Refused { attempt: Attempt(u128::MAX), reason: reason.clone() });
        all.push(Message::Aborted { grant, reason });
    }
    all
}

#[test]
fn every_word_comes_back() {
    for message in all() {
        let word = word(message);
        assert_eq!(decode(&encode(&word).unwrap()).unwrap(), word);
    }
}

/// A change here means that releases do not understand each other: then count the version up.
#[test]
fn the_bytes_are_these() {
    let vm = "00000000000000000123456789abcdef";
    let hex = |message| hex::encode(encode(&word(message)).unwrap());
    let grant = Grant(7);
    let seven = "00000000000000000000000000000007";
    assert_eq!(hex(Message::Commit { grant }), format!("01{vm}05{seven}"));
    assert_eq!(hex(Message::Running { grant }), format!("01{vm}06{seven}"));
    let aborted = Message::Aborted { grant, reason: Reason::Stale { epoch: 9 } };
    assert_eq!(hex(aborted), format!("01{vm}07{seven}0609"));
    let bytes = encode(&word(offer())).unwrap();
    assert_eq!(bytes.len(), 119);
    assert_eq!(
        Digest::of(&bytes).to_string(),
        "c760b154ad15a8bbac46ec215a450c15f8f9aa44edb996e4a8afcd40b0d9277c"
    );
}

#[test]
fn reasons_of_any_length_fit_and_cannot_play_with_terminals() {
    let grant = Grant(7);
    let long = Reason::Failed(format!("{}\u{1b}[2J\n", "ä".repeat(4000)));
    let bytes = encode(&word(Message::Aborted { grant, reason: long })).unwrap();
    let Message::Aborted { reason: Reason::Failed(words), .. } = decode(&bytes).unwrap().message else {
        panic!()
    };
    assert!(words.len() <= MAX_WORDS_BYTES && !words.contains(char::is_control));
}

#[test]
fn bad_frames_have_their_errors() {
    assert!(matches!(decode(&[]), Err(Error::Empty)));
    assert!(matches!(decode(&[9, 1, 2]), Err(Error::Version { got: 9, .. })));
    assert!(matches!(decode(&[1; MAX_BYTES + 1]), Err(Error::TooLong { .. })));
    let mut bytes = encode(&word(Message::Commit { grant: Grant(7) })).unwrap();
    bytes.push(0);
    assert!(matches!(decode(&bytes), Err(Error::Rest(1))));
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn cut_and_flipped_words_never_panic(which in 0..all().len(), cut in 0usize..400, at in 0usize..400, bit in 0u32..8) {
        let mut bytes = encode(&word(all()[which].clone())).unwrap();
        bytes.truncate(cut);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1u8 << bit;
        }
        if let Ok(word) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&word).unwrap()).unwrap(), word);
        }
    }
}
