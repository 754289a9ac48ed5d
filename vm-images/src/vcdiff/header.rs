//! The numbers that a delta and its windows begin with, read from as many bytes as have come.

use super::varint::{self, Stop};
use super::{Error, Limits};

/// "VCD" with high bits, and version 0.
pub(super) const MAGIC: [u8; 4] = [0xd6, 0xc3, 0xc4, 0];
/// Bits of a window's indicator. The last is xdelta3's extension.
pub(super) const SOURCE: u8 = 1;
pub(super) const TARGET: u8 = 2;
pub(super) const ADLER32: u8 = 4;
/// Bits of the delta's indicator. The last is xdelta3's extension: it names the files there.
const SECONDARY: u8 = 1;
const CODE_TABLE: u8 = 2;
const APPLICATION: u8 = 4;
/// Longest application data that is skipped, bytes. xdelta3 puts two file names there.
const MOST_APPLICATION: u64 = 64 * 1024;

/// What is there, or that more bytes must come first.
pub(super) type Parsed<T> = Result<Option<T>, Error>;

fn number(from: &mut &[u8]) -> Parsed<u64> {
    match varint::take(from) {
        Ok(value) => Ok(Some(value)),
        Err(Stop::Short) => Ok(None),
        Err(Stop::TooLarge) => Err(Error::Damaged("a number does not fit 63 bits")),
    }
}

fn byte(from: &mut &[u8]) -> Option<u8> {
    from.split_off_first().copied()
}

/// Reads what a delta begins with; gives how long it is.
pub(super) fn delta(bytes: &[u8]) -> Parsed<usize> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(Error::NotVcdiff);
    }
    let mut rest = &bytes[known..];
    let Some(indicator) = byte(&mut rest) else { return Ok(None) };
    if indicator & CODE_TABLE != 0 {
        return Err(Error::Unsupported("a code table of its own"));
    }
    if indicator & !(SECONDARY | CODE_TABLE | APPLICATION) != 0 {
        return Err(Error::Unsupported("an unknown bit of the header"));
    }
    // Whether a window makes use of the compressor is said there.
    if indicator & SECONDARY != 0 && byte(&mut rest).is_none() {
        return Ok(None);
    }
    if indicator & APPLICATION != 0 {
        let Some(length) = number(&mut rest)? else { return Ok(None) };
        if length > MOST_APPLICATION {
            return Err(Error::TooLong { what: "application data", bytes: length, most: MOST_APPLICATION });
        }
        let Some(after) = rest.get(length as usize..) else { return Ok(None) };
        rest = after;
    }
    Ok(Some(bytes.len() - rest.len()))
}

/// What a window begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Offset and length of the source's segment; (0, 0) without one.
    pub segment: (u64, u64),
    pub target_bytes: usize,
    /// Length of data, instructions and addresses.
    pub sections: [usize; 3],
    pub adler32: Option<u32>,
    /// Where in the window's bytes the sections begin.
    pub begin: usize,
}

impl Window {
    /// Length of the whole coded window, bytes.
    pub fn bytes(&self) -> usize {
        self.begin + self.sections.iter().sum::<usize>()
    }

    /// Reads it. All lengths are within the limits and fit each other.
    pub fn read(bytes: &[u8], source_bytes: u64, limits: &Limits) -> Parsed<Self> {
        let mut rest = bytes;
        let Some(indicator) = byte(&mut rest) else { return Ok(None) };
        if indicator & TARGET != 0 {
            return Err(Error::Unsupported("copies from earlier windows"));
        }
        if indicator & !(SOURCE | ADLER32) != 0 {
            return Err(Error::Unsupported("an unknown bit of a window"));
        }
        let mut segment = (0, 0);
        if indicator & SOURCE != 0 {
            let Some(length) = number(&mut rest)? else { return Ok(None) };
            let Some(offset) = number(&mut rest)? else { return Ok(None) };
            if offset.checked_add(length).is_none_or(|end| end > source_bytes) {
                return Err(Error::Damaged("it refers to what is behind the end of the source"));
            }
            segment = (offset, length);
        }
        let Some(coded) = number(&mut rest)? else { return Ok(None) };
        let before = rest.len();
        let Some(target) = number(&mut rest)? else { return Ok(None) };
        let most = limits.window_bytes as u64;
        if target > most {
            return Err(Error::TooLong { what: "a window", bytes: target, most });
        }
        let Some(compressed) = byte(&mut rest) else { return Ok(None) };
        if compressed != 0 {
            return Err(Error::Unsupported("secondary compression"));
        }
        let mut sections = [0; 3];
        for section in &mut sections {
            let Some(length) = number(&mut rest)? else { return Ok(None) };
            if length > most {
                return Err(Error::TooLong { what: "a section", bytes: length, most });
            }
            *section = length as usize;
        }
        let mut adler32 = None;
        if indicator & ADLER32 != 0 {
            let Some((sum, after)) = rest.split_first_chunk() else { return Ok(None) };
            adler32 = Some(u32::from_be_bytes(*sum));
            rest = after;
        }
        let all = (before - rest.len()) as u64 + sections.iter().map(|length| *length as u64).sum::<u64>();
        if all != coded {
            return Err(Error::Damaged("the lengths of a window contradict each other"));
        }
        let begin = bytes.len() - rest.len();
        Ok(Some(Self { segment, target_bytes: target as usize, sections, adler32, begin }))
    }
}
