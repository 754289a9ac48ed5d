//! What can go wrong.

use std::io;
use std::path::PathBuf;

use vm_images::{Digest, qcow2};

use super::Space;
use crate::stream;

/// Why a VM could not be reduced or restored.
///
/// A source that failed has changed nothing: the VM can go on. A sink that failed has not given out anything that may run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU's stream is not one.
    #[error("cannot use the migration stream")]
    Stream(#[source] stream::Error),
    /// A disk cannot be read or written.
    #[error("cannot use a disk")]
    Disk(#[source] qcow2::Error),
    /// A file cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The link took no more.
    #[error("cannot send frame {frame}; what was sent before it is kept by the other side")]
    Send {
        /// Its number, from 0.
        frame: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Compressing failed, which is for want of memory.
    #[error("cannot compress")]
    Pack(#[source] io::Error),
    /// A worker thread panicked.
    #[error("a compressing thread panicked; this is a bug")]
    Worker,
    /// Memory and base have different lengths.
    #[error("the {space} has {found} blocks and its base has {base}; they do not belong together")]
    OtherBase {
        /// Which.
        space: Space,
        /// Blocks in it.
        found: u64,
        /// Blocks in the base.
        base: u64,
    },
    /// The VM's memory or disk is larger than numbers of blocks go, or the device state than a frame.
    #[error("{what} of {bytes} bytes is more than can be moved (at most {most})")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large.
        bytes: u64,
        /// The bound.
        most: u64,
    },
    /// A frame does not make sense.
    #[error("the other side sent a frame that makes no sense")]
    Frame(#[source] WireError),
    /// The source refers to a part that is not here.
    #[error("the source refers to image part {digest}, which is not here; fetch the image first")]
    NoSuchPart {
        /// Which.
        digest: Digest,
    },
    /// The source counts pages that were sent differently; it must ask again what is here.
    #[error(
        "the source believes that {theirs} pages are here, and there are {ours}; start again with what is here"
    )]
    OtherCount {
        /// What it believes.
        theirs: u32,
        /// What is here.
        ours: u32,
    },
    /// Restoring was asked for before everything was here.
    #[error("the {space} is not complete: {missing} has not come")]
    Incomplete {
        /// Which.
        space: Space,
        /// What is missing.
        missing: &'static str,
    },
    /// What was restored is not what the source has.
    #[error(
        "the restored {space} is not the source's ({ours} blocks differ from the base here, {theirs} there); \
         it must not run. Let the VM go on at the source, and verify the images here"
    )]
    NotTheSame {
        /// Which.
        space: Space,
        /// Differing blocks as restored.
        ours: u32,
        /// Differing blocks as the source said.
        theirs: u32,
    },
}

/// Why bytes are no frame, or a frame makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another version of this format.
    #[error("it has version {found}; this release speaks {}", super::VERSION)]
    Version {
        /// Which.
        found: u8,
    },
    /// A length over its cap; nothing was allocated for it.
    #[error("{what} of {found} is over the cap of {most}")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// Which length.
        found: u64,
        /// The cap.
        most: u64,
    },
    /// Cut, or otherwise damaged.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::Frame(error)
    }
}

impl From<qcow2::Error> for Error {
    fn from(error: qcow2::Error) -> Self {
        Self::Disk(error)
    }
}

impl Error {
    pub(super) fn file(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }
}
