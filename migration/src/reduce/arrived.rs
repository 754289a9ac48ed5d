//! The pages that were sent, in the order in which they came, in a file that outlives cuts and restarts.
//!
//! There is nothing in it but pages: what they are is found again by hashing them. So nothing has to be synced while
//! pages come; a crash costs what the kernel had not written yet, and a torn page at the end names itself something
//! that nobody asks for.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vm_images::index::hash;

use super::differences::short;
use super::{BLOCK_BYTES, Error, PageHash};
use crate::stream::Page;

/// How many pages are read at a time when a file is opened again: 1 MiB.
const READ_PAGES: usize = 256;

/// Pages by number.
#[derive(Debug)]
pub struct Arrived {
    path: PathBuf,
    file: File,
    hashes: Vec<PageHash>,
    most_pages: u32,
}

impl Arrived {
    /// Opens the file of one handoff, or makes it (guest memory is in it, so nobody else may read it). What is in it is
    /// hashed, 50 MB in 20 ms. At most `most_pages` are taken, so that a source cannot fill the disk.
    pub fn open(path: &Path, most_pages: u32) -> Result<Self, Error> {
        let failed = |doing| Error::file(doing, path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed("open"))?;
        let mut hashes = Vec::new();
        let mut buffer = vec![0; READ_PAGES * BLOCK_BYTES];
        loop {
            let mut piece = (&mut file).take(buffer.len() as u64);
            let mut filled = 0;
            while filled < buffer.len() {
                match piece.read(&mut buffer[filled..]).map_err(failed("read"))? {
                    0 => break,
                    count => filled += count,
                }
            }
            let (pages, _) = buffer[..filled].as_chunks::<BLOCK_BYTES>();
            hashes.extend(pages.iter().map(|page| short(&hash(page))));
            if filled < buffer.len() {
                break;
            }
        }
        hashes.truncate(most_pages as usize);
        file.set_len(hashes.len() as u64 * BLOCK_BYTES as u64).map_err(failed("cut"))?;
        Ok(Self { path: path.to_owned(), file, hashes, most_pages })
    }

    /// The hashes of the pages, in order.
    pub fn hashes(&self) -> &[PageHash] {
        &self.hashes
    }

    /// How many pages there are.
    pub fn len(&self) -> u32 {
        self.hashes.len() as u32
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Reads a page; fails if there is none of that number.
    pub(super) fn read(&self, number: u32, into: &mut Page) -> Result<(), Error> {
        let offset = u64::from(number) * BLOCK_BYTES as u64;
        self.file.read_exact_at(into, offset).map_err(Error::file("read", &self.path))
    }

    /// Adds pages, all or none.
    pub(super) fn add(&mut self, pages: &[Page]) -> Result<(), Error> {
        let after = self.hashes.len() + pages.len();
        if after > self.most_pages as usize {
            let (bytes, most) = (after as u64 * 4096, u64::from(self.most_pages) * 4096);
            return Err(Error::TooLarge { what: "everything that was sent", bytes, most });
        }
        let offset = self.hashes.len() as u64 * BLOCK_BYTES as u64;
        self.file.write_all_at(pages.as_flattened(), offset).map_err(Error::file("write", &self.path))?;
        self.hashes.extend(pages.iter().map(|page| short(&hash(page))));
        Ok(())
    }

    /// Makes what has arrived durable, before somebody is told that it is.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::file("sync", &self.path))
    }
}
