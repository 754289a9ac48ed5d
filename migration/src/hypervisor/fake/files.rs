//! The files of a fake guest: a real sparse template, and a device stream that holds what the guest remembers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::hypervisor::{Error, SuspendFiles, Suspended};
use crate::stream::{Content, Event, PAGE_BYTES, Page, Reader, SparseTemplate, TemplateSink};

/// Name of the one device of a fake guest in a stream.
pub(super) const DEVICE: &[u8] = b"fake-guest";
/// Pages by number.
pub(super) type Pages = BTreeMap<u64, Box<Page>>;

/// What a guest remembers while it is suspended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Its clock, ms since 1970.
    pub clock_unix_ms: u64,
    /// Its files by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Serials of disks that were not unplugged.
    pub disks: Vec<String>,
}

pub(super) fn must_be_readable(files: &[&Path]) -> Result<(), Error> {
    files
        .iter()
        .try_for_each(|path| File::open(path).map(drop).map_err(|source| cannot("cannot read", path, source)))
}

pub(super) fn write_console(path: &Path) -> Result<(), Error> {
    fs::write(path, "a fake guest runs\n").map_err(|source| cannot("cannot write", path, source))
}

/// What a guest remembered. A file that no fake has written is a guest that remembers nothing, in 1970.
///
/// One that begins as QEMU's do must be whole: it may bring pages that differ from the template.
pub(super) fn read_device_stream(path: &Path) -> Result<(Memory, Pages), Error> {
    let bytes = fs::read(path).map_err(|source| cannot("cannot read", path, source))?;
    if !bytes.starts_with(b"QEVM") {
        return Ok((serde_json::from_slice(&bytes).unwrap_or_default(), Pages::new()));
    }
    load(&bytes).map_err(|source| cannot("cannot load", path, source))
}

fn load(bytes: &[u8]) -> io::Result<(Memory, Pages)> {
    let (mut pages, mut opaque) = (Pages::new(), Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some(event) = reader.read().map_err(io::Error::other)? {
        match event {
            Event::Page { block: 0, offset, content } => {
                let page = match content {
                    Content::Zero => Box::new([0; PAGE_BYTES as usize]),
                    Content::Bytes(page) => Box::new(*page),
                };
                pages.insert(offset / PAGE_BYTES, page);
            }
            Event::Opaque(bytes) => opaque.extend_from_slice(bytes),
            _ => {}
        }
    }
    let is_no_device = || io::Error::other("no fake guest wrote this stream");
    // Type, number, name with its length, instance and version; then the length of what the guest remembers.
    let at = opaque.windows(DEVICE.len()).position(|name| name == DEVICE).ok_or_else(is_no_device)?;
    let payload = opaque.get(at + DEVICE.len() + 8..).ok_or_else(is_no_device)?;
    let (length, payload) = payload.split_first_chunk::<4>().ok_or_else(is_no_device)?;
    let memory = payload.get(..u32::from_be_bytes(*length) as usize).ok_or_else(is_no_device)?;
    Ok((serde_json::from_slice(memory).map_err(io::Error::other)?, pages))
}

/// Writes a suspended guest. Its template is as long as its memory, and one page for each file is not zero.
pub(super) fn write_suspended(
    into: &SuspendFiles,
    memory: &Memory,
    memory_bytes: u64,
) -> Result<Suspended, Error> {
    let stream = serde_json::to_vec(memory)
        .map_err(|error| cannot("cannot write", &into.device_stream, io::Error::other(error)))?;
    let used_pages = (memory.files.len() as u64 + 1).min(memory_bytes / PAGE_BYTES);
    write_template(&into.template, used_pages, memory_bytes)
        .map_err(|source| cannot("cannot write", &into.template, source))?;
    write_new(&into.device_stream, &stream)
        .map_err(|source| cannot("cannot write", &into.device_stream, source))?;
    Ok(Suspended {
        template_bytes: memory_bytes,
        template_used_bytes: used_pages * PAGE_BYTES,
        device_stream_bytes: stream.len() as u64,
    })
}

/// Writes what a suspension leaves that failed in the middle.
pub(super) fn write_half(into: &SuspendFiles, memory_bytes: u64) -> Result<(), Error> {
    write_template(&into.template, 1, memory_bytes / 2)
        .map_err(|source| cannot("cannot write", &into.template, source))
}

fn write_template(path: &Path, used_pages: u64, memory_bytes: u64) -> io::Result<()> {
    let mut template = SparseTemplate::create(path)?;
    template.set_len(memory_bytes)?;
    for page in 0..used_pages {
        template.write_page(page * PAGE_BYTES, &[0xfa; PAGE_BYTES as usize])?;
    }
    template.into_file().map(drop)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut File::create_new(path)?, bytes)
}

pub(super) fn cannot(doing: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { doing, path: path.to_owned(), source }
}
