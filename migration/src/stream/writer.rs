//! Puts a stream together from events.

use std::io::{self, BufWriter, Write};

use super::page::PAGE_BYTES;
use super::reader::{Block, Content, Event, Section};
use super::wire;

/// Size of the write buffer, bytes; the same as the read buffer's.
pub const WRITE_BUFFER_BYTES: usize = 256 * 1024;

/// Writes [`Event`]s as a stream. What a [`Reader`](super::Reader) read from it is the same events again.
pub struct Writer<W: Write> {
    to: BufWriter<W>,
    blocks: Vec<Block>,
    /// Block of the last page of this section.
    last_block: Option<usize>,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Writes to `to`, in large pieces.
    pub fn new(to: W) -> Self {
        Self {
            to: BufWriter::with_capacity(WRITE_BUFFER_BYTES, to),
            blocks: Vec::new(),
            last_block: None,
            bytes: 0,
        }
    }

    /// Bytes that were written or buffered.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes an event. The caller keeps the order of a stream: header, block list, pages.
    pub fn write(&mut self, event: &Event<'_>) -> io::Result<()> {
        match *event {
            Event::Header { bytes, .. } | Event::Opaque(bytes) => self.put(bytes),
            Event::Begin { section, id, instance } => self.begin(section, id, instance),
            Event::Blocks(blocks) => self.list(blocks),
            Event::Page { block, offset, content } => self.page(block, offset, content),
            Event::Flush => self.put(&wire::FLUSH.to_be_bytes()),
            Event::End { id, .. } => {
                self.put(&wire::END_OF_RUN.to_be_bytes())?;
                self.put(&[wire::FOOTER])?;
                self.put(&id.to_be_bytes())
            }
            Event::Command { command, data } => {
                let length = u16::try_from(data.len()).map_err(io::Error::other)?;
                self.put(&[wire::COMMAND])?;
                self.put(&command.to_be_bytes())?;
                self.put(&length.to_be_bytes())?;
                self.put(data)
            }
        }
    }

    /// Flushes; says how many bytes the stream has.
    pub fn finish(mut self) -> io::Result<u64> {
        self.to.flush()?;
        Ok(self.bytes)
    }

    fn begin(&mut self, section: Section, id: u32, instance: u32) -> io::Result<()> {
        // QEMU would let "same block as before" reach back into the section before; naming the block once more is
        // five bytes, and every section can then be read by itself.
        self.last_block = None;
        let kind = match section {
            Section::Start => wire::SECTION_START,
            Section::Part => wire::SECTION_PART,
            Section::End => wire::SECTION_END,
        };
        self.put(&[kind])?;
        self.put(&id.to_be_bytes())?;
        if section == Section::Start {
            self.name(wire::RAM)?;
            self.put(&instance.to_be_bytes())?;
            self.put(&wire::RAM_VERSION.to_be_bytes())?;
        }
        Ok(())
    }

    fn list(&mut self, blocks: &[Block]) -> io::Result<()> {
        self.blocks = blocks.to_vec();
        let total: u64 = blocks.iter().map(|block| block.bytes).sum();
        self.put(&(total | wire::SIZES).to_be_bytes())?;
        for block in blocks {
            self.name(block.name.as_bytes())?;
            self.put(&block.bytes.to_be_bytes())?;
        }
        Ok(())
    }

    fn page(&mut self, block: usize, offset: u64, content: Content<'_>) -> io::Result<()> {
        debug_assert_eq!(offset % PAGE_BYTES, 0);
        let kind = match content {
            Content::Zero => wire::ZERO,
            Content::Bytes(_) => wire::PAGE,
        };
        if self.last_block == Some(block) {
            self.put(&(offset | kind | wire::SAME_BLOCK).to_be_bytes())?;
        } else {
            let name = self.blocks.get(block).map(|block| block.name.clone());
            let name = name.ok_or_else(|| io::Error::other("a page of a block that was not listed"))?;
            self.put(&(offset | kind).to_be_bytes())?;
            self.name(name.as_bytes())?;
            self.last_block = Some(block);
        }
        match content {
            Content::Zero => self.put(&[0]),
            Content::Bytes(page) => self.put(page),
        }
    }

    fn name(&mut self, name: &[u8]) -> io::Result<()> {
        let length = u8::try_from(name.len()).map_err(io::Error::other)?;
        self.put(&[length])?;
        self.put(name)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.to.write_all(bytes)
    }
}
