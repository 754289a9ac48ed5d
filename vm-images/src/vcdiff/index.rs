//! Where blocks of the source lie, by a hash that rolls over the target byte by byte.

use std::io;

use super::Source;

/// Most blocks that are indexed. With two slots for each and 8 bytes a slot: 128 MiB.
const MOST_BLOCKS: u64 = 1 << 23;
/// Shortest and longest block, bytes. A match of twice the length less one byte is always found.
const LEAST_BLOCK: usize = 32;
const MOST_BLOCK: usize = 1 << 20;
/// Bits of the filter that says "certainly not", as a power of two: 8 MiB, which caches hold better than the slots.
const FILTER_LOG: u32 = 26;
/// How many slots behind its own a block may be put. Full neighbourhoods are those of repeated content.
const PROBES: usize = 8;
/// How much of the source is read at once, bytes. A multiple of every length of a block.
const CHUNK_BYTES: usize = MOST_BLOCK;
/// Factor of the polynomial, from the fractional part of the golden ratio; odd, so nothing is lost when it wraps.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Spreads the polynomial's low bits into the high ones that are used.
const SPREAD: u64 = 0xff51_afd7_ed55_8ccd;

/// Blocks of a source at multiples of their length; those that are one byte repeated are left out, and of equal ones
/// the later ones.
#[derive(Debug)]
pub struct Index {
    block_bytes: usize,
    /// Tag, and number of the block plus one; 0 is an empty slot.
    slots: Vec<(u32, u32)>,
    shift: u32,
    filter: Vec<u64>,
    /// [`FACTOR`] to the power of the block's length: what the byte that leaves has been multiplied with.
    leaving: u64,
}

impl Index {
    /// Reads the whole source. Blocks have 32 bytes, or as many more as it takes to have at most 2²³ of them.
    pub fn build(source: &impl Source) -> io::Result<Self> {
        let bytes = source.bytes()?;
        let mut block_bytes = LEAST_BLOCK;
        while bytes / block_bytes as u64 > MOST_BLOCKS {
            block_bytes *= 2;
            if block_bytes > MOST_BLOCK {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "the source of a delta is over 8 TiB",
                ));
            }
        }
        let slots = (2 * (bytes / block_bytes as u64)).next_power_of_two().max(2);
        let mut index = Self {
            block_bytes,
            slots: vec![(0, 0); slots as usize],
            shift: u64::BITS - slots.trailing_zeros(),
            filter: vec![0; 1 << (FILTER_LOG - 6)],
            leaving: (0..block_bytes).fold(1, |power: u64, _| power.wrapping_mul(FACTOR)),
        };
        index.fill(source, bytes)?;
        Ok(index)
    }

    fn fill(&mut self, source: &impl Source, bytes: u64) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        while offset < bytes {
            let length = (bytes - offset).min(CHUNK_BYTES as u64) as usize;
            source.read_at(offset, &mut chunk[..length])?;
            let first = offset / self.block_bytes as u64;
            for (number, block) in (first..).zip(chunk[..length].chunks_exact(self.block_bytes)) {
                if block.iter().any(|byte| *byte != block[0]) {
                    self.insert(self.hash(block), number as u32);
                }
            }
            offset += length as u64;
        }
        Ok(())
    }

    fn insert(&mut self, hash: u64, number: u32) {
        let mixed = mix(hash);
        self.filter[(mixed >> (64 - FILTER_LOG + 6)) as usize] |= 1 << (mixed >> (64 - FILTER_LOG) & 63);
        let first = (mixed >> self.shift) as usize;
        for probe in 0..PROBES {
            let at = (first + probe) % self.slots.len();
            let slot = &mut self.slots[at];
            if slot.1 == 0 {
                *slot = (mixed as u32, number + 1);
                return;
            }
            if slot.0 == mixed as u32 {
                return;
            }
        }
    }

    /// Length of a block, bytes.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// The hash of a block.
    pub(super) fn hash(&self, block: &[u8]) -> u64 {
        block.iter().fold(0, |hash: u64, byte| step(hash, *byte))
    }

    /// The hash of the block one byte further.
    pub(super) fn roll(&self, hash: u64, leaves: u8, enters: u8) -> u64 {
        // A byte counts one more than it is, so that zeros count, too.
        step(hash, enters).wrapping_sub(self.leaving.wrapping_mul(u64::from(leaves) + 1))
    }

    /// Where in the source a block with this hash may lie: to be compared.
    pub(super) fn find(&self, hash: u64) -> Option<u64> {
        let mixed = mix(hash);
        if self.filter[(mixed >> (64 - FILTER_LOG + 6)) as usize] & 1 << (mixed >> (64 - FILTER_LOG) & 63)
            == 0
        {
            return None;
        }
        let first = (mixed >> self.shift) as usize;
        for probe in 0..PROBES {
            let (tag, number) = self.slots[(first + probe) % self.slots.len()];
            if number == 0 {
                return None;
            }
            if tag == mixed as u32 {
                return Some(u64::from(number - 1) * self.block_bytes as u64);
            }
        }
        None
    }
}

fn step(hash: u64, enters: u8) -> u64 {
    hash.wrapping_mul(FACTOR).wrapping_add(u64::from(enters) + 1)
}

fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 32).wrapping_mul(SPREAD);
    hash ^ hash >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rolled_hash_is_the_hash_and_every_block_is_found() {
        let source: Vec<u8> = (0..100_000_u32).map(|at| (at.wrapping_mul(at ^ 77) >> 5) as u8).collect();
        let index = Index::build(&&source[..]).unwrap();
        let length = index.block_bytes();
        let mut hash = index.hash(&source[..length]);
        let mut found = 0;
        for at in 0..source.len() - length {
            assert_eq!(hash, index.hash(&source[at..at + length]));
            let there = index.find(hash).is_some_and(|there| {
                source[there as usize..there as usize + length] == source[at..at + length]
            });
            assert!(there || at % length != 0, "the block at {at}");
            found += usize::from(there);
            hash = index.roll(hash, source[at], source[at + length]);
        }
        assert!(found >= source.len() / length - 1);
    }
}
