//! The memory of a fake guest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::hypervisor::Pace;
use crate::stream::{PAGE_BYTES, Page};

/// The pages of a template, and those that were written since.
pub(super) struct Ram {
    template: Option<PathBuf>,
    blocks: u64,
    changed: BTreeMap<u64, Box<Page>>,
    /// Written since a live stream brought them.
    dirty: BTreeSet<u64>,
    pub executing: bool,
    /// Number of the stream that may go on.
    pub stream: u64,
    pub pace: Pace,
}

impl Ram {
    /// As long as the template is, which in tests is often a stub of a page or less.
    pub fn new(template: Option<&Path>, changed: BTreeMap<u64, Box<Page>>) -> Self {
        let bytes = template.and_then(|path| path.metadata().ok()).map_or(0, |file| file.len());
        Self {
            template: template.map(Path::to_owned),
            blocks: bytes / PAGE_BYTES,
            changed,
            dirty: BTreeSet::new(),
            executing: true,
            stream: 0,
            pace: Pace::Full,
        }
    }

    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    pub fn end_stream(&mut self) {
        self.stream += 1;
        self.pace = Pace::Full;
    }

    /// Says whether it was written.
    pub fn write(&mut self, page: u64, content: &Page) -> bool {
        let writes = self.executing && page < self.blocks;
        if writes {
            self.changed.insert(page, Box::new(*content));
            self.dirty.insert(page);
        }
        writes
    }

    /// What was written since this was called last.
    pub fn take_dirty(&mut self) -> Vec<(u64, Box<Page>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter_map(|page| Some((page, self.changed.get(&page)?.clone()))).collect()
    }

    /// Every page, in order.
    pub fn pages(&self, mut each: impl FnMut(u64, &Page)) -> io::Result<()> {
        let template = self.template.as_ref().map(File::open).transpose()?;
        let mut page = [0; PAGE_BYTES as usize];
        for number in 0..self.blocks {
            if let Some(changed) = self.changed.get(&number) {
                each(number, changed);
                continue;
            }
            if let Some(template) = &template {
                template.read_exact_at(&mut page, number * PAGE_BYTES)?;
            }
            each(number, &page);
        }
        Ok(())
    }
}
