//! What a delta is made against, read at offsets.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that can be read at any offset.
pub trait Source {
    /// How many there are.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `into` from `offset` on. Fails where the bytes end before.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl<S: Source + ?Sized> Source for &S {
    fn bytes(&self) -> io::Result<u64> {
        (**self).bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, into)
    }
}

impl Source for [u8] {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)?.get(..into.len()));
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Source for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

/// Several files, one behind the other. Their lengths are those at the time of joining.
#[derive(Debug)]
pub struct Joined<S> {
    parts: Vec<S>,
    /// Where each part ends.
    ends: Vec<u64>,
}

impl<S: Source> Joined<S> {
    /// Joins them in this order.
    pub fn new(parts: Vec<S>) -> io::Result<Self> {
        let mut end = 0_u64;
        let mut ends = Vec::with_capacity(parts.len());
        for part in &parts {
            end = end.checked_add(part.bytes()?).ok_or(io::ErrorKind::FileTooLarge)?;
            ends.push(end);
        }
        Ok(Self { parts, ends })
    }
}

impl<S: Source> Source for Joined<S> {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.ends.last().copied().unwrap_or(0))
    }

    fn read_at(&self, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let part = self.ends.partition_point(|end| *end <= offset);
            let end = *self.ends.get(part).ok_or(io::ErrorKind::UnexpectedEof)?;
            let first = part.checked_sub(1).map_or(0, |before| self.ends[before]);
            let count = (end - offset).min(into.len() as u64) as usize;
            let (here, rest) = into.split_at_mut(count);
            self.parts[part].read_at(offset - first, here)?;
            offset += count as u64;
            into = rest;
        }
        Ok(())
    }
}

/// Length of a block of the cache, bytes.
const BLOCK_BYTES: usize = 64 * 1024;
/// How many blocks it keeps: 16 MiB. A guess: more than one window's copies are near each other.
const SLOTS: usize = 256;

/// Reads a source through a small cache, since copies are short and near each other.
#[derive(Debug)]
pub(super) struct Cached<S> {
    source: S,
    bytes: u64,
    /// Block with number `n` is in slot `n % SLOTS`, if anywhere.
    slots: Vec<Option<(u64, Vec<u8>)>>,
}

impl<S: Source> Cached<S> {
    pub fn new(source: S) -> io::Result<Self> {
        let bytes = source.bytes()?;
        Ok(Self { source, bytes, slots: (0..SLOTS).map(|_| None).collect() })
    }

    /// How many bytes the source has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes from `offset`, which must lie within the source, to the end of its block of the cache. At least one.
    pub fn from(&mut self, offset: u64) -> io::Result<&[u8]> {
        if offset >= self.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (number, within) = (offset / BLOCK_BYTES as u64, offset % BLOCK_BYTES as u64);
        Ok(&self.block(number)?[within as usize..])
    }

    /// The bytes from the beginning of a block of the cache up to `offset`, which is not 0. At least one.
    pub fn until(&mut self, offset: u64) -> io::Result<&[u8]> {
        let (number, within) = ((offset - 1) / BLOCK_BYTES as u64, (offset - 1) % BLOCK_BYTES as u64);
        Ok(&self.block(number)?[..=within as usize])
    }

    /// Fills `into`. Long reads go past the cache.
    pub fn read(&mut self, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        if into.len() >= BLOCK_BYTES {
            return self.source.read_at(offset, into);
        }
        while !into.is_empty() {
            let from = self.from(offset)?;
            let count = from.len().min(into.len());
            let (here, rest) = into.split_at_mut(count);
            here.copy_from_slice(&from[..count]);
            offset += count as u64;
            into = rest;
        }
        Ok(())
    }

    fn block(&mut self, number: u64) -> io::Result<&[u8]> {
        let first = number * BLOCK_BYTES as u64;
        let length = self.bytes.checked_sub(first).filter(|left| *left > 0);
        let length = length.ok_or(io::ErrorKind::UnexpectedEof)?.min(BLOCK_BYTES as u64) as usize;
        let slot = &mut self.slots[number as usize % SLOTS];
        if slot.as_ref().is_none_or(|(held, _)| *held != number) {
            // Emptied first: after an error there must not be half a block under the old number.
            let mut content = slot.take().map(|(_, content)| content).unwrap_or_default();
            content.resize(length, 0);
            self.source.read_at(first, &mut content)?;
            *slot = Some((number, content));
        }
        Ok(slot.as_ref().map_or(&[][..], |(_, content)| content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_and_cached_sources_read_the_same_as_one_piece() {
        let all: Vec<u8> = (0..400_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let joined =
            Joined::new(vec![&all[..100], &all[100..100], &all[100..70_000], &all[70_000..]]).unwrap();
        let mut cached = Cached::new(&joined).unwrap();
        assert_eq!(cached.bytes(), all.len() as u64);
        for (offset, length) in
            [(0, 400_000), (99, 2), (65_530, 10), (399_990, 10), (1, 65_535), (69_999, 66_000)]
        {
            let mut into = vec![0; length];
            cached.read(offset as u64, &mut into).unwrap();
            assert_eq!(into, all[offset..offset + length]);
        }
        assert_eq!(cached.until(65_536).unwrap().len(), 65_536);
        assert_eq!(cached.from(399_999).unwrap(), &all[399_999..]);
        assert!(cached.from(400_000).is_err());
        assert!(cached.read(399_999, &mut [0; 2]).is_err());
        assert!(joined.read_at(399_999, &mut [0; 2]).is_err());
    }
}
