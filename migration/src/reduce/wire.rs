//! Frames between a source and its sink.
//!
//! ```text
//! u8 version | u8 kind | u32 length | body
//! 0 begin   u8 space | u8 bits: 1 has a base | u64 blocks | u32 pages that are there already | u16 base | u16 parts | 32 bytes each
//! 1 group   u8 space | u32 first page that it brings | u32 unpacked length | zstd or xz: directory, pages
//! 2 device  u16 part that it was packed against, ffff for none | u32 unpacked length | zstd
//! 3 end     u8 space | u32 blocks that differ | 32 bytes: their hash
//! ```
//! Numbers are little endian. Every length is capped before anything is allocated for it. There is no checksum beside
//! zstd's and xz's: frames travel through an encrypted and authenticated connection, and what they restore is checked whole.

use std::fmt;
use std::io::{self, Read};

use vm_images::Digest;

use super::{BLOCK_BYTES, WireError, directory};

/// Version of frames that this release speaks.
pub const VERSION: u8 = 2;
/// Most pages that a group may bring; this release sends a quarter of it.
pub(super) const MOST_PAGES: usize = 1024;
/// Most bytes of an unpacked group.
pub(super) const MOST_GROUP_BYTES: usize = MOST_PAGES * BLOCK_BYTES + directory::MOST_BYTES;
/// Most bytes of device state. Measured: 0.5 MB; the rest is room for video memory and more devices.
pub(super) const MOST_DEVICE_BYTES: usize = 32 << 20;
/// Longest frame, bytes: incompressible device state, and what zstd adds to it.
pub const MAX_FRAME_BYTES: usize = MOST_DEVICE_BYTES + MOST_DEVICE_BYTES / 128 + 1024;
const HEADER_BYTES: usize = 6;
const NO_PART: u16 = u16::MAX;

/// What blocks belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// The guest's memory.
    Memory,
    /// The guest's disk.
    Disk,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        })
    }
}

/// A piece of what is sent. To be passed on in order, whole, and once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A memory or disk begins, from its base; what came of it before is forgotten, pages that arrived are not.
    Begin {
        /// Which.
        space: Space,
        /// Its length in blocks of 4096 bytes.
        blocks: u64,
        /// Index in `parts` of what lies under it.
        base: Option<u16>,
        /// Pages that the sink has, as the source believes.
        have: u32,
        /// The parts that are referred to by their place here.
        parts: Vec<Digest>,
    },
    /// Blocks that changed.
    Group {
        /// Of which space.
        space: Space,
        /// Number of the first page that it brings.
        first: u32,
        /// Length of what was packed, bytes.
        unpacked_bytes: u32,
        /// The directory and the pages, packed.
        packed: Vec<u8>,
    },
    /// QEMU's stream without the pages of the memory.
    Device {
        /// The part that it was packed against: an index in the `parts` of the memory.
        against: Option<u16>,
        /// Length of what was packed, bytes.
        unpacked_bytes: u32,
        /// Packed.
        packed: Vec<u8>,
    },
    /// A memory or disk is complete.
    End {
        /// Which.
        space: Space,
        /// Blocks that differ from the base.
        differing: u32,
        /// Their hash.
        root: [u8; 32],
    },
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.kind(), 0, 0, 0, 0];
        match self {
            Self::Begin { space, blocks, base, have, parts } => {
                out.extend([space_byte(*space), u8::from(base.is_some())]);
                out.extend(blocks.to_le_bytes());
                out.extend(have.to_le_bytes());
                out.extend(base.unwrap_or(0).to_le_bytes());
                out.extend((parts.len() as u16).to_le_bytes());
                parts.iter().for_each(|part| out.extend(part.as_bytes()));
            }
            Self::Group { space, first, unpacked_bytes, packed } => {
                out.push(space_byte(*space));
                out.extend(first.to_le_bytes());
                out.extend(unpacked_bytes.to_le_bytes());
                out.extend(packed);
            }
            Self::Device { against, unpacked_bytes, packed } => {
                out.extend(against.unwrap_or(NO_PART).to_le_bytes());
                out.extend(unpacked_bytes.to_le_bytes());
                out.extend(packed);
            }
            Self::End { space, differing, root } => {
                out.push(space_byte(*space));
                out.extend(differing.to_le_bytes());
                out.extend(root);
            }
        }
        let length = (out.len() - HEADER_BYTES) as u32;
        out[2..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        out
    }

    /// Reads a frame from exactly its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(CUT)?;
        let (kind, length) = check_header(header)?;
        if body.len() != length {
            return Err(WireError::Damaged("a frame has another length than it says"));
        }
        decode_body(kind, body)
    }

    /// Reads the next frame of a connection or file; `None` at its end.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        match from.read(&mut header[..1])? {
            0 => return Ok(None),
            _ => from.read_exact(&mut header[1..])?,
        }
        let (kind, length) = check_header(&header).map_err(io::Error::other)?;
        let mut body = Vec::new();
        // Grows with what really comes.
        from.take(length as u64).read_to_end(&mut body)?;
        if body.len() != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        decode_body(kind, &body).map(Some).map_err(io::Error::other)
    }

    /// Length of the frame's bytes.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES
            + match self {
                Self::Begin { parts, .. } => 18 + 32 * parts.len(),
                Self::Group { packed, .. } => 9 + packed.len(),
                Self::Device { packed, .. } => 6 + packed.len(),
                Self::End { .. } => 37,
            }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Begin { .. } => 0,
            Self::Group { .. } => 1,
            Self::Device { .. } => 2,
            Self::End { .. } => 3,
        }
    }
}

const CUT: WireError = WireError::Damaged("a frame ends too early");

fn check_header(header: &[u8; HEADER_BYTES]) -> Result<(u8, usize), WireError> {
    let [version, kind, length @ ..] = *header;
    if version != VERSION {
        return Err(WireError::Version { found: version });
    }
    let length = u32::from_le_bytes(length) as usize;
    cap("the length of a frame", length, MAX_FRAME_BYTES)?;
    Ok((kind, length))
}

pub(super) fn cap(what: &'static str, found: usize, most: usize) -> Result<(), WireError> {
    if found <= most {
        return Ok(());
    }
    Err(WireError::TooLong { what, found: found as u64, most: most as u64 })
}

fn decode_body(kind: u8, mut body: &[u8]) -> Result<Frame, WireError> {
    let from = &mut body;
    let frame = match kind {
        0 => begin(from)?,
        1 => {
            let (space, first, unpacked_bytes) = (space(from)?, u32(from)?, u32(from)?);
            cap("the length of an unpacked group", unpacked_bytes as usize, MOST_GROUP_BYTES)?;
            Frame::Group { space, first, unpacked_bytes, packed: std::mem::take(from).to_vec() }
        }
        2 => {
            let (against, unpacked_bytes) = (u16(from)?, u32(from)?);
            cap("the length of device state", unpacked_bytes as usize, MOST_DEVICE_BYTES)?;
            let against = (against != NO_PART).then_some(against);
            Frame::Device { against, unpacked_bytes, packed: std::mem::take(from).to_vec() }
        }
        3 => Frame::End { space: space(from)?, differing: u32(from)?, root: array(from)? },
        _ => return Err(WireError::Damaged("no frame has this kind")),
    };
    if from.is_empty() { Ok(frame) } else { Err(WireError::Damaged("bytes are left over in a frame")) }
}

fn begin(from: &mut &[u8]) -> Result<Frame, WireError> {
    let space = space(from)?;
    let [bits] = array(from)?;
    let blocks = u64::from_le_bytes(array(from)?);
    if blocks > u64::from(u32::MAX) {
        let most = u64::from(u32::MAX);
        return Err(WireError::TooLong { what: "a number of blocks", found: blocks, most });
    }
    let (have, base, count) = (u32(from)?, u16(from)?, u16(from)?);
    cap("a number of parts", count.into(), directory::MOST_PARTS)?;
    let parts = (0..count).map(|_| array(from).map(Digest::from_bytes)).collect::<Result<Vec<_>, _>>()?;
    let base = match bits {
        0 if base == 0 => None,
        1 if base < count => Some(base),
        _ => return Err(WireError::Damaged("a base that is not among the parts")),
    };
    Ok(Frame::Begin { space, blocks, base, have, parts })
}

fn space_byte(space: Space) -> u8 {
    match space {
        Space::Memory => 0,
        Space::Disk => 1,
    }
}

fn space(from: &mut &[u8]) -> Result<Space, WireError> {
    match array(from)? {
        [0] => Ok(Space::Memory),
        [1] => Ok(Space::Disk),
        _ => Err(WireError::Damaged("neither memory nor disk")),
    }
}

fn u16(from: &mut &[u8]) -> Result<u16, WireError> {
    array(from).map(u16::from_le_bytes)
}

fn u32(from: &mut &[u8]) -> Result<u32, WireError> {
    array(from).map(u32::from_le_bytes)
}

fn array<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (found, rest) = from.split_first_chunk::<N>().ok_or(CUT)?;
    *from = rest;
    Ok(*found)
}
