//! The application overlay: what a Service VM is beyond its base VM, to be carried to cloudlets that hold the base.
//!
//! The paper's optimized VM synthesis. An [`Overlay`] says what there is (base, service, parts, chunks, hashes); the
//! payload is a file for each part, cut into chunks that may travel in any order over links that come and go:
//!
//! ```text
//! base, service VM ─► create ─► files of parts ─► Payload: chunk n ─ ─ (any order, any number of cuts) ─ ─► Inbox
//!                                                                                                             │ in order,
//! disk, memory, device state of the Service VM, hashes verified ◄─ Applier: one decoder per part ◄────────────┘ as they come
//! ```
//!
//! Two codings, behind one type:
//!
//! * [`Coding::Vcdiff`], the paper's: the qcow2 layer of the disk, and VCDIFFs of memory and device state against the
//!   base's, each packed with XZ. `xz`, `xdelta3 -d` and `qemu-img` read the parts.
//! * [`Coding::Blocks`], ours ([`blocks`]): 4 KiB blocks of the disk's file and of the memory by reference to the base's disk
//!   and memory and to what came before, so that what a service has loaded into its memory is not sent beside the
//!   file on its disk that it was loaded from. Device state is coded as in the other.
//!
//! # Bounds
//!
//! Applying holds one chunk, one window or group of a part (see [`crate::vcdiff`] and [`blocks`]) and at most 96 MiB for XZ. No length
//! is believed before it is checked against the overlay's metadata, which is itself capped.

mod apply;
pub mod blocks;
mod create;
mod inbox;
mod metadata;
mod output;
mod payload;
mod restore;
mod xz;

pub use apply::Applier;
pub use create::{Threads, create};
pub use inbox::Inbox;
pub use metadata::{CHUNK_BYTES, Coding, FORMAT, MAX_BYTES, Overlay, Part};
pub use payload::Payload;

use std::io;
use std::path::{Path, PathBuf};

use crate::id::{Digest, ImageId};
use crate::manifest::Role;
use crate::vcdiff;

/// The files of a suspended VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// qcow2 file; of a Service VM its layer over the base's.
    pub disk: PathBuf,
    /// Memory template.
    pub memory: PathBuf,
    /// Device stream.
    pub device: PathBuf,
}

impl Guest {
    /// The files in a directory of the image store, or in one like it.
    pub fn in_dir(dir: &Path) -> Self {
        let path = |role: Role| dir.join(role.file_name());
        Self { disk: path(Role::Disk), memory: path(Role::MemoryTemplate), device: path(Role::DeviceStream) }
    }

    /// The file with this role; device state for roles that an overlay has no part of.
    pub fn path(&self, role: Role) -> &Path {
        match role {
            Role::Disk => &self.disk,
            Role::MemoryTemplate => &self.memory,
            _ => &self.device,
        }
    }
}

/// Why an overlay cannot be made, received or applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no. What was being made is removed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The metadata cannot be used; nothing was begun.
    #[error("this is no usable overlay: {0}")]
    Metadata(&'static str),
    /// The metadata is no JSON of the wanted form; nothing was begun.
    #[error("this is no overlay")]
    Json(#[source] serde_json::Error),
    /// The overlay is for another base; nothing was begun.
    #[error("the overlay is for base {wanted}, this is {found}")]
    WrongBase {
        /// What it is for.
        wanted: ImageId,
        /// What was given.
        found: ImageId,
    },
    /// There is no such chunk. Nothing has changed.
    #[error("the overlay has {chunks} chunks, there is no number {number}")]
    NoSuchChunk {
        /// The chunk that was given.
        number: u32,
        /// How many there are.
        chunks: u32,
    },
    /// A chunk came before those in front of it, or again. Nothing has changed; the expected one may follow.
    #[error("chunk {found} came when chunk {expected} was next")]
    OutOfOrder {
        /// What is next.
        expected: u32,
        /// What came.
        found: u32,
    },
    /// A chunk is cut, or too long. Nothing has changed; the whole one may follow.
    #[error("chunk {number} has {found} bytes, not {expected}")]
    ChunkLength {
        /// Which.
        number: u32,
        /// Its length, bytes.
        expected: usize,
        /// What came, bytes.
        found: usize,
    },
    /// A chunk's content is wrong. Nothing has changed; the right one may follow.
    #[error("chunk {number} has another hash than the overlay says")]
    ChunkHash {
        /// Which.
        number: u32,
    },
    /// A part cannot be decoded. What was restored is removed.
    #[error("the {} of the overlay cannot be decoded", role.title())]
    Decode {
        /// Of which part.
        role: Role,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A part came out as something else: the base's files are not what they should be, or the overlay was made
    /// wrongly. What was restored is removed.
    #[error("the {} came out with hash {found}, not {wanted}: is the base intact?", role.title())]
    WrongResult {
        /// Of which part.
        role: Role,
        /// What it should be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// The end was asked for before all chunks had come. What was restored is removed.
    #[error("{missing} chunks of the overlay have not come")]
    Incomplete {
        /// How many.
        missing: u32,
    },
    /// An earlier error has ended this; begin anew.
    #[error("the overlay could not be applied before")]
    Ended,
    /// The difference could not be made. What was being made is removed.
    #[error("cannot make the difference")]
    Difference(#[source] vcdiff::Error),
}

impl Error {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }
}
