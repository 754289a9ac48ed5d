//! Compressing blocks where it pays.

use std::io;

use mesh::exchange::wire::Packing;

/// zstd's fastest regular level: measured on the `speech` image, 250 MB/s and a quarter of the length of the memory;
/// higher levels cost more time than any link of ours saves.
const LEVEL: i32 = 1;

/// Packs blocks, one after the other.
pub(super) struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    pub(super) fn new() -> io::Result<Self> {
        zstd::bulk::Compressor::new(LEVEL).map(Self)
    }

    /// Packed if that saves at least a sixteenth (a guess: less does not pay for unpacking), else as it is.
    pub(super) fn pack(&mut self, content: &[u8]) -> (Packing, Vec<u8>) {
        match self.0.compress(content) {
            Ok(packed) if packed.len() <= content.len() / 16 * 15 => (Packing::Zstd, packed),
            _ => (Packing::Plain, content.to_vec()),
        }
    }
}

/// Unpacks blocks, one after the other.
pub(super) struct Unpacker(zstd::bulk::Decompressor<'static>);

impl Unpacker {
    pub(super) fn new() -> io::Result<Self> {
        zstd::bulk::Decompressor::new().map(Self)
    }

    /// The content of a block of `length` bytes; `None` if it is none. Never makes more than `length` bytes.
    pub(super) fn unpack(&mut self, packing: Packing, content: Vec<u8>, length: usize) -> Option<Vec<u8>> {
        let unpacked = match packing {
            Packing::Plain => content,
            Packing::Zstd => self.0.decompress(&content, length).ok()?,
        };
        (unpacked.len() == length).then_some(unpacked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_shrink_stays_as_it_is() {
        let mut packer = Packer::new().unwrap();
        let mut unpacker = Unpacker::new().unwrap();
        let zeros = vec![0; 65_536];
        let (packing, packed) = packer.pack(&zeros);
        assert_eq!(packing, Packing::Zstd);
        assert!(packed.len() < 100);
        assert_eq!(unpacker.unpack(packing, packed, 65_536), Some(zeros));

        let noise: Vec<u8> =
            (0_u32..2048).flat_map(|at| *blake3::hash(&at.to_le_bytes()).as_bytes()).collect();
        let (packing, packed) = packer.pack(&noise);
        assert_eq!((packing, &packed), (Packing::Plain, &noise));
        assert_eq!(unpacker.unpack(packing, packed, noise.len()), Some(noise));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert!(bomb.len() < 65_536);
        let mut unpacker = Unpacker::new().unwrap();
        assert_eq!(unpacker.unpack(Packing::Zstd, bomb, 65_536), None);
        assert_eq!(unpacker.unpack(Packing::Zstd, b"nonsense".to_vec(), 65_536), None);
        assert_eq!(unpacker.unpack(Packing::Plain, vec![0; 3], 4), None);
    }
}
