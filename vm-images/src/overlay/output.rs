//! A file that is being restored: hashed while it is written, with holes for zeros, gone unless it is kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::id::Digest;

/// Zeros of this length, at a multiple of it, are not written. File systems' block.
const HOLE_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    written: u64,
    most: u64,
    is_kept: bool,
}

impl Output {
    /// Begins a file, which must not exist and will have `most` bytes.
    pub fn create(path: &Path, most: u64) -> Result<Self, Error> {
        let mut how = OpenOptions::new();
        let file = how.read(true).write(true).create_new(true).open(path);
        let file = file.map_err(Error::file("create", path))?;
        let hasher = blake3::Hasher::new();
        Ok(Self { path: path.to_owned(), file, hasher, written: 0, most, is_kept: false })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// Gives the file its length; its digest.
    pub fn end(&mut self) -> Result<Digest, Error> {
        self.file.set_len(self.written).map_err(Error::file("write", &self.path))?;
        Ok(self.hasher.finalize().into())
    }

    /// The file stays.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.most - self.written {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more comes out than the overlay says"));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let until = HOLE_BYTES - (self.written % HOLE_BYTES as u64) as usize;
            let (piece, after) = rest.split_at(until.min(rest.len()));
            let is_hole = piece.len() == HOLE_BYTES && piece.iter().all(|byte| *byte == 0);
            if !is_hole {
                self.file.write_all_at(piece, self.written)?;
            }
            self.written += piece.len() as u64;
            rest = after;
        }
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.is_kept {
            // Whoever dropped it has a better error than this one.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
