//! An index as a file.
//!
//! ```text
//! "cltindex" | u32 version | u32 block length | digest of the part | u64 length of the part
//! u32 count  | count × (u64 key, u32 block), by key | BLAKE3 of all before
//! ```
//! Numbers are little endian. The file is only a saving: whatever is wrong with it, it is made again.

use super::{BLOCK_BYTES, Index, MAX_PART_BYTES};
use crate::id::Digest;

const MAGIC: &[u8; 8] = b"cltindex";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 4 + 32 + 8 + 4;
const ENTRY_BYTES: usize = 12;
const HASH_BYTES: usize = 32;

/// Why bytes are no index that this release can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another kind of file, or another version.
    #[error("it is no block index of version {VERSION}")]
    Other,
    /// Cut or changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

impl Index {
    /// The index as it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.stored_bytes());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((BLOCK_BYTES as u32).to_le_bytes());
        bytes.extend(self.part.as_bytes());
        bytes.extend(self.part_bytes.to_le_bytes());
        bytes.extend((self.entries.len() as u32).to_le_bytes());
        for (key, block) in &self.entries {
            bytes.extend(key.to_le_bytes());
            bytes.extend(block.to_le_bytes());
        }
        bytes.extend(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// Length of the stored index, bytes.
    pub fn stored_bytes(&self) -> usize {
        HEADER_BYTES + self.entries.len() * ENTRY_BYTES + HASH_BYTES
    }

    /// Most bytes that the stored index of a part of this length has.
    pub fn most_stored_bytes(part_bytes: u64) -> u64 {
        part_bytes / BLOCK_BYTES as u64 * ENTRY_BYTES as u64 + (HEADER_BYTES + HASH_BYTES) as u64
    }

    /// Reads a stored index. Never panics, whatever the bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let (content, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or(Error::Other)?;
        let (header, entries) = content.split_first_chunk::<HEADER_BYTES>().ok_or(Error::Other)?;
        let known = [&MAGIC[..], &VERSION.to_le_bytes(), &(BLOCK_BYTES as u32).to_le_bytes()].concat();
        if header[..16] != known {
            return Err(Error::Other);
        }
        if blake3::hash(content).as_bytes() != hash {
            return Err(Error::Damaged("its checksum is wrong"));
        }
        let part = Digest::from_bytes(array(&header[16..48]));
        let part_bytes = u64::from_le_bytes(array(&header[48..56]));
        let count = u32::from_le_bytes(array(&header[56..60]));
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() || entries.len() != count as usize {
            return Err(Error::Damaged("its length is wrong"));
        }
        let entries: Vec<(u64, u32)> = entries
            .iter()
            .map(|entry| (u64::from_le_bytes(array(&entry[..8])), u32::from_le_bytes(array(&entry[8..]))))
            .collect();
        let blocks = part_bytes / BLOCK_BYTES as u64;
        let in_order = entries.is_sorted_by(|one, next| one.0 < next.0);
        let in_range = entries.iter().all(|(_, block)| u64::from(*block) < blocks);
        if part_bytes > MAX_PART_BYTES || !in_order || !in_range {
            return Err(Error::Damaged("its entries contradict each other"));
        }
        Ok(Self { part, part_bytes, entries })
    }
}

/// The bytes as an array; `from` has exactly that many.
fn array<const N: usize>(from: &[u8]) -> [u8; N] {
    let mut to = [0; N];
    to.copy_from_slice(from);
    to
}
