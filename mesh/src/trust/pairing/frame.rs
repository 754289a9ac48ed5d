//! The frames; see the module above for what they are for.

use super::{Failure, VERSION};

/// A SPAKE2 message of the crate `spake2`: one byte for the side, 32 for the element.
pub(super) const ELEMENT_BYTES: usize = 33;
/// A confirmation.
pub(super) const TAG_BYTES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Hello([u8; ELEMENT_BYTES]),
    Answer([u8; ELEMENT_BYTES]),
    Request { tag: [u8; TAG_BYTES], sealed: Vec<u8> },
    Grant { tag: [u8; TAG_BYTES], sealed: Vec<u8> },
    Refused(Failure),
}

impl Frame {
    pub fn encode(&self) -> Vec<u8> {
        let (kind, parts): (u8, [&[u8]; 2]) = match self {
            Self::Hello(element) => (1, [element, &[]]),
            Self::Answer(element) => (2, [element, &[]]),
            Self::Request { tag, sealed } => (3, [tag, sealed]),
            Self::Grant { tag, sealed } => (4, [tag, sealed]),
            Self::Refused(failure) => (5, [&[failure.number()], &[]]),
        };
        [&[VERSION, kind], parts[0], parts[1]].concat()
    }

    /// Reads a frame whose length the caller has capped.
    pub fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        let (&[version, kind], body) = bytes.split_first_chunk().ok_or(Failure::Malformed)?;
        if version != VERSION {
            return Err(Failure::Malformed);
        }
        let element = || body.try_into().map_err(|_| Failure::Malformed);
        let tagged = || body.split_first_chunk().ok_or(Failure::Malformed);
        match kind {
            1 => Ok(Self::Hello(element()?)),
            2 => Ok(Self::Answer(element()?)),
            3 => tagged().map(|(tag, sealed)| Self::Request { tag: *tag, sealed: sealed.to_vec() }),
            4 => tagged().map(|(tag, sealed)| Self::Grant { tag: *tag, sealed: sealed.to_vec() }),
            5 => match body {
                [number] => Ok(Self::Refused(Failure::of(*number))),
                _ => Err(Failure::Malformed),
            },
            _ => Err(Failure::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_version_1_never_change() {
        assert_eq!(hex::encode(Frame::Hello([7; 33]).encode()), format!("0101{}", "07".repeat(33)));
        assert_eq!(hex::encode(Frame::Answer([8; 33]).encode()), format!("0102{}", "08".repeat(33)));
        let request = Frame::Request { tag: [9; 32], sealed: vec![1, 2] };
        assert_eq!(hex::encode(request.encode()), format!("0103{}0102", "09".repeat(32)));
        let grant = Frame::Grant { tag: [9; 32], sealed: vec![3] };
        assert_eq!(hex::encode(grant.encode()), format!("0104{}03", "09".repeat(32)));
        assert_eq!(hex::encode(Failure::Locked.frame()), "010503");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_a_frame_that_encodes_to_them(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(frame) = Frame::decode(&bytes) {
                // Unknown reasons are read as "malformed"; everything else is kept as it came.
                prop_assert!(matches!(frame, Frame::Refused(_)) || frame.encode() == bytes);
            }
        }

        #[test]
        fn so_are_bytes_that_begin_well(kind in 0u8..8, body in prop::collection::vec(any::<u8>(), 0..100)) {
            let bytes = [&[VERSION, kind][..], &body].concat();
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert!(matches!(frame, Frame::Refused(_)) || frame.encode() == bytes);
            }
        }
    }
}
