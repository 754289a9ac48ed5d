//! Packing with zstd or LZMA2, and choosing between a page and its difference from the base.

use std::io::{self, Read};

use xz2::stream::{Check, Filters, LzmaOptions, Stream};
use zstd::bulk::{Compressor, Decompressor};

use super::level::Level;
use super::{BLOCK_BYTES, WireError};
use crate::stream::Page;

/// Level at which raw and XOR are tried where it is not plain which is shorter.
const TRIAL_LEVEL: i32 = 1;
/// Longest window that packed device state may need, as a power of two: 64 MiB, the cap and what it is packed against.
const DEVICE_WINDOW_LOG: u32 = 26;

/// How what xz packed begins; zstd's frames begin otherwise.
const XZ: &[u8] = b"\xfd7zXZ\0";
/// Most memory that unpacking such content may take, bytes: its window and xz's own tables.
const XZ_MOST_MEMORY: u64 = 8 << 20;
/// Its window, bytes: a group.
const XZ_WINDOW_BYTES: u32 = 1 << 20;

/// Packs groups, one after the other.
pub(super) struct Packer {
    packer: Compressor<'static>,
    level: i32,
    trial: Compressor<'static>,
}

impl Packer {
    pub fn new() -> io::Result<Self> {
        let mut packer = Compressor::new(TRIAL_LEVEL)?;
        packer.include_checksum(true)?;
        packer.include_contentsize(false)?;
        Ok(Self { packer, level: TRIAL_LEVEL, trial: Compressor::new(TRIAL_LEVEL)? })
    }

    /// Packs at a level.
    pub fn pack(&mut self, content: &[u8], level: Level) -> io::Result<Vec<u8>> {
        match level {
            Level::Zstd(level) => self.zstd(content, level),
            Level::Lzma(preset) => lzma(content, preset),
        }
    }

    fn zstd(&mut self, content: &[u8], level: i32) -> io::Result<Vec<u8>> {
        if level != self.level {
            self.packer.set_compression_level(level)?;
            self.level = level;
        }
        self.packer.compress(content)
    }

    /// Appends the page or its difference from the base, whichever packs better; says whether it is the difference.
    pub fn put(&mut self, page: &Page, base: &Page, to: &mut Vec<u8>) -> io::Result<bool> {
        let mut difference = *page;
        difference.iter_mut().zip(base).for_each(|(byte, base)| *byte ^= base);
        let is_xor = match likely(&difference, base) {
            Some(is_xor) => is_xor,
            None => self.trial.compress(&difference)?.len() < self.trial.compress(page)?.len(),
        };
        to.extend_from_slice(if is_xor { &difference } else { page });
        Ok(is_xor)
    }
}

/// With a guest's memory in mind, which is words of 8 bytes: each byte is like the same one of the word before. That makes the pages
/// of the speech VM 2 % shorter than xz's own settings do, and those 19 % shorter than zstd's level 3.
fn lzma(content: &[u8], preset: u32) -> io::Result<Vec<u8>> {
    let mut options = LzmaOptions::new_preset(preset)?;
    options.dict_size(XZ_WINDOW_BYTES).literal_context_bits(1).literal_position_bits(3).position_bits(3);
    let stream = Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc32)?;
    let mut packed = Vec::new();
    xz2::bufread::XzEncoder::new_stream(content, stream).read_to_end(&mut packed)?;
    Ok(packed)
}

/// Whether the difference packs better, where that can be told without packing: if most words are equal, it is nearly all
/// zero; if hardly any is, it is noise.
fn likely(difference: &Page, base: &Page) -> Option<bool> {
    let words = |page: &Page| page.as_chunks::<8>().0.iter().filter(|word| **word == [0; 8]).count();
    let equal = words(difference);
    let all = BLOCK_BYTES / 8;
    if words(base) == all {
        return Some(false);
    }
    // Guesses on the safe side; between them both are packed.
    match equal {
        _ if equal > all * 7 / 8 => Some(true),
        _ if equal < all / 64 => Some(false),
        _ => None,
    }
}

/// Unpacks what must have exactly this length. Never makes more.
pub(super) struct Unpacker(Decompressor<'static>);

impl Unpacker {
    pub fn new() -> io::Result<Self> {
        Decompressor::new().map(Self)
    }

    pub fn unpack(&mut self, packed: &[u8], bytes: usize) -> Result<Vec<u8>, WireError> {
        let unpacked = match packed.starts_with(XZ) {
            true => unpack_xz(packed, bytes)?,
            false => self.0.decompress(packed, bytes).map_err(|_| BROKEN)?,
        };
        if unpacked.len() == bytes { Ok(unpacked) } else { Err(BROKEN) }
    }
}

const BROKEN: WireError = WireError::Damaged("packed bytes do not unpack to what was said");

/// Never makes more than one byte more.
fn unpack_xz(packed: &[u8], bytes: usize) -> Result<Vec<u8>, WireError> {
    let stream = Stream::new_stream_decoder(XZ_MOST_MEMORY, 0).map_err(|_| BROKEN)?;
    let mut unpacked = Vec::new();
    let unpacker = xz2::bufread::XzDecoder::new_stream(packed, stream);
    unpacker.take(bytes as u64 + 1).read_to_end(&mut unpacked).map_err(|_| BROKEN)?;
    Ok(unpacked)
}

/// Packs device state against that of the snapshot that the guest was cloned from.
pub(super) fn pack_against(against: &[u8], content: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut packer = zstd::Encoder::with_ref_prefix(Vec::new(), level, against)?;
    let whole = (against.len() + content.len()).max(1024).next_power_of_two().trailing_zeros();
    packer.window_log(whole.min(DEVICE_WINDOW_LOG))?;
    packer.include_checksum(true)?;
    io::Write::write_all(&mut packer, content)?;
    packer.finish()
}

/// Unpacks what must have exactly this length. Never makes more than one byte more.
pub(super) fn unpack_against(against: &[u8], packed: &[u8], bytes: usize) -> Result<Vec<u8>, WireError> {
    let mut unpacker = zstd::Decoder::with_ref_prefix(packed, against).map_err(|_| BROKEN)?;
    unpacker.window_log_max(DEVICE_WINDOW_LOG).map_err(|_| BROKEN)?;
    let mut unpacked = Vec::new();
    unpacker.take(bytes as u64 + 1).read_to_end(&mut unpacked).map_err(|_| BROKEN)?;
    if unpacked.len() == bytes { Ok(unpacked) } else { Err(BROKEN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_of_page_and_difference_is_taken() {
        let noise = |seed: u32| -> Page {
            let mut state = seed.wrapping_mul(0x9e37_79b1) | 1;
            std::array::from_fn(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state as u8
            })
        };
        let mut packer = Packer::new().unwrap();
        let base = noise(1);
        let mut near = base;
        near[100..140].fill(7);
        let mut half = base;
        half[..2048].copy_from_slice(&noise(3)[..2048]);
        let text: Page = std::array::from_fn(|at| b"all work and no play "[at % 21]);
        for (page, wanted) in [(near, true), (half, true), (text, false), (noise(2), false)] {
            let mut put = Vec::new();
            assert_eq!(packer.put(&page, &base, &mut put).unwrap(), wanted);
            let other: Vec<u8> = page.iter().zip(&base).map(|(a, b)| a ^ b).collect();
            assert_eq!(put, if wanted { other } else { page.to_vec() });
        }
        assert!(!packer.put(&text, &[0; BLOCK_BYTES], &mut Vec::new()).unwrap());
    }

    #[test]
    fn what_is_packed_at_any_level_comes_back_and_damage_is_noticed() {
        let word = |at: u64| (0x7f00_0000_1000 + at * at % 977).to_le_bytes();
        let words: Vec<u8> = (0..20_000).flat_map(word).collect();
        let (mut packer, mut unpacker) = (Packer::new().unwrap(), Unpacker::new().unwrap());
        for level in [Level::Zstd(1), Level::Zstd(3), Level::Lzma(0), Level::Lzma(3), Level::Lzma(6)] {
            for content in [&words[..], &[], &words[..7]] {
                let packed = packer.pack(content, level).unwrap();
                assert_eq!(unpacker.unpack(&packed, content.len()), Ok(content.to_vec()), "{level:?}");
                let cut = &packed[..packed.len() - 1];
                assert_eq!(unpacker.unpack(cut, content.len()), Err(BROKEN), "{level:?}");
            }
            let mut packed = packer.pack(&words, level).unwrap();
            let middle = packed.len() / 2;
            packed[middle] ^= 16;
            assert_eq!(unpacker.unpack(&packed, words.len()), Err(BROKEN), "{level:?}");
        }
    }

    #[test]
    fn a_window_that_takes_too_much_memory_is_refused() {
        let mut options = LzmaOptions::new_preset(0).unwrap();
        options.dict_size(64 << 20);
        let stream = Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc32).unwrap();
        let mut packed = Vec::new();
        xz2::bufread::XzEncoder::new_stream(&[7; 4096][..], stream).read_to_end(&mut packed).unwrap();
        assert_eq!(Unpacker::new().unwrap().unpack(&packed, 4096), Err(BROKEN));
    }

    #[test]
    fn a_bomb_unpacks_to_nothing() {
        for level in [Level::Zstd(3), Level::Lzma(0)] {
            let bomb = Packer::new().unwrap().pack(&vec![0; 100 << 20], level).unwrap();
            assert!(bomb.len() < 20_000);
            assert_eq!(Unpacker::new().unwrap().unpack(&bomb, 4096), Err(BROKEN));
            assert_eq!(Unpacker::new().unwrap().unpack(&bomb, 0), Err(BROKEN));
            assert_eq!(unpack_against(b"", &bomb, 4096), Err(BROKEN));
        }
    }

    #[test]
    fn device_state_packs_against_what_it_is_like() {
        let snapshot: Vec<u8> =
            (0..500_000_u32).map(|at| (at.wrapping_mul(at) >> 7) as u8 ^ (at >> 9) as u8).collect();
        let mut state = snapshot.clone();
        state[250_000] ^= 1;
        let alone = Packer::new().unwrap().pack(&state, Level::Zstd(9)).unwrap().len();
        let packed = pack_against(&snapshot, &state, 9).unwrap();
        assert!(packed.len() < 1000 && alone > 20_000, "{} and {alone}", packed.len());
        assert_eq!(unpack_against(&snapshot, &packed, state.len()), Ok(state.clone()));
        assert_eq!(unpack_against(&snapshot, &packed, state.len() - 1), Err(BROKEN));
        let other: Vec<u8> = snapshot.iter().rev().copied().collect();
        assert!(unpack_against(&other, &packed, state.len()).is_err(), "another snapshot");
    }
}
