//! The memory template: as a sparse file, or in memory for tests.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::page::{PAGE_BYTES, Page, ZERO_PAGE, is_zero};

/// Most bytes that a [`SparseTemplate`] gathers before it writes them.
pub const RUN_BYTES: usize = 1024 * 1024;

/// Where [`split`](super::split) puts the pages of the memory block. What was never written reads as zeros.
pub trait TemplateSink {
    /// Puts a page at `offset`, a multiple of the page size. `split` brings an all-zero page only to replace another.
    fn write_page(&mut self, offset: u64, page: &Page) -> io::Result<()>;

    /// Sets the length; comes once, before the first page.
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;

    /// Hands on what is buffered; comes once, after the last page.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where [`join`](super::join) takes the pages of the memory block from.
pub trait TemplateSource {
    /// Length, bytes.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `into` with what is at `offset`.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl TemplateSource for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

/// A template file in which zero pages are holes. Neighbouring pages are written together.
#[derive(Debug)]
pub struct SparseTemplate {
    file: File,
    run: Vec<u8>,
    run_offset: u64,
}

impl SparseTemplate {
    /// Creates the file, which must not exist yet.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { file, run: Vec::with_capacity(RUN_BYTES), run_offset: 0 })
    }

    /// Writes what is buffered and gives the file back; not synced to the disk.
    pub fn into_file(mut self) -> io::Result<File> {
        self.flush()?;
        Ok(self.file)
    }
}

impl TemplateSink for SparseTemplate {
    fn write_page(&mut self, offset: u64, page: &Page) -> io::Result<()> {
        let goes_on = offset == self.run_offset + self.run.len() as u64;
        if !goes_on || self.run.len() == RUN_BYTES {
            self.flush()?;
        }
        if self.run.is_empty() {
            self.run_offset = offset;
        }
        self.run.extend_from_slice(page);
        Ok(())
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.run, self.run_offset)?;
        self.run.clear();
        Ok(())
    }
}

/// A template in memory: its non-zero pages by offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryTemplate {
    pages: BTreeMap<u64, Box<Page>>,
    bytes: u64,
}

impl MemoryTemplate {
    /// The page at `offset`.
    pub fn page(&self, offset: u64) -> &Page {
        self.pages.get(&offset).map_or(&ZERO_PAGE, |page| page)
    }

    /// Number of pages that are not zero.
    pub fn used_pages(&self) -> u64 {
        self.pages.len() as u64
    }
}

impl TemplateSink for MemoryTemplate {
    fn write_page(&mut self, offset: u64, page: &Page) -> io::Result<()> {
        if is_zero(page) {
            self.pages.remove(&offset);
        } else {
            self.pages.insert(offset, Box::new(*page));
        }
        Ok(())
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.bytes = bytes;
        Ok(())
    }
}

impl TemplateSource for MemoryTemplate {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        for (page, offset) in
            into.chunks_mut(PAGE_BYTES as usize).zip((offset..).step_by(PAGE_BYTES as usize))
        {
            page.copy_from_slice(&self.page(offset)[..page.len()]);
        }
        Ok(())
    }
}
