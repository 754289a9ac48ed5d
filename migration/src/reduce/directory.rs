//! What a group says of each of its blocks: runs, in columns, so that they pack well.
//!
//! ```text
//! varint runs | kind of each (u8) | length − 1 of each | gap before each (zigzag) | reference of each that has one (zigzag)
//! ```
//! A gap is counted from the end of the run before; a reference from where the last of the same kind ended, so that
//! neighbouring blocks of a file cost nothing. Varints are LEB128.

use std::collections::BTreeMap;

use vm_images::index::Place;

use super::WireError;

/// Longest directory, bytes. One of [`MOST_RUNS`] has at most 16 bytes for each.
pub(super) const MOST_BYTES: usize = 16 * MOST_RUNS + 5;
/// Most runs of a group. Pages that the page cache scattered make one run each; a guess that keeps directories short
/// beside the content that they stand before.
pub(super) const MOST_RUNS: usize = 16_384;

const ZERO: u8 = 0;
const BASE: u8 = 1;
const RAW: u8 = 2;
const XOR: u8 = 3;
const ARRIVED: u8 = 4;
const AGAIN: u8 = 5;
/// The first part's; the others follow. So at most 250 parts can be referred to.
const PART_0: u8 = 6;

/// What is said of the first block of a run; of those that follow, the same, with references that go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// All zero.
    Zero,
    /// As in the base.
    Base,
    /// In the group, as it is.
    Raw,
    /// In the group, XORed with the base.
    Xor,
    /// Sent before.
    Arrived(u32),
    /// In the group, XORed with what was sent before under this number.
    Again(u32),
    /// In an image.
    Known(Place),
}

/// Most parts that can be referred to.
pub(super) const MOST_PARTS: usize = (u8::MAX - PART_0) as usize + 1;

/// Blocks that follow each other and of which the same is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub block: u32,
    pub count: u32,
    pub what: What,
}

impl Run {
    /// Whether the group brings pages for it.
    pub fn is_brought(&self) -> bool {
        matches!(self.what, What::Raw | What::Xor | What::Again(_))
    }

    /// Its blocks, one by one.
    pub fn blocks(&self) -> impl Iterator<Item = (u32, What)> + use<> {
        let run = *self;
        (0..run.count).map(move |at| {
            let what = match run.what {
                What::Arrived(number) => What::Arrived(number + at),
                What::Again(number) => What::Again(number + at),
                What::Known(Place { part, block }) => What::Known(Place { part, block: block + at }),
                same => same,
            };
            (run.block + at, what)
        })
    }

    /// Whether the block after this run, with this said of it, belongs to it.
    fn goes_on(&self, block: u32, what: What) -> bool {
        let next = match self.what {
            What::Arrived(number) => number.checked_add(self.count).map(What::Arrived),
            What::Again(number) => number.checked_add(self.count).map(What::Again),
            What::Known(Place { part, block }) => {
                block.checked_add(self.count).map(|block| What::Known(Place { part, block }))
            }
            same => Some(same),
        };
        self.block.checked_add(self.count) == Some(block) && next == Some(what)
    }
}

/// Collects runs.
#[derive(Debug, Default, Clone)]
pub(super) struct Directory {
    pub runs: Vec<Run>,
}

impl Directory {
    pub fn push(&mut self, block: u32, what: What) {
        match self.runs.last_mut() {
            Some(run) if run.goes_on(block, what) => run.count += 1,
            _ => self.runs.push(Run { block, count: 1, what }),
        }
    }

    pub fn encode(&self, to: &mut Vec<u8>) {
        put(to, self.runs.len() as u64);
        to.extend(self.runs.iter().map(|run| kind(run.what).0));
        self.runs.iter().for_each(|run| put(to, u64::from(run.count) - 1));
        let mut expected = 0;
        for run in &self.runs {
            put_signed(to, i64::from(run.block) - expected);
            expected = i64::from(run.block) + i64::from(run.count);
        }
        let mut ends = BTreeMap::new();
        for run in &self.runs {
            if let (kind, Some(reference)) = kind(run.what) {
                let end: &mut i64 = ends.entry(kind).or_default();
                put_signed(to, i64::from(reference) - *end);
                *end = i64::from(reference) + i64::from(run.count);
            }
        }
    }

    /// Reads a directory of a space of this many blocks; gives what follows it, too. Runs lie within the space and
    /// references do not overflow; whether they lead somewhere is for the caller to see.
    pub fn decode(mut bytes: &[u8], blocks: u64) -> Result<(Self, &[u8]), WireError> {
        let count = take(&mut bytes)?;
        if count > MOST_RUNS as u64 {
            return Err(WireError::TooLong {
                what: "a number of runs",
                found: count,
                most: MOST_RUNS as u64,
            });
        }
        let (kinds, mut bytes) = bytes.split_at_checked(count as usize).ok_or(CUT)?;
        let mut runs = Vec::with_capacity(kinds.len());
        for _ in kinds {
            let count = take(&mut bytes)?.checked_add(1).filter(|count| *count <= blocks).ok_or(OUTSIDE)?;
            let count = u32::try_from(count).map_err(|_| OUTSIDE)?;
            runs.push(Run { block: 0, count, what: What::Zero });
        }
        let mut expected = 0;
        for run in &mut runs {
            let block = take_signed(&mut bytes)?.checked_add(expected).ok_or(OUTSIDE)?;
            run.block = u32::try_from(block).map_err(|_| OUTSIDE)?;
            expected = i64::from(run.block) + i64::from(run.count);
            if expected as u64 > blocks {
                return Err(OUTSIDE);
            }
        }
        let mut ends = BTreeMap::new();
        for (run, kind) in runs.iter_mut().zip(kinds) {
            let mut reference = |bytes: &mut &[u8], count: u32| {
                let end: &mut i64 = ends.entry(*kind).or_default();
                let reference = take_signed(bytes)?.checked_add(*end).ok_or(OUTSIDE)?;
                let reference = u32::try_from(reference).map_err(|_| OUTSIDE)?;
                // The last block of the run must have a number, too.
                reference.checked_add(count).ok_or(OUTSIDE)?;
                *end = i64::from(reference) + i64::from(count);
                Ok(reference)
            };
            run.what = match *kind {
                ZERO => What::Zero,
                BASE => What::Base,
                RAW => What::Raw,
                XOR => What::Xor,
                ARRIVED => What::Arrived(reference(&mut bytes, run.count)?),
                AGAIN => What::Again(reference(&mut bytes, run.count)?),
                part => {
                    let block = reference(&mut bytes, run.count)?;
                    What::Known(Place { part: u16::from(part - PART_0), block })
                }
            };
        }
        Ok((Self { runs }, bytes))
    }
}

const CUT: WireError = WireError::Damaged("a directory ends too early");
const OUTSIDE: WireError = WireError::Damaged("a run lies outside of its space");

fn kind(what: What) -> (u8, Option<u32>) {
    match what {
        What::Zero => (ZERO, None),
        What::Base => (BASE, None),
        What::Raw => (RAW, None),
        What::Xor => (XOR, None),
        What::Arrived(number) => (ARRIVED, Some(number)),
        What::Again(number) => (AGAIN, Some(number)),
        What::Known(place) => (PART_0.saturating_add(place.part as u8), Some(place.block)),
    }
}

fn put(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn put_signed(to: &mut Vec<u8>, value: i64) {
    put(to, ((value << 1) ^ (value >> 63)) as u64);
}

fn take(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(CUT)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::Damaged("a number is too long"))
}

fn take_signed(bytes: &mut &[u8]) -> Result<i64, WireError> {
    let value = take(bytes)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn what() -> impl Strategy<Value = What> {
        let place = (0_u16..250, 0_u32..u32::MAX - 100_000);
        prop_oneof![
            Just(What::Zero),
            Just(What::Base),
            Just(What::Raw),
            Just(What::Xor),
            (0_u32..u32::MAX - 100_000).prop_map(What::Arrived),
            (0_u32..u32::MAX - 100_000).prop_map(What::Again),
            place.prop_map(|(part, block)| What::Known(Place { part, block })),
        ]
    }

    #[test]
    fn neighbours_are_one_run_and_its_bytes_are_these() {
        let mut directory = Directory::default();
        for block in 0..5 {
            directory.push(7 + block, What::Known(Place { part: 1, block: 100 + block }));
        }
        directory.push(12, What::Known(Place { part: 1, block: 105 }));
        directory.push(3, What::Known(Place { part: 1, block: 106 }));
        directory.push(20, What::Xor);
        directory.push(21, What::Xor);
        directory.push(22, What::Raw);
        assert_eq!(directory.runs.len(), 4);
        let mut bytes = Vec::new();
        directory.encode(&mut bytes);
        #[rustfmt::skip]
        let golden = [4, /* kinds */ 7, 7, 3, 2, /* lengths */ 5, 0, 1, 0, /* gaps */ 14, 19, 32, 0, /* references */ 200, 1, 0];
        assert_eq!(bytes, golden);
        bytes.push(99);
        assert_eq!(Directory::decode(&bytes, 23).unwrap().0.runs, directory.runs);
        assert_eq!(Directory::decode(&bytes, 23).unwrap().1, [99]);
        assert_eq!(Directory::decode(&bytes, 22).unwrap_err(), OUTSIDE);
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_read(pushed in proptest::collection::vec((0_u32..100_000, 1_u32..50, what()), 0..200)) {
            let mut directory = Directory::default();
            let mut wanted = Vec::new();
            for (block, count, what) in pushed {
                for at in 0..count {
                    let what = match what {
                        What::Arrived(number) => What::Arrived(number + at),
                        What::Again(number) => What::Again(number + at),
                        What::Known(Place { part, block }) => What::Known(Place { part, block: block + at }),
                        other => other,
                    };
                    directory.push(block + at, what);
                    wanted.push((block + at, what));
                }
            }
            let mut bytes = Vec::new();
            directory.encode(&mut bytes);
            prop_assert!(bytes.len() <= MOST_BYTES);
            let (read, rest) = Directory::decode(&bytes, 200_000).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(&read.runs, &directory.runs);
            let mut flat = Vec::new();
            for run in &read.runs {
                flat.extend(run.blocks());
            }
            prop_assert_eq!(flat, wanted);
        }

        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), blocks in 0_u64..1 << 33) {
            if let Ok((directory, _)) = Directory::decode(&bytes, blocks) {
                for run in &directory.runs {
                    prop_assert!(u64::from(run.block) + u64::from(run.count) <= blocks);
                }
            }
        }
    }
}
