//! Our coding of disk and memory: 4 KiB blocks, by reference wherever both sides can see them.
//!
//! For each block of the part, in order:
//!
//! ```text
//! as the base's memory at this place (memory only)? ─► "same"
//! all zero? ─────────────────────────────────────────► "zero"
//! a block of the base's disk or memory, of the         "from", where           ┐ runs, in a directory
//!   restored disk, or of this part before? ──────────►                         ┘
//! nearly as the base's memory at this place? ────────► XOR with it             ┐ content
//! else ──────────────────────────────────────────────► raw                     ┘
//!
//! content of a group ─► VCDIFF against base's disk, base's memory and restored disk ─► zstd or XZ
//! ```
//!
//! Looking up whole blocks is fast and finds the page cache. What a service has *read* into its memory lies there at
//! other offsets than in the file, so no block of it is a block of the disk; the VCDIFF finds it byte by byte. On the
//! `speech` image that makes 102 MiB of such blocks 8.0 MB, where XZ alone makes 28.8 MB of them (measured). Of the whole overlay the disk is what is left: its 29.9 MB are mostly the
//! recogniser's models, which are on no base and hardly compressible, so both codings have them.
//!
//! Index and zero test are [`crate::index`]'s, which `migration::reduce` uses as well; its frames, numbers of pages and
//! classifier stay there, since they belong to a memory that changes while it is sent and to two sides that talk.
//!
//! # Bounds
//!
//! A group is decoded at once: content of at most [`CONTENT_BYTES`], as much again as a VCDIFF and packed, and its directory of at
//! most 1 MiB. Lengths are checked before anything is allocated.

mod decode;
mod encode;
mod wire;

pub(super) use decode::Decoder;
pub(super) use encode::encode;

use std::fs::File;
use std::io;
use std::path::Path;

use super::{Error, Guest};
use crate::manifest::Role;
use crate::vcdiff::Joined;

/// Most content of a group, bytes. Longer ones pack better, and hold more memory: three of these. A guess.
pub const CONTENT_BYTES: usize = 32 << 20;
/// Numbers of the parts that a block can be from: base's disk and memory, the restored disk (memory only), and last
/// the part itself.
const BASE_MEMORY: usize = 1;

/// The files that content is coded against, in the order of their numbers.
fn sources(role: Role, base: &Guest, disk: &Path) -> Result<Vec<File>, Error> {
    let mut paths = vec![base.disk.as_path(), base.memory.as_path()];
    if role == Role::MemoryTemplate {
        paths.push(disk);
    }
    paths.into_iter().map(|path| File::open(path).map_err(Error::file("open", path))).collect()
}

/// The same, one behind the other.
fn joined(files: &[File]) -> io::Result<Joined<File>> {
    Joined::new(files.iter().map(File::try_clone).collect::<io::Result<_>>()?)
}
