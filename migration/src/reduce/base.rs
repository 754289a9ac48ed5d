//! What both sides have at the same place: the template under a memory, the image's disk under an overlay.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use vm_images::qcow2::Chain;

use super::{BLOCK_BYTES, Error};
use crate::stream::Page;

/// How much of a template is read at once where it is read in order, bytes. A guess: large against a system call.
const WINDOW_BYTES: usize = 256 * 1024;

/// Blocks that both sides have at the same places.
pub trait Base: Send {
    /// How many there are.
    fn blocks(&self) -> u64;

    /// Reads one.
    fn read(&mut self, block: u32, into: &mut Page) -> Result<(), Error>;
}

/// A memory template. Reads ahead where it is read in order.
#[derive(Debug)]
pub struct TemplateBase {
    path: PathBuf,
    file: File,
    blocks: u64,
    window: Vec<u8>,
    /// Number of the first block in the window.
    first: u64,
    /// The block after the one that was read last.
    expected: u64,
}

impl TemplateBase {
    /// Opens a template.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        let bytes = file.metadata().map_err(Error::file("read", path))?.len();
        let blocks = bytes / BLOCK_BYTES as u64;
        Ok(Self { path: path.to_owned(), file, blocks, window: Vec::new(), first: 0, expected: 0 })
    }

    fn fill(&mut self, block: u64) -> Result<(), Error> {
        let left = (self.blocks - block) * BLOCK_BYTES as u64;
        self.window.resize(left.min(WINDOW_BYTES as u64) as usize, 0);
        self.first = block;
        let offset = block * BLOCK_BYTES as u64;
        self.file
            .read_exact_at(&mut self.window, offset)
            .inspect_err(|_| self.window.clear())
            .map_err(Error::file("read", &self.path))
    }
}

impl Base for TemplateBase {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, block: u32, into: &mut Page) -> Result<(), Error> {
        let block = u64::from(block);
        let in_window = |base: &Self| {
            let held = (base.window.len() / BLOCK_BYTES) as u64;
            block.checked_sub(base.first).filter(|at| *at < held)
        };
        // Pages come in order, with gaps where QEMU had nothing to send.
        let is_near = (self.expected..self.expected + 16).contains(&block);
        if in_window(self).is_none() && is_near && block < self.blocks {
            self.fill(block)?;
        }
        self.expected = block + 1;
        if let Some(at) = in_window(self) {
            into.copy_from_slice(&self.window[at as usize * BLOCK_BYTES..][..BLOCK_BYTES]);
            return Ok(());
        }
        let offset = block * BLOCK_BYTES as u64;
        self.file.read_exact_at(into, offset).map_err(Error::file("read", &self.path))
    }
}

/// A disk through all its layers. A last block that is not whole is filled with zeros.
#[derive(Debug)]
pub struct DiskBase {
    chain: Chain,
}

impl DiskBase {
    /// Opens a disk and what it is layered on.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { chain: Chain::open(path)? })
    }

    /// Size of the disk, bytes.
    pub fn virtual_bytes(&self) -> u64 {
        self.chain.virtual_bytes()
    }
}

impl Base for DiskBase {
    fn blocks(&self) -> u64 {
        self.chain.virtual_bytes().div_ceil(BLOCK_BYTES as u64)
    }

    fn read(&mut self, block: u32, into: &mut Page) -> Result<(), Error> {
        Ok(self.chain.read(u64::from(block) * BLOCK_BYTES as u64, into)?)
    }
}

/// No base: everything is zero.
#[derive(Debug)]
pub(super) struct Nothing {
    pub(super) blocks: u64,
}

impl Base for Nothing {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, _: u32, into: &mut Page) -> Result<(), Error> {
        into.fill(0);
        Ok(())
    }
}
