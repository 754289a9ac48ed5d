//! A group as bytes. Numbers are little endian.
//!
//! ```text
//! u32 first block | u32 blocks | u32 directory bytes | u32 content bytes | u32 delta bytes | u8 packing | u32 packed bytes
//! packed (directory ‖ VCDIFF of the content)
//! directory: runs of u8 what | u32 count | for "from": u8 part, u32 block
//! ```

use std::io::{self, Read, Write};

use super::CONTENT_BYTES;
use crate::index::BLOCK_BYTES;

/// Length of a group's header, bytes.
pub(super) const HEADER_BYTES: usize = 25;
/// Longest directory, bytes.
pub(super) const MOST_DIRECTORY: usize = 1 << 20;
/// Longest run, bytes in the directory.
pub(super) const MOST_RUN: usize = 10;
/// A VCDIFF of content that has nothing in common with anything is this much longer at most.
const MOST_MORE: usize = 64 * 1024;
/// Most memory for unpacking XZ, bytes.
const MOST_MEMORY: u64 = 96 << 20;

/// How a group is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Zstd = 1,
    Xz = 2,
}

/// What a run of blocks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Same,
    Zero,
    From { part: u8, block: u32 },
    Raw,
    Xor,
}

/// What a group begins with; within the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub first: u32,
    pub blocks: u32,
    pub directory_bytes: usize,
    pub content_bytes: usize,
    pub delta_bytes: usize,
    pub packing: Packing,
    pub packed_bytes: usize,
}

pub(super) fn damaged(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl Header {
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        let lengths =
            [self.directory_bytes, self.content_bytes, self.delta_bytes].map(|length| length as u32);
        for number in [self.first, self.blocks].iter().chain(&lengths) {
            bytes.extend(number.to_le_bytes());
        }
        bytes.push(self.packing as u8);
        bytes.extend((self.packed_bytes as u32).to_le_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> io::Result<Self> {
        let number = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(number)
        };
        let packing = match bytes[20] {
            1 => Packing::Zstd,
            2 => Packing::Xz,
            _ => return Err(damaged("a group is packed in an unknown way")),
        };
        let [directory_bytes, content_bytes, delta_bytes, packed_bytes] =
            [8, 12, 16, 21].map(|at| number(at) as usize);
        let header = Self {
            first: number(0),
            blocks: number(4),
            directory_bytes,
            content_bytes,
            delta_bytes,
            packing,
            packed_bytes,
        };
        // Incompressible bytes become a little longer by packing.
        let is_bounded = directory_bytes <= MOST_DIRECTORY
            && content_bytes <= CONTENT_BYTES
            && content_bytes.is_multiple_of(BLOCK_BYTES)
            && delta_bytes <= content_bytes + content_bytes / 64 + MOST_MORE
            && packed_bytes <= (directory_bytes + delta_bytes) / 64 * 65 + MOST_MORE;
        if is_bounded { Ok(header) } else { Err(damaged("the lengths of a group")) }
    }
}

pub(super) fn put_run(to: &mut Vec<u8>, what: What, count: u32) {
    let code = match what {
        What::Same => 0,
        What::Zero => 1,
        What::From { .. } => 2,
        What::Raw => 3,
        What::Xor => 4,
    };
    to.push(code);
    to.extend(count.to_le_bytes());
    if let What::From { part, block } = what {
        to.push(part);
        to.extend(block.to_le_bytes());
    }
}

/// Takes a run from the front.
pub(super) fn take_run(from: &mut &[u8]) -> io::Result<(What, u32)> {
    let cut = || damaged("the directory of a group is cut");
    let (code, rest) = from.split_first().ok_or_else(cut)?;
    let (count, mut rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let what = match code {
        0 => What::Same,
        1 => What::Zero,
        2 => {
            let (part, after) = rest.split_first().ok_or_else(cut)?;
            let (block, after) = after.split_first_chunk().ok_or_else(cut)?;
            rest = after;
            What::From { part: *part, block: u32::from_le_bytes(*block) }
        }
        3 => What::Raw,
        4 => What::Xor,
        _ => return Err(damaged("the directory of a group has an unknown code")),
    };
    *from = rest;
    Ok((what, u32::from_le_bytes(*count)))
}

/// Packs with XZ, and what is short with zstd as well. Of the new blocks of the disk of `speech` (63 MiB) XZ makes 30.1 MB
/// and `zstd -12 --long` 34.2 MB (measured).
pub(super) fn pack(bytes: &[u8]) -> io::Result<(Packing, Vec<u8>)> {
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 6);
    xz.write_all(bytes)?;
    let xz = xz.finish()?;
    if bytes.len() < 1 << 20 {
        let mut zstd = zstd::bulk::Compressor::new(19)?;
        zstd.include_checksum(true)?;
        let zstd = zstd.compress(bytes)?;
        if zstd.len() < xz.len() {
            return Ok((Packing::Zstd, zstd));
        }
    }
    Ok((Packing::Xz, xz))
}

/// Unpacks what must have exactly this length. Never makes more than one byte more.
pub(super) fn unpack(packing: Packing, packed: &[u8], bytes: usize) -> io::Result<Vec<u8>> {
    let unpacked = match packing {
        Packing::Zstd => zstd::bulk::decompress(packed, bytes)?,
        Packing::Xz => {
            let stream = xz2::stream::Stream::new_stream_decoder(MOST_MEMORY, 0)?;
            let mut unpacked = Vec::new();
            let decoder = xz2::bufread::XzDecoder::new_stream(packed, stream);
            decoder.take(bytes as u64 + 1).read_to_end(&mut unpacked)?;
            unpacked
        }
    };
    if unpacked.len() == bytes {
        Ok(unpacked)
    } else {
        Err(damaged("a group has another length than it says"))
    }
}
