//! Decides what of a window is copied from the source, what is a run and what is new.

use std::io;

use super::Index;
use super::source::{Cached, Source};

/// Shortest copy that goes on where the last one would, or from the same offset: after a changed field in a page.
/// Its address is short. A guess between what XZ makes of the bytes and what the copy costs.
const LEAST_NEAR: usize = 16;
/// Shortest run; shorter ones are left to who packs the delta. A guess.
const LEAST_RUN: usize = 32;
/// Longest segment of the source that one window may refer to: offsets of xdelta3 have 32 bits, for both together.
const MOST_SEGMENT: u64 = 1 << 31;

/// A piece of a window; the pieces are in order and cover it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// New bytes.
    Add { length: usize },
    /// One byte, again and again.
    Run { byte: u8, length: usize },
    /// From this offset of the source.
    Copy { from: u64, length: usize },
}

/// The pieces of one window.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub list: Vec<Piece>,
    /// Smallest range of the source that holds all that is copied.
    pub segment: Option<(u64, u64)>,
    /// Up to where the list covers the window.
    covered: usize,
}

impl Pieces {
    fn add_until(&mut self, end: usize) {
        if end > self.covered {
            self.list.push(Piece::Add { length: end - self.covered });
            self.covered = end;
        }
    }

    /// Appends a copy that begins at `at` of the window; refuses one too far from the others.
    fn copy(&mut self, at: usize, from: u64, length: usize) -> bool {
        let end = from + length as u64;
        let (low, high) = self.segment.map_or((from, end), |(low, high)| (low.min(from), high.max(end)));
        if high - low > MOST_SEGMENT {
            return false;
        }
        self.segment = Some((low, high));
        self.add_until(at);
        self.list.push(Piece::Copy { from, length });
        self.covered = at + length;
        true
    }

    fn run(&mut self, at: usize, byte: u8, length: usize) {
        self.add_until(at);
        self.list.push(Piece::Run { byte, length });
        self.covered = at + length;
    }
}

/// Cuts the window that begins at `offset` of the target.
pub(super) fn cut<S: Source>(
    window: &[u8],
    offset: u64,
    source: &mut Cached<S>,
    index: &Index,
) -> io::Result<Pieces> {
    let block = index.block_bytes();
    let mut pieces = Pieces::default();
    let mut at = 0;
    // Where the source would be if nothing had been inserted since the last copy.
    let mut shift = 0_i64;
    let mut hash = None;
    while at < window.len() {
        let here = (offset + at as u64) as i64;
        let near = [here.wrapping_add(shift), here];
        if let Some((from, length)) = near_match(&window[at..], near, source)?
            && pieces.copy(at, from, length)
        {
            shift = from as i64 - here;
            at += length;
            hash = None;
            continue;
        }
        let run = run_length(&window[at..]);
        if run >= LEAST_RUN {
            pieces.run(at, window[at], run);
            at += run;
            hash = None;
            continue;
        }
        let Some(end) = at.checked_add(block).filter(|end| *end <= window.len()) else {
            at += 1;
            continue;
        };
        let key = hash.unwrap_or_else(|| index.hash(&window[at..end]));
        if let Some(from) = index.find(key) {
            let forward = forward(&window[at..], from, source)?;
            if forward >= block {
                let back = backward(&window[pieces.covered..at], from, source)?;
                let length = back + forward;
                if pieces.copy(at - back, from - back as u64, length) {
                    shift = from as i64 - here;
                    at += forward;
                    hash = None;
                    continue;
                }
            }
        }
        hash = window.get(end).map(|enters| index.roll(key, window[at], *enters));
        at += 1;
    }
    pieces.add_until(window.len());
    Ok(pieces)
}

/// A copy from one of these offsets, the longest, if it is worth it.
fn near_match<S: Source>(
    window: &[u8],
    offsets: [i64; 2],
    source: &mut Cached<S>,
) -> io::Result<Option<(u64, usize)>> {
    let mut best = None;
    let offsets = if offsets[0] == offsets[1] { &offsets[..1] } else { &offsets };
    for from in offsets.iter().filter_map(|offset| u64::try_from(*offset).ok()) {
        let length = forward(window, from, source)?;
        if length >= LEAST_NEAR && best.is_none_or(|(_, longest)| length > longest) {
            best = Some((from, length));
        }
    }
    Ok(best)
}

/// How many bytes from here on are equal.
fn forward<S: Source>(window: &[u8], from: u64, source: &mut Cached<S>) -> io::Result<usize> {
    let mut equal = 0;
    while equal < window.len() && from + (equal as u64) < source.bytes() {
        let other = source.from(from + equal as u64)?;
        let most = other.len().min(window.len() - equal);
        let same = common(&window[equal..equal + most], &other[..most]);
        equal += same;
        if same < most {
            break;
        }
    }
    Ok(equal)
}

/// How many bytes before here are equal.
fn backward<S: Source>(window: &[u8], until: u64, source: &mut Cached<S>) -> io::Result<usize> {
    let mut equal = 0;
    while equal < window.len() && (equal as u64) < until {
        let other = source.until(until - equal as u64)?;
        let most = other.len().min(window.len() - equal);
        let mine = window[..window.len() - equal].iter().rev().take(most);
        let same = mine.zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
        equal += same;
        if same < most {
            break;
        }
    }
    Ok(equal)
}

/// Length of the common beginning of two slices of equal length.
fn common(one: &[u8], other: &[u8]) -> usize {
    let words = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
    let equal = 8 * words.take_while(|(a, b)| a == b).count();
    equal + one[equal..].iter().zip(&other[equal..]).take_while(|(a, b)| a == b).count()
}

fn run_length(window: &[u8]) -> usize {
    // Nearly all bytes are told by the first few.
    match window {
        [first, second, third, ..] if first == second && second == third => {
            window.iter().take_while(|byte| *byte == first).count()
        }
        _ => 0,
    }
}
