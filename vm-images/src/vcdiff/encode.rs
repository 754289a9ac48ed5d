//! Writing a delta.

use std::io::{self, Read, Write};

use super::adler::adler32;
use super::cache::AddressCache;
use super::header::{ADLER32, MAGIC, SOURCE};
use super::matcher::{Piece, Pieces, cut};
use super::source::{Cached, Source};
use super::{Error, Index, WINDOW_BYTES, code, varint};

/// What a delta came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Length of the target, bytes.
    pub target_bytes: u64,
    /// Length of the delta, bytes.
    pub delta_bytes: u64,
    /// What of the target the delta brings itself, bytes.
    pub added_bytes: u64,
}

/// Makes deltas against one source.
#[derive(Debug)]
pub struct Encoder<S> {
    source: Cached<S>,
    index: Index,
}

impl<S: Source> Encoder<S> {
    /// Reads the whole source once.
    pub fn new(source: S) -> Result<Self, Error> {
        let index = Index::build(&source).map_err(Error::Source)?;
        Ok(Self { source: Cached::new(source).map_err(Error::Source)?, index })
    }

    /// Writes the delta of a target that is read once, from front to back.
    pub fn encode(&mut self, mut target: impl Read, mut to: impl Write) -> Result<Report, Error> {
        let mut report = Report::default();
        // No secondary compressor, code table or application data.
        let header = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], 0];
        to.write_all(&header).map_err(Error::Output)?;
        report.delta_bytes += header.len() as u64;
        let mut window = Vec::with_capacity(WINDOW_BYTES);
        loop {
            window.clear();
            (&mut target).take(WINDOW_BYTES as u64).read_to_end(&mut window).map_err(Error::Input)?;
            if window.is_empty() {
                break;
            }
            let pieces =
                cut(&window, report.target_bytes, &mut self.source, &self.index).map_err(Error::Source)?;
            let coded = Sections::of(&window, &pieces, &mut report);
            let bytes = coded.window(&window, pieces.segment);
            to.write_all(&bytes).map_err(Error::Output)?;
            report.target_bytes += window.len() as u64;
            report.delta_bytes += bytes.len() as u64;
        }
        to.flush().map_err(Error::Output)?;
        Ok(report)
    }
}

/// The three sections of a window.
#[derive(Debug, Default)]
struct Sections {
    data: Vec<u8>,
    instructions: Vec<u8>,
    addresses: Vec<u8>,
}

impl Sections {
    fn of(window: &[u8], pieces: &Pieces, report: &mut Report) -> Self {
        let mut sections = Self::default();
        let mut cache = AddressCache::new();
        let (low, high) = pieces.segment.unwrap_or((0, 0));
        let mut done = 0;
        for piece in &pieces.list {
            match *piece {
                Piece::Add { length } => {
                    sections.instruction(code::add(length), length);
                    sections.data.extend_from_slice(&window[done..done + length]);
                    report.added_bytes += length as u64;
                    done += length;
                }
                Piece::Run { byte, length } => {
                    sections.instruction((code::RUN, true), length);
                    sections.data.push(byte);
                    done += length;
                }
                Piece::Copy { from, length } => {
                    let here = high - low + done as u64;
                    let mode = cache.put(from - low, here, &mut sections.addresses);
                    sections.instruction(code::copy(length, mode), length);
                    done += length;
                }
            }
        }
        sections
    }

    /// No code for two at once is ever shorter here: those stand for copies of up to 6 bytes, and ours are longer.
    fn instruction(&mut self, (code, size_follows): (u8, bool), size: usize) {
        self.instructions.push(code);
        if size_follows {
            varint::put(&mut self.instructions, size as u64);
        }
    }

    fn window(&self, target: &[u8], segment: Option<(u64, u64)>) -> Vec<u8> {
        let mut body = Vec::new();
        varint::put(&mut body, target.len() as u64);
        body.push(0); // no section is compressed
        for section in [&self.data, &self.instructions, &self.addresses] {
            varint::put(&mut body, section.len() as u64);
        }
        body.extend(adler32(target).to_be_bytes());
        let sections = self.data.len() + self.instructions.len() + self.addresses.len();
        let mut window = Vec::with_capacity(body.len() + sections + 32);
        window.push(ADLER32 | if segment.is_some() { SOURCE } else { 0 });
        if let Some((low, high)) = segment {
            varint::put(&mut window, high - low);
            varint::put(&mut window, low);
        }
        varint::put(&mut window, (body.len() + sections) as u64);
        window.extend(body);
        for section in [&self.data, &self.instructions, &self.addresses] {
            window.extend_from_slice(section);
        }
        window
    }
}

/// Makes a delta of what is in memory; for what is small.
impl<S: Source> Encoder<S> {
    /// The delta of these bytes.
    pub fn encode_bytes(&mut self, target: &[u8]) -> Result<Vec<u8>, Error> {
        let mut delta = Vec::new();
        self.encode(target, &mut delta).map(|_| delta)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}
