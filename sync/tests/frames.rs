//! The frames: golden bytes, round trips, and that no bytes make the reader panic.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::{histories, key, node, revisions};
use proptest::prelude::*;
use sync::wire::{self, Error, Frame, MAX_FRAME_BYTES};
use sync::{Body, ContentId, Priority, Revision, Version};

fn report() -> Revision {
    Revision {
        key: key("reports/a"),
        version: Version::from_counts([(node(1), 2), (node(2), 300)]),
        written: Duration::new(65, 7),
        author: node(2),
        body: Body::Content { id: ContentId::from_bytes([0xcc; 32]), bytes: 70_000 },
        priority: Priority::Immediate,
        deadline: Some(Duration::from_secs(600)),
    }
}

/// One of each, with the bytes of release 0.1. If this test fails, peers of other releases cannot read us:
/// raise `wire::VERSION`, or put the old order of fields back.
#[test]
fn golden_bytes() {
    let (one, two, content) = ("01".repeat(16), "02".repeat(16), "cc".repeat(32));
    let cases = [
        (Frame::Since(300), "0100fb2c01".to_owned()),
        (
            Frame::Revisions { up_to: 9, revisions: vec![report()] },
            format!(
                "01010901097265706f7274732f6102{one}02{two}fb2c01\
                 4107{two}01{content}fc7011010002\
                 01fb580200"
            ),
        ),
        (Frame::Want(vec![(ContentId::from_bytes([0xcc; 32]), 5)]), format!("010201{content}05")),
        (
            Frame::Piece { content: ContentId::from_bytes([0xcc; 32]), offset: 5, bytes: vec![1, 2, 3] },
            format!("0103{content}0503010203"),
        ),
    ];
    for (frame, expected) in cases {
        let bytes = wire::encode(&frame).unwrap();
        assert_eq!(hex::encode(&bytes), expected, "{frame:?}");
        assert_eq!(wire::decode(&bytes).unwrap(), frame);
    }
}

#[test]
fn impossible_frames_are_refused_with_a_reason() {
    let refuse = |frame: &Frame, damage: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = wire::encode(frame).unwrap();
        damage(&mut bytes);
        wire::decode(&bytes).unwrap_err()
    };
    let since = Frame::Since(1);
    assert!(matches!(refuse(&since, &|bytes| bytes.clear()), Error::Empty));
    assert!(matches!(refuse(&since, &|bytes| bytes[0] = 2), Error::Version { found: 2 }));
    assert!(matches!(refuse(&since, &|bytes| bytes.push(0)), Error::Trailing(1)));
    assert!(matches!(refuse(&since, &|bytes| bytes[1] = 77), Error::Decode(_)));

    let told = |change: &dyn Fn(&mut Revision)| {
        let mut revision = report();
        change(&mut revision);
        let bytes = wire::encode(&Frame::Revisions { up_to: 1, revisions: vec![revision] }).unwrap();
        wire::decode(&bytes).unwrap_err().to_string()
    };
    assert!(told(&|revision| revision.author = node(3)).contains("lacks its author's change"));
    // The two nodes of its version in the wrong order: another form of the same version, which nobody may write.
    let bytes = wire::encode(&Frame::Revisions { up_to: 9, revisions: vec![report()] }).unwrap();
    let (one, two) = ("01".repeat(16), "02".repeat(16));
    let swapped = hex::encode(bytes).replace(&format!("{one}02{two}fb2c01"), &format!("{two}fb2c01{one}02"));
    let error = wire::decode(&hex::decode(swapped).unwrap()).unwrap_err().to_string();
    assert!(error.contains("not in canonical form"), "{error}");
    let more = Version::from_counts((0..257_u16).map(|n| {
        let mut id = [9; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        (mesh::NodeId::from_bytes(id), 1)
    }));
    assert!(told(&move |revision| revision.version = more.clone()).contains("257 is over the limit of 256"));
}

#[test]
fn frames_over_a_cap_are_not_written_and_not_read() {
    let content = ContentId::of(b"");
    let piece = Frame::Piece { content, offset: 0, bytes: vec![0; wire::MAX_PIECE_BYTES + 1] };
    assert!(matches!(wire::encode(&piece), Err(Error::TooLarge { .. })));
    assert!(matches!(wire::encode(&Frame::Want(vec![(content, 0); 1025])), Err(Error::TooLarge { .. })));
    assert!(matches!(wire::decode(&vec![1; MAX_FRAME_BYTES + 1]), Err(Error::TooLarge { .. })));
    // A list that claims 2^60 items in ten bytes.
    let hostile = hex::decode("0102fd0000000000000010").unwrap();
    assert!(matches!(wire::decode(&hostile), Err(Error::Decode(_))));
}

proptest! {
    #[test]
    fn revisions_round_trip(history in histories(8), up_to: u64) {
        let frame = Frame::Revisions { up_to, revisions: revisions(&history) };
        prop_assert_eq!(wire::decode(&wire::encode(&frame).unwrap()).unwrap(), frame);
    }

    #[test]
    fn cut_frames_are_refused_and_flipped_ones_never_panic(history in histories(3), at: prop::sample::Index, bit in 0_u8..8) {
        let bytes = wire::encode(&Frame::Revisions { up_to: 3, revisions: revisions(&history) }).unwrap();
        let at = at.index(bytes.len());
        prop_assert!(wire::decode(&bytes[..at]).is_err());
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        // Whatever is still read is well-formed: it can be written again, byte for byte.
        if let Ok(frame) = wire::decode(&flipped) {
            prop_assert!(wire::encode(&frame).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = wire::decode(&bytes);
        let mut versioned = vec![wire::VERSION];
        versioned.extend(bytes);
        let _ = wire::decode(&versioned);
    }
}
