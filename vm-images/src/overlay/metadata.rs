//! What an overlay says of itself.

use serde::{Deserialize, Serialize};

use super::Error;
use crate::id::{Digest, ImageId, ServiceId};
use crate::manifest::Role;

/// Version of the metadata that this release writes.
pub const FORMAT: u32 = 1;
/// Longest metadata that is read, bytes. That of 1 GiB in chunks of 256 KiB has 300 KB.
pub const MAX_BYTES: usize = 4 << 20;
/// Length of a chunk, bytes: half a minute at 64 kbit/s is what a cut costs at most. A guess.
pub const CHUNK_BYTES: u32 = 256 * 1024;
/// Longest chunk that is accepted, bytes.
const MOST_CHUNK_BYTES: u32 = 4 << 20;
/// Longest part, bytes: 16 TiB, as for parts of images.
const MOST_PART_BYTES: u64 = 1 << 44;
/// The parts that an overlay has, in this order: memory may refer to the disk.
pub(super) const ROLES: [Role; 3] = [Role::Disk, Role::MemoryTemplate, Role::DeviceStream];

/// How the parts are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coding {
    /// The paper's: qcow2 and VCDIFF, packed with XZ.
    Vcdiff,
    /// Ours: blocks against an index of the base's disk and memory.
    Blocks,
}

/// Describes an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// How the parts are coded.
    pub coding: Coding,
    /// The image that it lies over.
    pub base: ImageId,
    /// The service in the VM that comes out.
    pub service: ServiceId,
    /// Length of all chunks but the last one of each part, bytes.
    pub chunk_bytes: u32,
    /// Disk, memory and device state, in this order.
    pub parts: Vec<Part>,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What comes out.
    pub role: Role,
    /// Length of what comes out, bytes.
    pub restored_bytes: u64,
    /// BLAKE3 digest of what comes out.
    pub restored_blake3: Digest,
    /// Length of the payload, bytes.
    pub bytes: u64,
    /// BLAKE3 digests of the chunks of the payload.
    pub chunks: Vec<Digest>,
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of its part.
    pub part: usize,
    /// Where in the part's payload it begins, bytes.
    pub offset: u64,
    /// Its length, bytes.
    pub bytes: usize,
    pub blake3: Digest,
}

impl Overlay {
    /// Reads and checks metadata.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Metadata("it is too long"));
        }
        let overlay: Self = serde_json::from_slice(bytes).map_err(Error::Json)?;
        overlay.check().map(|()| overlay)
    }

    /// The metadata as it is stored and sent.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(Error::Json)
    }

    /// Checks that the numbers fit each other.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |reason| Err(Error::Metadata(reason));
        if self.format != FORMAT {
            return refuse("it is of another version");
        }
        if !(1..=MOST_CHUNK_BYTES).contains(&self.chunk_bytes) {
            return refuse("the length of its chunks");
        }
        if !self.parts.iter().map(|part| part.role).eq(ROLES) {
            return refuse("it must have disk, memory template and device stream");
        }
        for part in &self.parts {
            if part.bytes == 0 || part.bytes.max(part.restored_bytes) > MOST_PART_BYTES {
                return refuse("the length of a part");
            }
            if part.chunks.len() as u64 != part.bytes.div_ceil(self.chunk_bytes.into()) {
                return refuse("a part has not as many chunks as it must");
            }
        }
        Ok(())
    }

    /// Length of all parts' payload, bytes.
    pub fn payload_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> u32 {
        self.parts.iter().map(|part| part.chunks.len()).sum::<usize>() as u32
    }

    /// Where a chunk is; they are counted through all parts.
    pub(super) fn place(&self, number: u32) -> Result<Place, Error> {
        let mut left = number as usize;
        for (at, part) in self.parts.iter().enumerate() {
            if let Some(blake3) = part.chunks.get(left) {
                let offset = left as u64 * u64::from(self.chunk_bytes);
                let bytes = (part.bytes - offset).min(self.chunk_bytes.into()) as usize;
                return Ok(Place { part: at, offset, bytes, blake3: *blake3 });
            }
            left -= part.chunks.len();
        }
        Err(Error::NoSuchChunk { number, chunks: self.chunks() })
    }

    /// Refuses what is not exactly this chunk.
    pub(super) fn check_chunk(&self, number: u32, bytes: &[u8]) -> Result<Place, Error> {
        let place = self.place(number)?;
        if bytes.len() != place.bytes {
            return Err(Error::ChunkLength { number, expected: place.bytes, found: bytes.len() });
        }
        if Digest::of(bytes) != place.blake3 {
            return Err(Error::ChunkHash { number });
        }
        Ok(place)
    }
}
