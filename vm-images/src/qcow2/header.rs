//! Reading headers.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Error, Refusal};

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Length of a version 3 header without optional fields, bytes.
pub(super) const V3_BYTES: usize = 104;
/// Longest backing file name that the format allows, bytes.
pub(super) const MAX_BACKING_BYTES: usize = 1023;
/// Largest virtual size that is accepted, bytes: 16 TiB, as for parts of images.
pub(super) const MAX_VIRTUAL_BYTES: u64 = 1 << 44;
/// Header extension that names the format of the backing file.
pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
/// How much of a file is read for its header: the smallest size that holds header, extensions and backing name
/// as QEMU and this crate write them (the name follows the extensions directly).
const PREFIX_BYTES: usize = 64 * 1024;

const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_KNOWN: u64 = 0b1_1111;

/// What this crate needs of a qcow2 header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Size of the disk as the guest sees it, bytes.
    pub virtual_bytes: u64,
    /// Cluster size, bytes.
    pub cluster_bytes: u64,
    /// The backing file's name as stored; relative names are relative to the disk's own directory.
    pub backing: Option<String>,
    /// Format of the backing file, if the header records it.
    pub backing_format: Option<String>,
}

impl Header {
    /// Reads a header from the first bytes of a file; 64 KiB are always enough. Never panics, whatever they are.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.get(..4) != Some(&MAGIC[..]) {
            return Err(Refusal::NotQcow2);
        }
        let version = u32_at(bytes, 4)?;
        if !(2..=3).contains(&version) {
            return Err(Refusal::Version(version));
        }
        let cluster_bits = u32_at(bytes, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Refusal::Damaged("cluster size"));
        }
        let virtual_bytes = u64_at(bytes, 24)?;
        if virtual_bytes > MAX_VIRTUAL_BYTES {
            return Err(Refusal::Damaged("virtual size"));
        }
        if u32_at(bytes, 32)? != 0 {
            return Err(Refusal::Feature("encryption"));
        }
        let header_bytes = if version == 3 { check_features(bytes)? } else { 72 };
        let backing = backing(bytes)?;
        let backing_format = if backing.is_some() { backing_format(bytes, header_bytes)? } else { None };
        Ok(Self { version, virtual_bytes, cluster_bytes: 1 << cluster_bits, backing, backing_format })
    }
}

/// Checks a version 3 header's feature bits; says how long the header is.
fn check_features(bytes: &[u8]) -> Result<usize, Refusal> {
    let incompatible = u64_at(bytes, 72)?;
    if incompatible & INCOMPATIBLE_CORRUPT != 0 {
        return Err(Refusal::Damaged("QEMU marked the disk as corrupt"));
    }
    if incompatible & INCOMPATIBLE_DATA_FILE != 0 {
        return Err(Refusal::Feature("an external data file"));
    }
    if incompatible & !INCOMPATIBLE_KNOWN != 0 {
        return Err(Refusal::Feature("a format feature that this release does not know"));
    }
    let header_bytes = u32_at(bytes, 100)? as usize;
    if header_bytes < V3_BYTES || !header_bytes.is_multiple_of(8) || header_bytes > PREFIX_BYTES {
        return Err(Refusal::Damaged("header length"));
    }
    Ok(header_bytes)
}

fn backing(bytes: &[u8]) -> Result<Option<String>, Refusal> {
    let offset = u64_at(bytes, 8)?;
    if offset == 0 {
        return Ok(None);
    }
    let length = u32_at(bytes, 16)? as usize;
    if length == 0 || length > MAX_BACKING_BYTES {
        return Err(Refusal::Damaged("length of the backing file's name"));
    }
    let misplaced = Refusal::Damaged("place of the backing file's name");
    let start = usize::try_from(offset).map_err(|_| misplaced.clone())?;
    let end = start.checked_add(length).ok_or(misplaced.clone())?;
    let name = bytes.get(start..end).ok_or(misplaced)?;
    let name =
        std::str::from_utf8(name).map_err(|_| Refusal::Damaged("the backing file's name is not UTF-8"))?;
    Ok(Some(name.to_owned()))
}

/// Walks the header extensions: u32 type, u32 length, data padded to 8 bytes, until type 0.
fn backing_format(bytes: &[u8], mut at: usize) -> Result<Option<String>, Refusal> {
    loop {
        let (kind, length) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)? as usize);
        if kind == 0 {
            return Ok(None);
        }
        let damaged = Refusal::Damaged("header extension");
        let end = (at + 8).checked_add(length).ok_or(damaged.clone())?;
        let data = bytes.get(at + 8..end).ok_or(damaged.clone())?;
        if kind == BACKING_FORMAT {
            return Ok(Some(std::str::from_utf8(data).map_err(|_| damaged)?.to_owned()));
        }
        at = end.next_multiple_of(8);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Refusal> {
    let found =
        bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Refusal::Damaged("it ends too early"))?;
    Ok(u32::from_be_bytes(*found))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Refusal> {
    let found =
        bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Refusal::Damaged("it ends too early"))?;
    Ok(u64::from_be_bytes(*found))
}

/// Reads the header of a disk file. The file is only read.
pub fn read_header(path: &Path) -> Result<Header, Error> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut prefix = vec![0; PREFIX_BYTES];
    let mut filled = 0;
    while filled < prefix.len() {
        match file.read_at(&mut prefix[filled..], filled as u64).map_err(failed)? {
            0 => break,
            count => filled += count,
        }
    }
    Header::parse(&prefix[..filled]).map_err(|reason| Error::Format { path: path.to_owned(), reason })
}

/// Size of a qcow2 disk as the guest sees it, bytes.
pub fn virtual_size(path: &Path) -> Result<u64, Error> {
    read_header(path).map(|header| header.virtual_bytes)
}
