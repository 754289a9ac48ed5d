//! Long frames are compressed.
//!
//! What nodes say of each other is alike: certificates of one mission differ in a third of their bytes, adverts in less.
//! Both ends know both certificates when their link is up, so those are the dictionary; a certificate then takes about
//! 200 bytes instead of 650. A packed frame is [`PACKED`] and a zstd frame of what would have been sent; short frames go
//! as they are, and a reader takes either.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

use crate::wire::frame::MAX_BYTES;

/// First byte of a packed frame; the version of a plain one stands there ([`crate::wire::VERSION`]).
const PACKED: u8 = 0x81;
/// Shorter frames are not packed: beats and questions are mostly what cannot be told in less.
const WORTH_BYTES: usize = 96;
/// zstd's own default: beyond it, frames of this size gain a per cent.
const LEVEL: i32 = 3;

/// One direction of one link, this side's.
pub(super) struct Packer(Compressor<'static>);

/// The other direction.
pub(super) struct Unpacker(Decompressor<'static>);

/// What both ends of a link use, from the certificates that they showed, the dialler's first.
pub(super) fn pair(dialler: &[u8], listener: &[u8]) -> io::Result<(Packer, Unpacker)> {
    let dictionary = [dialler, listener].concat();
    let packer = Compressor::with_dictionary(LEVEL, &dictionary)?;
    Ok((Packer(packer), Unpacker(Decompressor::with_dictionary(&dictionary)?)))
}

impl Packer {
    /// The frame as it is sent.
    pub(super) fn pack(&mut self, frame: Vec<u8>) -> Vec<u8> {
        if frame.len() < WORTH_BYTES {
            return frame;
        }
        match self.0.compress(&frame) {
            Ok(packed) if packed.len() + 1 < frame.len() => [&[PACKED], packed.as_slice()].concat(),
            // It goes as well as it is.
            _ => frame,
        }
    }
}

impl Unpacker {
    /// The frame that was packed, of at most [`MAX_BYTES`].
    pub(super) fn unpack(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        match bytes.split_first() {
            // zstd takes nothing for a frame of nothing.
            Some((&PACKED, [])) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some((&PACKED, packed)) => self.0.decompress(packed, MAX_BYTES),
            _ => Ok(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> (Packer, Unpacker) {
        let certificate = |n: u8| [&[n; 100][..], &(0..=255).collect::<Vec<u8>>(), &[7; 200]].concat();
        pair(&certificate(1), &certificate(2)).unwrap()
    }

    #[test]
    fn frames_come_back_and_what_both_know_takes_little() {
        let (mut packer, mut unpacker) = both();
        for frame in [vec![], vec![1; 20], (0..=255).collect(), vec![1; MAX_BYTES]] {
            let packed = packer.pack(frame.clone());
            assert!(packed.len() <= frame.len());
            assert_eq!(unpacker.unpack(packed).unwrap(), frame);
        }
        assert!(packer.pack((0..=255).collect()).len() < 40, "it is in the dictionary");
        let mut noise = vec![0; 1000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(packer.pack(noise.clone()), noise, "what cannot be packed goes as it is");
    }

    #[test]
    fn what_is_damaged_or_swells_is_refused() {
        let (mut packer, mut unpacker) = both();
        let packed = packer.pack((0..=255).cycle().take(2000).collect());
        for cut in 1..packed.len() {
            assert!(unpacker.unpack(packed[..cut].to_vec()).is_err(), "{cut}");
        }
        for at in 1..packed.len() {
            let mut flipped = packed.clone();
            flipped[at] ^= 0x55;
            // It may still be something; what it is, the frame's own decoder says.
            if let Ok(frame) = unpacker.unpack(flipped) {
                assert!(frame.len() <= MAX_BYTES);
            }
        }
        let mut swelling = vec![PACKED];
        swelling.extend(zstd::bulk::compress(&vec![0; 100 * MAX_BYTES], LEVEL).unwrap());
        assert!(swelling.len() < MAX_BYTES, "it fits a frame");
        assert!(unpacker.unpack(swelling).is_err());
    }
}
