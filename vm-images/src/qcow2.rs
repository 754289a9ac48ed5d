//! The few facts about qcow2 disks that an image's identity and a fast start depend on.
//!
//! Reading: which file a disk is layered on, so that a manifest's parent and the disk cannot disagree.
//! Writing: an empty overlay. Every start of a Service VM needs one, and starting `qemu-img` for it costs
//! about 15 ms (measured); writing the five fixed structures directly costs well under one.
//!
//! For moving a disk: [`Layer`] reads what one file of a chain holds, [`Chain`] what the guest sees through all of
//! them, and [`LayerWriter`] writes a layer with content.
//!
//! Layout after QEMU's `docs/interop/qcow2.rst`; all numbers are big endian.

mod chain;
mod header;
mod layer;
mod overlay;
mod writer;

pub use chain::Chain;
pub use header::{Header, read_header, virtual_size};
pub use layer::{Layer, Mapping};
pub use overlay::{create, create_overlay};
pub use writer::LayerWriter;

use std::io;
use std::path::PathBuf;

/// Why a disk file cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("cannot {action} disk {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file exists but is no qcow2 disk that this release can use.
    #[error("{} is not a usable qcow2 disk: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Refusal,
    },
    /// A disk of this size cannot be made; no file was left behind.
    #[error("a disk of {0} bytes cannot be made: a multiple of 512 up to {max} is wanted", max = header::MAX_VIRTUAL_BYTES)]
    Size(u64),
    /// The backing path cannot be recorded; no file was left behind.
    #[error("'{}' cannot be recorded as a backing file: 1 to 1023 bytes of UTF-8 are wanted", .0.display())]
    Backing(PathBuf),
}

/// Why bytes are not the header of a usable qcow2 disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too short or with another magic.
    #[error("it does not start with a qcow2 header")]
    NotQcow2,
    /// A version that this release does not know.
    #[error("it has version {0}; 2 and 3 are known")]
    Version(u32),
    /// A number that the format does not allow.
    #[error("its header is damaged: {0}")]
    Damaged(&'static str),
    /// A feature that would make the disk depend on something that the manifest does not cover.
    #[error("it uses {0}, which an image may not")]
    Feature(&'static str),
}
