//! Which blocks differ from the base, and one hash over them all.

use std::collections::BTreeMap;

use vm_images::Digest;
use vm_images::index::BlockHash;

/// What keeps this hash apart from other uses of BLAKE3.
const PURPOSE: &str = "tactical cloudlets 2026 blocks that differ from their base, version 1";

/// The first half of a block's BLAKE3 hash. Names content in one handoff: 2⁶⁴ blocks would have to be tried to make
/// two of one hash, and then the final hash would not fit.
pub type PageHash = [u8; 16];

/// The first half.
pub(super) fn short(hash: &BlockHash) -> PageHash {
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    short
}

/// The blocks of a memory or disk that differ from its base, by hash. Together with the base's digest that fixes every byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    blocks: BTreeMap<u32, PageHash>,
}

impl Differences {
    /// Notes that a block now has this content, which is not the base's. Gives what it had before, if that differed.
    pub fn set(&mut self, block: u32, hash: PageHash) -> Option<PageHash> {
        self.blocks.insert(block, hash)
    }

    /// Notes that a block is the base's again. Says whether it was not.
    pub fn clear(&mut self, block: u32) -> bool {
        self.blocks.remove(&block).is_some()
    }

    /// What a block that differs has.
    pub fn get(&self, block: u32) -> Option<&PageHash> {
        self.blocks.get(&block)
    }

    /// How many blocks differ.
    pub fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// One hash over the base, the number of blocks, and every block that differs.
    pub fn root(&self, base: Option<&Digest>, blocks: u64) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(PURPOSE);
        hasher.update(base.map_or(&[0; 32], |base| base.as_bytes()));
        hasher.update(&blocks.to_le_bytes());
        for (block, hash) in &self.blocks {
            hasher.update(&block.to_le_bytes());
            hasher.update(hash);
        }
        *hasher.finalize().as_bytes()
    }
}
