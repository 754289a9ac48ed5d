//! Looking up in several indexes at once.

use super::{Block, Index, key};

/// Blocks for each bucket, on average. Short enough to be one or two cache lines.
const PER_BUCKET: usize = 4;
/// Most candidates that a look-up gives. Keys of honest content differ; more would be somebody's collisions.
const MAX_CANDIDATES: usize = 4;

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of the part in the table's order.
    pub part: u16,
    /// Number of the block in the part's file; it begins at this times 4096.
    pub block: u32,
}

/// The indexes of several parts.
///
/// The key's first bits choose a bucket, its other bits are compared. Where two parts have the same content, the one
/// that was named first is found first.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// How far a key is shifted to give its bucket.
    shift: u32,
    /// Where each bucket begins in `entries`, and the end.
    buckets: Vec<u32>,
    entries: Vec<Entry>,
    /// Number of the first block of each part in the order of all.
    firsts: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The key's last 32 bits.
    tag: u32,
    /// The block's number in the order of all parts.
    block: u32,
}

impl Table {
    /// Most bytes that all parts may have together.
    pub const MOST_BYTES: u64 = (u32::MAX as u64) * 4096;

    /// Joins indexes. `None` if there are more than 65,535 or they have more than 2³² blocks (16 TiB).
    pub fn new(indexes: &[&Index]) -> Option<Self> {
        let mut firsts = Vec::with_capacity(indexes.len());
        let mut first = 0_u32;
        for index in indexes {
            firsts.push(first);
            first = first.checked_add(u32::try_from(index.part_bytes().div_ceil(4096)).ok()?)?;
        }
        u16::try_from(indexes.len()).ok()?;
        let count: usize = indexes.iter().map(|index| index.len()).sum();
        let bits = (count / PER_BUCKET).next_power_of_two().trailing_zeros().clamp(1, 32);
        let shift = u64::BITS - bits;
        let mut table = Self { shift, buckets: vec![0; (1 << bits) + 1], entries: Vec::new(), firsts };
        table.fill(indexes, count);
        Some(table)
    }

    /// Sorts by counting: how many go into each bucket, where each bucket begins, and then every entry to its place.
    fn fill(&mut self, indexes: &[&Index], count: usize) {
        let shift = self.shift;
        for (key, _) in indexes.iter().flat_map(|index| &index.entries) {
            self.buckets[(key >> shift) as usize + 1] += 1;
        }
        for bucket in 1..self.buckets.len() {
            self.buckets[bucket] += self.buckets[bucket - 1];
        }
        let mut next = self.buckets.clone();
        self.entries = vec![Entry { tag: 0, block: 0 }; count];
        for (index, first) in indexes.iter().zip(&self.firsts) {
            for (key, block) in &index.entries {
                let at = &mut next[(key >> shift) as usize];
                self.entries[*at as usize] = Entry { tag: *key as u32, block: first + block };
                *at += 1;
            }
        }
    }

    /// Where the block with this hash may lie: at most 4 places, to be compared.
    pub fn find<'a>(&'a self, hash: &super::BlockHash) -> impl Iterator<Item = Place> + use<'a> {
        let key = key(hash);
        let bucket = (key >> self.shift.min(63)) as usize;
        let range = match self.buckets.get(bucket..bucket + 2) {
            Some([from, to]) => *from as usize..*to as usize,
            _ => 0..0,
        };
        let matching = self.entries[range].iter().filter(move |entry| entry.tag == key as u32);
        matching.take(MAX_CANDIDATES).map(|entry| self.place(entry.block))
    }

    /// As [`find`](Self::find), for a block that was not hashed yet.
    pub fn find_block<'a>(&'a self, block: &Block) -> impl Iterator<Item = Place> + use<'a> {
        self.find(&super::hash(block))
    }

    fn place(&self, block: u32) -> Place {
        let part = self.firsts.partition_point(|first| *first <= block).saturating_sub(1);
        Place { part: part as u16, block: block - self.firsts.get(part).copied().unwrap_or(0) }
    }

    /// How many blocks are in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no part has a block that is not zero.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What it takes in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + (self.buckets.len() + self.firsts.len()) * size_of::<u32>()
    }
}
