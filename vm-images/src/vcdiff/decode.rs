//! Reading a delta.

use std::io::{self, Read, Write};

use super::adler::adler32;
use super::cache::AddressCache;
use super::code::{self, Half};
use super::header::{self, Window};
use super::source::{Cached, Source};
use super::{Error, varint};

/// What a delta may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest window of the target, and longest section of a coded window, bytes.
    pub window_bytes: usize,
    /// Longest target, bytes.
    pub target_bytes: u64,
}

impl Default for Limits {
    /// Windows of 16 MiB, the longest that xdelta3 reads; targets of 16 TiB, as parts of images.
    fn default() -> Self {
        Self { window_bytes: 16 << 20, target_bytes: 1 << 44 }
    }
}

/// Makes a target from its source and a delta that comes in pieces. After an error it is of no use.
pub struct Decoder<S, W> {
    source: Cached<S>,
    to: W,
    limits: Limits,
    table: [[Half; 2]; 256],
    /// What has come of the part that is next.
    pending: Vec<u8>,
    has_begun: bool,
    windows: u64,
    written: u64,
    target: Vec<u8>,
}

impl<S: Source, W: Write> Decoder<S, W> {
    /// Writes the target to `to`, window by window.
    pub fn new(source: S, to: W, limits: Limits) -> Result<Self, Error> {
        Ok(Self {
            source: Cached::new(source).map_err(Error::Source)?,
            to,
            limits,
            table: code::table(),
            pending: Vec::new(),
            has_begun: false,
            windows: 0,
            written: 0,
            target: Vec::new(),
        })
    }

    /// Takes the next bytes of the delta.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        // In steps, so that never much more than one window is held, however much is pushed at once.
        while !bytes.is_empty() {
            let (step, rest) = bytes.split_at(bytes.len().min(64 * 1024));
            self.pending.extend_from_slice(step);
            bytes = rest;
            let pending = std::mem::take(&mut self.pending);
            let used = self.use_up(&pending)?;
            self.pending = pending;
            self.pending.drain(..used);
        }
        Ok(())
    }

    /// Decodes all that is whole; gives how many bytes that was.
    fn use_up(&mut self, pending: &[u8]) -> Result<usize, Error> {
        let mut used = 0;
        if !self.has_begun {
            let Some(length) = header::delta(pending)? else { return Ok(0) };
            self.has_begun = true;
            used = length;
        }
        while let Some(window) = Window::read(&pending[used..], self.source.bytes(), &self.limits)?
            && let Some(coded) = pending[used..].get(..window.bytes())
        {
            self.window(&window, &coded[window.begin..])?;
            used += coded.len();
        }
        Ok(used)
    }

    /// The delta is at its end; gives the output, flushed, and how many bytes it got.
    pub fn finish(mut self) -> Result<(W, u64), Error> {
        if !self.has_begun || !self.pending.is_empty() {
            return Err(Error::Truncated);
        }
        self.to.flush().map_err(Error::Output)?;
        Ok((self.to, self.written))
    }

    fn window(&mut self, window: &Window, sections: &[u8]) -> Result<(), Error> {
        let bytes = self.written + window.target_bytes as u64;
        if bytes > self.limits.target_bytes {
            return Err(Error::TooLong { what: "a target", bytes, most: self.limits.target_bytes });
        }
        let (data, rest) = sections.split_at(window.sections[0]);
        let (instructions, addresses) = rest.split_at(window.sections[1]);
        self.target.clear();
        let mut run = Execution {
            source: &mut self.source,
            window,
            target: &mut self.target,
            data,
            addresses,
            cache: AddressCache::new(),
        };
        run.all(instructions, &self.table)?;
        if window.adler32.is_some_and(|sum| sum != adler32(&self.target)) {
            return Err(Error::Checksum { window: self.windows });
        }
        self.to.write_all(&self.target).map_err(Error::Output)?;
        self.windows += 1;
        self.written = bytes;
        Ok(())
    }
}

const MISFIT: Error = Error::Damaged("its instructions do not fill a window");

/// The instructions of one window.
struct Execution<'a, S> {
    source: &'a mut Cached<S>,
    window: &'a Window,
    target: &'a mut Vec<u8>,
    data: &'a [u8],
    addresses: &'a [u8],
    cache: AddressCache,
}

impl<S: Source> Execution<'_, S> {
    fn all(&mut self, mut instructions: &[u8], table: &[[Half; 2]; 256]) -> Result<(), Error> {
        while let Some(code) = instructions.split_off_first() {
            for half in table[usize::from(*code)] {
                self.half(half, &mut instructions)?;
            }
        }
        let is_used_up = self.data.is_empty() && self.addresses.is_empty();
        if self.target.len() == self.window.target_bytes && is_used_up { Ok(()) } else { Err(MISFIT) }
    }

    fn half(&mut self, half: Half, instructions: &mut &[u8]) -> Result<(), Error> {
        let size = match half {
            Half::Nothing => return Ok(()),
            Half::Add(size) | Half::Copy { size, .. } => size,
            Half::Run => 0,
        };
        let size = if size == 0 { varint::take(instructions).map_err(|_| MISFIT)? } else { u64::from(size) };
        if size > (self.window.target_bytes - self.target.len()) as u64 {
            return Err(MISFIT);
        }
        let size = size as usize;
        match half {
            Half::Nothing => {}
            Half::Add(_) => {
                let (added, rest) = self.data.split_at_checked(size).ok_or(MISFIT)?;
                self.target.extend_from_slice(added);
                self.data = rest;
            }
            Half::Run => {
                let byte = self.data.split_off_first().ok_or(MISFIT)?;
                self.target.resize(self.target.len() + size, *byte);
            }
            Half::Copy { mode, .. } => self.copy(mode, size)?,
        }
        Ok(())
    }

    /// Copies from the segment, from the window so far, or over the border between them.
    fn copy(&mut self, mode: u8, size: usize) -> Result<(), Error> {
        let (segment, length) = self.window.segment;
        let here = length + self.target.len() as u64;
        let address = self.cache.take(mode, here, &mut self.addresses).map_err(|_| MISFIT)?;
        let address = address.ok_or(Error::Damaged("it copies from what is not there yet"))?;
        let of_source = length.saturating_sub(address).min(size as u64) as usize;
        if of_source > 0 {
            let begin = self.target.len();
            self.target.resize(begin + of_source, 0);
            self.source.read(segment + address, &mut self.target[begin..]).map_err(Error::Source)?;
        }
        let mut left = size - of_source;
        let from = (address + of_source as u64 - length.min(address + of_source as u64)) as usize;
        // What is copied may reach into itself and is then repeated.
        while left > 0 {
            let count = left.min(self.target.len() - from);
            self.target.extend_from_within(from..from + count);
            left -= count;
        }
        Ok(())
    }
}

/// Decodes a whole delta; gives the length of the target, bytes.
pub fn decode(
    source: impl Source,
    mut delta: impl Read,
    to: impl Write,
    limits: Limits,
) -> Result<u64, Error> {
    let mut decoder = Decoder::new(source, to, limits)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match delta.read(&mut buffer) {
            Ok(0) => return decoder.finish().map(|(_, bytes)| bytes),
            Ok(count) => decoder.push(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Input(error)),
        }
    }
}
