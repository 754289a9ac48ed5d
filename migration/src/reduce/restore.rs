//! Writes what has come: a stream for a QEMU that maps the template, and a qcow2 layer.
//!
//! What is written is hashed as it is written, and compared with what the source said; so whatever went wrong on the
//! way, a VM that is not the source's is never given out as it.

use std::io::Write;
use std::path::{Path, PathBuf};

use vm_images::index::hash;
use vm_images::qcow2::LayerWriter;

use super::differences::short;
use super::sink::{Held, State};
use super::{Arrived, BLOCK_BYTES, Differences, DiskBase, Error, Images, Sink, Space, new_page};
use crate::stream::{self, Content, Event, Page, Reader, Section, Writer};

/// Blocks of a cluster that is written.
const CLUSTER_BLOCKS: u64 = LayerWriter::CLUSTER_BYTES / BLOCK_BYTES as u64;

/// How a layer is begun.
type Begin = fn(&Path, Option<&Path>, u64) -> Result<LayerWriter, vm_images::qcow2::Error>;

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Blocks that differ from the base.
    pub differing: u32,
    /// What was written, bytes.
    pub bytes: u64,
    /// Hash of the blocks that differ; the source's is the same.
    pub root: [u8; 32],
}

impl Sink<'_> {
    /// Writes a stream for a QEMU whose memory is a private mapping of the template that the source named: the pages that
    /// differ from it, and the devices.
    ///
    /// **The guest may run only after this has returned without an error.** On error what was written is rubbish.
    pub fn restore_memory(&mut self, memory_block: &str, to: &mut impl Write) -> Result<Restored, Error> {
        let space = Space::Memory;
        let state =
            self.states.get_mut(&space).ok_or(Error::Incomplete { space, missing: "its beginning" })?;
        if self.device.is_empty() {
            return Err(Error::Incomplete { space, missing: "the device state" });
        }
        let mut reader = Reader::new(&self.device[..]);
        let mut writer = Writer::new(to);
        let mut restorer = Restorer::new(self.images, &self.arrived, state, space)?;
        let mut memory = None;
        loop {
            let at = reader.offset();
            let Some(event) = reader.read().map_err(Error::Stream)? else { break };
            match event {
                Event::Blocks(blocks) => {
                    let block = stream::find_block(at, blocks, memory_block).map_err(Error::Stream)?;
                    let found = blocks[block].bytes / BLOCK_BYTES as u64;
                    if found != restorer.state.blocks {
                        return Err(Error::OtherBase { space, found, base: restorer.state.blocks });
                    }
                    memory = Some(block);
                }
                Event::End { section: Section::End, .. } => {
                    let missing = Error::Incomplete { space, missing: "a list of memory blocks" };
                    restorer.write_pages(at, memory.ok_or(missing)?, &mut writer)?;
                }
                _ => {}
            }
            writer.write(&event).map_err(|source| Error::Stream(stream::Error::Write { at, source }))?;
        }
        let at = reader.offset();
        let bytes = writer.finish().map_err(|source| Error::Stream(stream::Error::Write { at, source }))?;
        restorer.check(bytes)
    }

    /// Writes a qcow2 layer over the image's disk. `path` must not exist; `backing` is stored in it as its backing file's
    /// name. Not synced. On error no file is left.
    pub fn restore_disk(&mut self, path: &Path, backing: &Path) -> Result<Restored, Error> {
        self.restore_layer(path, backing, LayerWriter::create)
    }

    /// The same in a file that is there, and that a QEMU which waits for its state may have open.
    pub fn overwrite_disk(&mut self, path: &Path, backing: &Path) -> Result<Restored, Error> {
        self.restore_layer(path, backing, LayerWriter::overwrite)
    }

    fn restore_layer(&mut self, path: &Path, backing: &Path, begin: Begin) -> Result<Restored, Error> {
        let restored = self.write_disk(path, backing, begin);
        if matches!(&restored, Err(error) if !matches!(error, Error::Disk(vm_images::qcow2::Error::File { action: "create", .. })))
        {
            // The error at hand says more than a failure to clean up would.
            let _ = std::fs::remove_file(path);
        }
        restored
    }

    fn write_disk(&mut self, path: &Path, backing: &Path, begin: Begin) -> Result<Restored, Error> {
        let space = Space::Disk;
        let state =
            self.states.get_mut(&space).ok_or(Error::Incomplete { space, missing: "its beginning" })?;
        let base_path = self.images.number_of_path(state.base_digest.as_ref());
        let virtual_bytes = match base_path {
            Some(base) => DiskBase::open(&base)?.virtual_bytes(),
            None => state.blocks * BLOCK_BYTES as u64,
        };
        let mut restorer = Restorer::new(self.images, &self.arrived, state, space)?;
        let mut writer = begin(path, Some(backing), virtual_bytes)?;
        let mut clusters: Vec<u64> =
            restorer.state.held.keys().map(|block| u64::from(*block) / CLUSTER_BLOCKS).collect();
        clusters.dedup();
        let mut content = Box::new([0; LayerWriter::CLUSTER_BYTES as usize]);
        for cluster in clusters {
            restorer.cluster(cluster, &mut content)?;
            if content.iter().all(|byte| *byte == 0) {
                writer.discard(cluster)?;
            } else {
                writer.put(cluster, &content)?;
            }
        }
        let file = writer.finish()?;
        let bytes = file.metadata().map_err(Error::file("read", path))?.len();
        restorer.check(bytes)
    }
}

impl Images {
    /// File of the part with this digest.
    fn number_of_path(&self, digest: Option<&vm_images::Digest>) -> Option<PathBuf> {
        digest.and_then(|digest| self.number_of(digest)).and_then(|number| self.path(number)).cloned()
    }
}

/// Reads blocks from where they are, and hashes what it gives out.
struct Restorer<'a> {
    images: &'a Images,
    arrived: &'a Arrived,
    state: &'a mut State,
    space: Space,
    end: (u32, [u8; 32]),
    differences: Differences,
}

impl<'a> Restorer<'a> {
    fn new(
        images: &'a Images,
        arrived: &'a Arrived,
        state: &'a mut State,
        space: Space,
    ) -> Result<Self, Error> {
        let end = state.end.ok_or(Error::Incomplete { space, missing: "its end" })?;
        Ok(Self { images, arrived, state, space, end, differences: Differences::default() })
    }

    fn block(&mut self, block: u32, held: Held, into: &mut Page) -> Result<(), Error> {
        match held {
            Held::Zero => into.fill(0),
            Held::Known(place) => self.images.read(place, into)?,
            Held::Arrived(number) => self.arrived.read(number, into)?,
        }
        self.differences.set(block, short(&hash(into)));
        Ok(())
    }

    fn write_pages<W: Write>(&mut self, at: u64, block: usize, writer: &mut Writer<W>) -> Result<(), Error> {
        let mut page = new_page();
        let held: Vec<(u32, Held)> = self.state.held.iter().map(|(number, held)| (*number, *held)).collect();
        for (number, held) in held {
            self.block(number, held, &mut page)?;
            let content = if held == Held::Zero { Content::Zero } else { Content::Bytes(&page) };
            let offset = u64::from(number) * BLOCK_BYTES as u64;
            writer
                .write(&Event::Page { block, offset, content })
                .map_err(|source| Error::Stream(stream::Error::Write { at, source }))?;
        }
        Ok(())
    }

    /// A whole cluster: what differs, and between it what the base has.
    fn cluster(
        &mut self,
        cluster: u64,
        into: &mut [u8; LayerWriter::CLUSTER_BYTES as usize],
    ) -> Result<(), Error> {
        let (pages, _) = into.as_chunks_mut::<BLOCK_BYTES>();
        for (block, page) in (cluster * CLUSTER_BLOCKS..).zip(pages) {
            let number = block as u32;
            match self.state.held.get(&number).copied() {
                Some(held) => self.block(number, held, page)?,
                None if block < self.state.blocks => self.state.base.read(number, page)?,
                None => page.fill(0),
            }
        }
        Ok(())
    }

    /// Whether all that was given out is what the source has.
    fn check(self, bytes: u64) -> Result<Restored, Error> {
        let (differing, root) = self.end;
        let found = self.differences.root(self.state.base_digest.as_ref(), self.state.blocks);
        if found == root && differing == self.differences.len() {
            return Ok(Restored { differing, bytes, root });
        }
        let (space, ours) = (self.space, self.differences.len());
        Err(Error::NotTheSame { space, ours, theirs: differing })
    }
}
