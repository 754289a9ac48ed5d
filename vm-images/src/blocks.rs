//! A part in blocks that can be checked one by one.
//!
//! BLAKE3 is a tree: the digest of a part is made from the *chaining values* of its subtrees. A part is cut into
//! blocks that are whole subtrees, so a list of 32 bytes for each block can be checked against the part's digest
//! (which the signed manifest holds), and after that every block by itself, in any order and from anybody.
//!
//! A chaining value depends on the place in the part as well as on the content. So equal blocks have equal values
//! only at equal offsets; for guest memory of images made from one another that is where they are.

use blake3::hazmat::{self, ChainingValue, HasherExt as _, Mode};

use crate::id::Digest;

/// Length of a block of most parts, bytes. Measured with zstd -1 on the memory of the `speech` image: blocks of
/// 64 KiB compress as well as blocks of 1 MiB (4.15 and 4.13 times), and they share 47 MiB with the base image where
/// the longer ones share 31. At 64 kbit/s a compressed block takes about 2 s, so little is lost when a contact ends.
pub const BLOCK_BYTES: u32 = 64 * 1024;
/// Longest block, bytes; of parts longer than 64 GiB.
pub const MAX_BLOCK_BYTES: u32 = 1024 * 1024;
/// Most blocks of a part: a list of 32 MiB. With the longest blocks that is a part of 1 TiB.
pub const MAX_BLOCKS: u32 = 1 << 20;
/// Bytes of one entry of a list.
pub const ENTRY_BYTES: usize = 32;

/// Why blocks cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too long to be cut into [`MAX_BLOCKS`].
    #[error("a part of {bytes} bytes is too long to be exchanged in blocks (at most {most} bytes are)", most = u64::from(MAX_BLOCKS) * u64::from(MAX_BLOCK_BYTES))]
    TooLong {
        /// Its length, bytes.
        bytes: u64,
    },
    /// An empty part has no blocks; no manifest has one.
    #[error("an empty part has no blocks")]
    Empty,
    /// The list has not one entry for each block.
    #[error("a list of {found} bytes for {blocks} blocks")]
    ListLength {
        /// Bytes of the list.
        found: usize,
        /// Blocks of the part.
        blocks: u32,
    },
    /// The list does not lead to the part's digest.
    #[error("the list of blocks does not fit the part's digest")]
    WrongList,
}

/// How a part is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    part_bytes: u64,
    block_bytes: u32,
    count: u32,
}

impl Cut {
    /// Cuts a part of this length. The same length is cut in the same way everywhere.
    pub fn of(part_bytes: u64) -> Result<Self, Error> {
        if part_bytes == 0 {
            return Err(Error::Empty);
        }
        let mut block_bytes = BLOCK_BYTES;
        while part_bytes.div_ceil(block_bytes.into()) > MAX_BLOCKS.into() && block_bytes < MAX_BLOCK_BYTES {
            block_bytes *= 2;
        }
        match u32::try_from(part_bytes.div_ceil(block_bytes.into())) {
            Ok(count) if count <= MAX_BLOCKS => Ok(Self { part_bytes, block_bytes, count }),
            _ => Err(Error::TooLong { bytes: part_bytes }),
        }
    }

    /// How many blocks there are; at least 1.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Length of the part, bytes.
    pub fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// Length of every block but the last, bytes.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Where a block begins, bytes.
    pub fn offset(&self, block: u32) -> u64 {
        u64::from(block) * u64::from(self.block_bytes)
    }

    /// Length of a block, bytes; 0 if there is no such block.
    pub fn len(&self, block: u32) -> u32 {
        let rest = self.part_bytes.saturating_sub(self.offset(block));
        rest.min(self.block_bytes.into()) as u32
    }

    /// Never: an empty part cannot be cut.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The value of a block with this content, at its place.
    pub fn value(&self, block: u32, content: &[u8]) -> [u8; ENTRY_BYTES] {
        if self.count == 1 {
            return *blake3::hash(content).as_bytes();
        }
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(self.offset(block));
        // More than a subtree would make the hasher panic; it is no content of a block anyway.
        hasher.update(&content[..content.len().min(self.block_bytes as usize)]);
        if content.is_empty() { [0; ENTRY_BYTES] } else { hasher.finalize_non_root() }
    }
}

/// The values of a part's blocks, proved to lead to its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    cut: Cut,
    values: Vec<ChainingValue>,
}

impl Tree {
    /// Takes a list from anybody and checks it against the digest of the part.
    pub fn check(part_bytes: u64, digest: &Digest, list: &[u8]) -> Result<Self, Error> {
        let cut = Cut::of(part_bytes)?;
        let (values, rest) = list.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() || values.len() != cut.count as usize {
            return Err(Error::ListLength { found: list.len(), blocks: cut.count });
        }
        if root(values) != *digest.as_bytes() {
            return Err(Error::WrongList);
        }
        Ok(Self { cut, values: values.to_vec() })
    }

    /// How the part is cut.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// The value of a block.
    pub fn value(&self, block: u32) -> Option<&[u8; ENTRY_BYTES]> {
        self.values.get(block as usize)
    }

    /// Whether this is the content of a block.
    pub fn fits(&self, block: u32, content: &[u8]) -> bool {
        content.len() == self.cut.len(block) as usize
            && self.value(block).is_some_and(|value| *value == self.cut.value(block, content))
    }

    /// The list as it is stored and sent.
    pub fn list(&self) -> &[u8] {
        self.values.as_flattened()
    }
}

/// The digest that the values lead to. `values` is not empty.
fn root(values: &[ChainingValue]) -> [u8; 32] {
    match values {
        [] => [0; 32],
        [whole] => *whole,
        _ => {
            let (left, right) = halves(values);
            *hazmat::merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
        }
    }
}

fn subtree(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [] => [0; 32],
        [one] => *one,
        _ => {
            let (left, right) = halves(values);
            hazmat::merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// The left subtree is the largest power of two that leaves something for the right one.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 7 % 251) as u8 ^ (at >> 13) as u8).collect()
    }

    fn tree(content: &[u8]) -> Tree {
        let cut = Cut::of(content.len() as u64).unwrap();
        let blocks = content.chunks(cut.block_bytes() as usize);
        let list: Vec<u8> =
            blocks.enumerate().flat_map(|(block, bytes)| cut.value(block as u32, bytes)).collect();
        Tree::check(content.len() as u64, &Digest::of(content), &list).unwrap()
    }

    #[test]
    fn every_length_around_a_border_leads_to_the_digest_of_the_whole() {
        let block = BLOCK_BYTES as usize;
        for blocks in [1, 2, 3, 4, 5, 7, 8, 9, 17] {
            for length in [block * blocks - 1025, block * blocks - 1, block * blocks, block * blocks + 1] {
                let content = content(length);
                let tree = tree(&content);
                let last = tree.cut().count() - 1;
                assert!(tree.fits(last, &content[tree.cut().offset(last) as usize..]), "{length}");
            }
        }
        assert!(tree(&[7]).fits(0, &[7]));
    }

    #[test]
    fn a_list_for_another_content_or_of_another_length_is_refused() {
        let bytes = content(5 * BLOCK_BYTES as usize + 9);
        let good = tree(&bytes);
        let digest = Digest::of(&bytes);
        let check = |list: &[u8]| Tree::check(bytes.len() as u64, &digest, list);
        let mut flipped = good.list().to_vec();
        flipped[33] ^= 1;
        assert_eq!(check(&flipped), Err(Error::WrongList));
        assert_eq!(check(&good.list()[1..]), Err(Error::ListLength { found: 6 * 32 - 1, blocks: 6 }));
        assert_eq!(check(&good.list()[32..]), Err(Error::ListLength { found: 5 * 32, blocks: 6 }));
        assert_eq!(Tree::check(0, &digest, &[]), Err(Error::Empty));
        assert_eq!(Tree::check(u64::MAX, &digest, &[]), Err(Error::TooLong { bytes: u64::MAX }));
    }

    #[test]
    fn long_parts_have_longer_blocks_and_the_same_everywhere() {
        let blocks = |bytes| Cut::of(bytes).map(|cut| (cut.block_bytes(), cut.count())).unwrap();
        assert_eq!(blocks(1 << 36), (65_536, 1 << 20));
        assert_eq!(blocks((1 << 36) + 1), (131_072, (1 << 19) + 1));
        assert_eq!(blocks(1 << 40), (1 << 20, 1 << 20));
        assert!(Cut::of((1 << 40) + 1).is_err());
    }

    proptest! {
        #[test]
        fn a_block_with_one_flipped_bit_never_fits(at in 0_usize..(3 * 65_536 + 100), bit in 0_u8..8) {
            let bytes = content(3 * 65_536 + 100);
            let tree = tree(&bytes);
            let block = (at / 65_536) as u32;
            let start = tree.cut().offset(block) as usize;
            let mut one = bytes[start..start + tree.cut().len(block) as usize].to_vec();
            prop_assert!(tree.fits(block, &one));
            one[at - start] ^= 1 << bit;
            prop_assert!(!tree.fits(block, &one));
            prop_assert!(!tree.fits(block + 1, &one));
            one.pop();
            prop_assert!(!tree.fits(block, &one));
        }
    }
}
