//! What can go wrong with images on disk.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::ImageId;
use crate::manifest::Role;
use crate::{blocks, manifest, qcow2, signature};

/// Why the store could not do what was asked. Unless a variant says otherwise, the store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
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
    /// The disk is full. What was being built is removed.
    #[error(
        "no space left for {} ({needed_bytes} bytes were needed, {free_bytes} are free); nothing was published. \
         Free some space, for example with `cloudlet image gc`, and try again", path.display()
    )]
    NoSpace {
        /// The file or directory that had no room.
        path: PathBuf,
        /// How much was to be written, bytes.
        needed_bytes: u64,
        /// What the file system had left, bytes.
        free_bytes: u64,
    },
    /// Another process holds the store's lock for longer than a change of names takes.
    #[error("the image store {} is being changed by another process ({holder}) and did not become free; try again", root.display())]
    Busy {
        /// The store.
        root: PathBuf,
        /// Who holds the lock, as they wrote it down.
        holder: String,
    },
    /// A release with another layout made the store. Nothing in it was touched.
    #[error(
        "the image store {} has layout {found} and was written by a newer release; this release knows layout {known}. \
         Update this node, or give it an image store of its own", root.display()
    )]
    NewerStore {
        /// The store.
        root: PathBuf,
        /// What its FORMAT file says.
        found: String,
        /// The layout that this release writes.
        known: u32,
    },
    /// The file with the node's signing key cannot be one.
    #[error("{} is not a signing key ({reason}). Restore it, or move it away to get a new key; \
             images signed with the old one must then be trusted by its public half", path.display())]
    KeyFile {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing is known under this name, id or prefix.
    #[error("there is no image '{wanted}' in the store; `cloudlet image list` shows what there is")]
    NotFound {
        /// What was asked for.
        wanted: String,
    },
    /// More than one id begins like this.
    #[error("'{wanted}' may mean {count} images; give more digits")]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// How many ids begin with it.
        count: usize,
    },
    /// An image is layered on another one that is not here.
    #[error(
        "image {child} needs its parent image {parent}, which is not in the store. \
         Build the parent with `cloudlet image build base`, or import it"
    )]
    MissingParent {
        /// Name and short id of the image that was asked for.
        child: String,
        /// The image that it is layered on.
        parent: ImageId,
    },
    /// More layers than any recipe makes; the manifests were made by something else.
    #[error("image {image} has more than {limit} parents")]
    TooDeep {
        /// Name and short id of the image.
        image: String,
        /// Longest chain that is followed.
        limit: usize,
    },
    /// The manifest's bytes are not those that the id was made from.
    #[error("the manifest of image {id} was changed: it now hashes to {found}. {REPAIR}", found = found.short())]
    ManifestChanged {
        /// The id under which the image lies.
        id: ImageId,
        /// The id that its manifest now has.
        found: ImageId,
    },
    /// The manifest cannot be used.
    #[error("image {image} cannot be used")]
    Manifest {
        /// Id, and name if it is known.
        image: String,
        /// Why not.
        #[source]
        source: manifest::Error,
    },
    /// The image's origin is not acceptable.
    #[error("image {image} cannot be used")]
    Signature {
        /// Name and short id.
        image: String,
        /// Why not.
        #[source]
        source: signature::Error,
    },
    /// A part's file is not there.
    #[error("the {part} of image {image} is missing ({}). {REPAIR}", path.display(), part = role.title())]
    PartMissing {
        /// Name and short id.
        image: String,
        /// Which part.
        role: Role,
        /// Where it should be.
        path: PathBuf,
    },
    /// A part was cut or has grown.
    #[error("the {part} of image {image} is damaged: it has {found} bytes instead of {expected}. {REPAIR}", part = role.title())]
    PartLength {
        /// Name and short id.
        image: String,
        /// Which part.
        role: Role,
        /// Length by the manifest, bytes.
        expected: u64,
        /// Length of the file, bytes.
        found: u64,
    },
    /// A part's content is not what was signed.
    #[error(
        "the {part} of image {image} is damaged: its length is right, its content is not \
         (BLAKE3 {found} instead of {expected}). {REPAIR}", part = role.title()
    )]
    PartContent {
        /// Name and short id.
        image: String,
        /// Which part.
        role: Role,
        /// Digest by the manifest.
        expected: crate::Digest,
        /// Digest of the file.
        found: crate::Digest,
    },
    /// A part was written to while it was read; nothing can be said about it.
    #[error("the {part} of image {image} was written to while it was being read; stop whatever writes to {}", path.display(), part = role.title())]
    PartInUse {
        /// Name and short id.
        image: String,
        /// Which part.
        role: Role,
        /// Its file.
        path: PathBuf,
    },
    /// The disk cannot be read as one.
    #[error("the disk of image {image} cannot be used")]
    Disk {
        /// Name and short id.
        image: String,
        /// Why not.
        #[source]
        source: qcow2::Error,
    },
    /// Disk and manifest disagree about what the disk is layered on.
    #[error("the disk of image {image} is layered on {found}, but its manifest wants {expected}")]
    Backing {
        /// Name and short id.
        image: String,
        /// What the disk's header says.
        found: String,
        /// What the manifest's parent means.
        expected: String,
    },
    /// The image has no such part.
    #[error("image {image} has no {part}", part = role.title())]
    NoSuchPart {
        /// Name and short id.
        image: String,
        /// Which part.
        role: Role,
    },
    /// What was given to publish is not an image. The draft is removed.
    #[error("nothing was published: {reason}")]
    Draft {
        /// What is wrong with it.
        reason: String,
    },
    /// Another process is fetching the same image.
    #[error("image {image} is being fetched by another process; wait for that, or end it")]
    BeingFetched {
        /// Short id.
        image: String,
    },
    /// A part cannot be cut into blocks, or its blocks do not belong to it.
    #[error("the {part} of image {image} cannot be exchanged in blocks", part = role.title())]
    Blocks {
        /// Name and short id.
        image: String,
        /// Which part.
        role: Role,
        /// Why not.
        #[source]
        source: blocks::Error,
    },
    /// A block's content is not that of the image. Nothing was written.
    #[error("a wrong block {block} of the {part} of image {image}", part = role.title())]
    WrongBlock {
        /// Name and short id.
        image: String,
        /// Of which part.
        role: Role,
        /// Which block.
        block: u32,
    },
    /// Others are layered on the image.
    #[error("image {image} cannot be removed: {needed_by} depends on it. Remove that first")]
    NeededBy {
        /// Name and short id.
        image: String,
        /// One image or build that is layered on it.
        needed_by: String,
    },
    /// The image is pinned.
    #[error("image {image} is pinned; unpin it first")]
    Pinned {
        /// Name and short id.
        image: String,
    },
}

const REPAIR: &str = "Do not start it: remove it, then build or import it again";

/// Gives an I/O error its context; a full disk becomes [`Error::NoSpace`] with what was to be written.
pub(crate) fn writing(
    action: &'static str,
    path: &Path,
    needed_bytes: u64,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let free_bytes = super::files::free_bytes(&path);
            Error::NoSpace { path, needed_bytes, free_bytes }
        }
        _ => Error::File { action, path, source },
    }
}

/// Gives an I/O error its context.
pub(crate) fn reading(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}
