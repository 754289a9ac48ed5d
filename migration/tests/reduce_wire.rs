//! Frames byte by byte, and what becomes of those that nobody should send.

#![allow(clippy::unwrap_used, reason = "tests stop at the first thing that goes wrong")]

use migration::reduce::{Frame, Space, WireError};
use proptest::collection::vec;
use proptest::prelude::*;
use vm_images::Digest;

fn frames() -> impl Strategy<Value = Frame> {
    let space = prop_oneof![Just(Space::Memory), Just(Space::Disk)];
    let bytes = vec(any::<u8>(), 0..200);
    let begin = (space.clone(), 0..=u64::from(u32::MAX), any::<u32>(), vec(any::<[u8; 32]>(), 0..5));
    prop_oneof![
        (begin, any::<prop::sample::Index>()).prop_map(|((space, blocks, have, parts), base)| {
            let base = (!parts.is_empty()).then(|| base.index(parts.len()) as u16);
            let parts = parts.into_iter().map(Digest::from_bytes).collect();
            Frame::Begin { space, blocks, base, have, parts }
        }),
        (space.clone(), any::<u32>(), 0_u32..4_000_000, bytes.clone()).prop_map(
            |(space, first, unpacked_bytes, packed)| Frame::Group { space, first, unpacked_bytes, packed }
        ),
        (prop::option::of(0_u16..9), 0_u32..4_000_000, bytes)
            .prop_map(|(against, unpacked_bytes, packed)| Frame::Device { against, unpacked_bytes, packed }),
        (space, any::<u32>(), any::<[u8; 32]>()).prop_map(|(space, differing, root)| Frame::End {
            space,
            differing,
            root
        }),
    ]
}

fn hex(frame: &Frame) -> String {
    frame.encode().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_have_these_bytes() {
    let (first, second) = (Digest::from_bytes([0xaa; 32]), Digest::from_bytes([0xbb; 32]));
    let parts = vec![first, second];
    let begin = Frame::Begin { space: Space::Memory, blocks: 65_536, base: Some(1), have: 7, parts };
    let listed = "aa".repeat(32) + &"bb".repeat(32);
    assert_eq!(hex(&begin), format!("020052000000000100000100000000000700000001000200{listed}"));
    let none = Frame::Begin { space: Space::Disk, blocks: 1, base: None, have: 0, parts: Vec::new() };
    assert_eq!(hex(&none), "020012000000010001000000000000000000000000000000");
    let group = Frame::Group { space: Space::Disk, first: 258, unpacked_bytes: 3, packed: vec![1, 2, 3, 4] };
    assert_eq!(hex(&group), "02010d00000001020100000300000001020304");
    let device = Frame::Device { against: Some(2), unpacked_bytes: 5, packed: vec![9] };
    assert_eq!(hex(&device), "02020700000002000500000009");
    let alone = Frame::Device { against: None, unpacked_bytes: 5, packed: vec![] };
    assert_eq!(hex(&alone), "020206000000ffff05000000");
    let end = Frame::End { space: Space::Memory, differing: 3, root: [0xcc; 32] };
    assert_eq!(hex(&end), format!("0203250000000003000000{}", "cc".repeat(32)));
    for frame in [begin, none, group, device, alone, end] {
        assert_eq!(frame.bytes(), frame.encode().len());
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }
}

#[test]
fn lengths_over_their_caps_are_refused_before_anything_is_allocated() {
    let refused = |bytes: &[u8]| Frame::decode(bytes).unwrap_err();
    assert!(matches!(refused(&[2, 1, 255, 255, 255, 255]), WireError::TooLong { .. }));
    let group = |length: u32| [&[2, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0][..], &length.to_le_bytes()].concat();
    assert!(Frame::decode(&group(4 << 20)).is_ok());
    assert!(matches!(refused(&group(5 << 20)), WireError::TooLong { .. }));
    let device = |length: u32| [&[2, 2, 6, 0, 0, 0, 0, 0][..], &length.to_le_bytes()].concat();
    assert!(Frame::decode(&device(32 << 20)).is_ok());
    assert!(matches!(refused(&device((32 << 20) + 1)), WireError::TooLong { .. }));
    assert_eq!(refused(&[1, 1, 0, 0, 0, 0]), WireError::Version { found: 1 });
    assert!(matches!(refused(&[2, 4, 0, 0, 0, 0]), WireError::Damaged(_)));
    // It claims a megabyte and brings nothing.
    let mut short = &[2_u8, 1, 0, 0, 16, 0, 7, 7][..];
    assert_eq!(Frame::read(&mut short).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

proptest! {
    #[test]
    fn frames_survive_the_way(sent in vec(frames(), 0..10)) {
        let bytes: Vec<u8> = sent.iter().flat_map(Frame::encode).collect();
        prop_assert_eq!(bytes.len(), sent.iter().map(Frame::bytes).sum::<usize>());
        let mut from = &bytes[..];
        let mut read = Vec::new();
        while let Some(frame) = Frame::read(&mut from).unwrap() {
            read.push(frame);
        }
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn a_cut_frame_is_no_frame(frame in frames(), at in any::<prop::sample::Index>()) {
        let bytes = frame.encode();
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(Frame::decode(cut).is_err());
        if !cut.is_empty() {
            prop_assert!(Frame::read(&mut &cut[..]).is_err());
        }
    }

    #[test]
    fn flipped_bytes_never_panic(frame in frames(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = frame.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Frame::decode(&bytes) {
            prop_assert_ne!(other, frame);
        }
    }
}
