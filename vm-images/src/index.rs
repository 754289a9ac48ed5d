//! Where a 4 KiB block of content lies in the images that are here.
//!
//! A guest's memory is full of blocks that its images have: the page cache is a copy of the disk, and most of the
//! memory is still what was suspended. Whoever moves a guest to a place that holds the same images says *where* such
//! a block is, instead of sending it.
//!
//! * [`Index`]: the blocks of one part (a disk file or a memory template, as the file's bytes; a qcow2 file's
//!   clusters are aligned, so the guest's blocks are blocks of the file). Made once, stored as 12 bytes for each
//!   distinct block that is not zero: at most 0.3 % of the part.
//! * [`Table`]: the indexes of several parts, for looking up; 8 bytes for each block, and 4 for each bucket of 4.
//!
//! A key is the first 8 bytes of a block's BLAKE3 hash. That is enough to find a block and not to trust it, so
//! **a hit is a candidate**: whoever looks up compares the content. With that, a guest that makes up colliding
//! content gains nothing but a longer transfer.

mod format;
mod table;

pub use format::Error;
pub use table::{Place, Table};

use std::io::{self, Read};

use crate::id::Digest;

/// Length of a block, bytes: an x86 guest's page, and what file systems use.
pub const BLOCK_BYTES: usize = 4096;
/// A block's content.
pub type Block = [u8; BLOCK_BYTES];
/// Longest part that can be indexed, bytes: 4 TiB, so that a block's number in it fits 30 bits.
pub const MAX_PART_BYTES: u64 = 1 << 42;
/// How much is read at a time while an index is made, bytes. A guess.
const CHUNK_BYTES: usize = 1 << 20;

/// The hash by which blocks are found; its first 8 bytes are the key.
pub type BlockHash = [u8; 32];

/// Hash of a block.
pub fn hash(block: &Block) -> BlockHash {
    *blake3::hash(block).as_bytes()
}

/// The part of a hash that an index keeps.
pub fn key(hash: &BlockHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The distinct blocks of one part that are not all zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    part: Digest,
    part_bytes: u64,
    /// Sorted by key; of equal keys only the first block is here.
    entries: Vec<(u64, u32)>,
}

impl Index {
    /// Makes the index of the part with this digest by reading its bytes from `from`, to the end. `progress` is told
    /// how many bytes each step took. A last block that is not whole is left out.
    ///
    /// Does not check the digest: the store knows whether a part is intact.
    pub fn build(part: Digest, mut from: impl Read, progress: &mut dyn FnMut(u64)) -> io::Result<Self> {
        let mut entries = Vec::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut part_bytes = 0;
        loop {
            let filled = fill(&mut from, &mut buffer)?;
            if part_bytes + filled as u64 > MAX_PART_BYTES {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("a part of more than {MAX_PART_BYTES} bytes cannot be indexed"),
                ));
            }
            let first = (part_bytes / BLOCK_BYTES as u64) as u32;
            let (blocks, _) = buffer[..filled].as_chunks::<BLOCK_BYTES>();
            entries.extend(
                (first..)
                    .zip(blocks)
                    .filter(|(_, block)| !is_zero(block))
                    .map(|(number, block)| (key(&hash(block)), number)),
            );
            part_bytes += filled as u64;
            progress(filled as u64);
            if filled < CHUNK_BYTES {
                break;
            }
        }
        entries.sort_unstable();
        entries.dedup_by_key(|(key, _)| *key);
        entries.shrink_to_fit();
        Ok(Self { part, part_bytes, entries })
    }

    /// Digest of the part.
    pub fn part(&self) -> &Digest {
        &self.part
    }

    /// Length of the part, bytes.
    pub fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// How many distinct blocks are in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the part has no block that is not zero.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Whether a block is all zero.
pub fn is_zero(block: &Block) -> bool {
    let (words, _) = block.as_chunks::<16>();
    words.chunks(16).all(|words| words.iter().fold(0, |all, word| all | u128::from_ne_bytes(*word)) == 0)
}

/// Reads until the buffer is full or the end is reached.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
