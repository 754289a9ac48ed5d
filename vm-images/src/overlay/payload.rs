//! The payload at the side that has it: any chunk, at any time.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Error;
use super::metadata::{Coding, Overlay, ROLES};
use crate::id::Digest;
use crate::manifest::Role;

/// The files of an overlay's parts.
#[derive(Debug)]
pub struct Payload {
    overlay: Overlay,
    files: Vec<(PathBuf, File)>,
}

impl Payload {
    /// Opens the files that [`create`](super::create) made in `dir`.
    pub fn open(dir: &Path, overlay: Overlay) -> Result<Self, Error> {
        overlay.check()?;
        let open = |role| {
            let path = dir.join(file_name(overlay.coding, role));
            let file = File::open(&path).map_err(Error::file("open", &path))?;
            Ok((path, file))
        };
        let files = ROLES.into_iter().map(open).collect::<Result<_, Error>>()?;
        Ok(Self { overlay, files })
    }

    /// What it is of.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Reads a chunk, and checks it: the file may have been damaged.
    pub fn chunk(&self, number: u32) -> Result<Vec<u8>, Error> {
        let place = self.overlay.place(number)?;
        let (path, file) = &self.files[place.part];
        let mut bytes = vec![0; place.bytes];
        file.read_exact_at(&mut bytes, place.offset).map_err(Error::file("read", path))?;
        self.overlay.check_chunk(number, &bytes).map(|_| bytes)
    }
}

/// Name of a part's file.
pub(super) fn file_name(coding: Coding, role: Role) -> &'static str {
    match (coding, role) {
        (Coding::Vcdiff, Role::Disk) => "disk.qcow2.xz",
        (Coding::Vcdiff, Role::MemoryTemplate) => "memory.vcdiff.xz",
        (Coding::Blocks, Role::Disk) => "disk.blocks",
        (Coding::Blocks, Role::MemoryTemplate) => "memory.blocks",
        _ => "device.vcdiff.xz",
    }
}

/// Length of a file, bytes, and the digests of its chunks.
pub(super) fn cut(path: &Path, chunk_bytes: u32) -> Result<(u64, Vec<Digest>), Error> {
    let failed = |error| Error::file("read", path)(error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut bytes, mut chunks, mut chunk) = (0, Vec::new(), Vec::new());
    loop {
        chunk.clear();
        (&mut file).take(chunk_bytes.into()).read_to_end(&mut chunk).map_err(failed)?;
        if chunk.is_empty() {
            return Ok((bytes, chunks));
        }
        bytes += chunk.len() as u64;
        chunks.push(Digest::of(&chunk));
    }
}
