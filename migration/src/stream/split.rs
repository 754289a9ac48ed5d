//! Splits a stream into memory template and device stream.

use std::io::{Read, Write};

use super::Error;
use super::page::{PAGE_BYTES, ZERO_PAGE, is_zero};
use super::reader::{Block, Content, Event, Reader};
use super::template::TemplateSink;
use super::writer::Writer;

/// Longest memory block, bytes: 256 GiB. Bounds what a false length can make us allocate to 8 MiB; a guess at what
/// no Service VM has.
pub const MAX_MEMORY_BYTES: u64 = 256 << 30;

/// What a split wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Length of the template: the guest's memory, bytes.
    pub template_bytes: u64,
    /// Pages of the template that are not all zero.
    pub used_pages: u64,
    /// Of [`sent_pages`](Self::sent_pages), those that were all zero, said so or in full.
    pub zero_pages: u64,
    /// Pages of the memory block in the stream; a page that a running guest changed is there more than once.
    pub sent_pages: u64,
    /// Length of the device stream, bytes.
    pub device_bytes: u64,
    /// Machine type that the stream was written on, as in `pc-q35-10.0`.
    pub machine: String,
}

/// Splits the stream `from`: the pages of the RAM block `memory_block` go to `template`, which must be empty, all
/// the rest to `device`.
///
/// Reads to the end of `from`. On error `template` and `device` hold rubbish. `device` is flushed, nothing is synced.
pub fn split<R: Read, T: TemplateSink, W: Write>(
    from: R,
    memory_block: &str,
    template: &mut T,
    device: &mut W,
) -> Result<Split, Error> {
    let mut reader = Reader::new(from);
    let mut writer = Writer::new(device);
    let mut machine_name = String::new();
    let mut memory: Option<Memory> = None;
    loop {
        let at = reader.offset();
        let Some(event) = reader.read()? else { break };
        match (&event, &mut memory) {
            (Event::Header { machine, .. }, _) => machine_name = (*machine).to_owned(),
            (Event::Blocks(blocks), memory) => {
                let found = Memory::find(at, blocks, memory_block)?;
                template.set_len(found.bytes).map_err(|source| failed(at, "set the length of", source))?;
                *memory = Some(found);
            }
            (&Event::Page { block, offset, content }, Some(memory)) if block == memory.block => {
                memory.page(offset, content, template).map_err(|source| failed(at, "write", source))?;
                continue;
            }
            _ => {}
        }
        writer.write(&event).map_err(|source| Error::Write { at, source })?;
    }
    let at = reader.offset();
    template.flush().map_err(|source| failed(at, "write", source))?;
    let device_bytes = writer.finish().map_err(|source| Error::Write { at, source })?;
    // A complete stream has a block list, so there is a memory.
    let memory = memory.ok_or(Error::Truncated { at, expected: "a list of memory blocks" })?;
    Ok(Split {
        template_bytes: memory.bytes,
        used_pages: memory.used_pages,
        zero_pages: memory.zero_pages,
        sent_pages: memory.sent_pages,
        device_bytes,
        machine: machine_name,
    })
}

fn failed(at: u64, doing: &'static str, source: std::io::Error) -> Error {
    Error::Template { at, doing, source }
}

/// Index of the memory block in the list of blocks.
pub(crate) fn find_block(at: u64, blocks: &[Block], name: &str) -> Result<usize, Error> {
    blocks.iter().position(|block| block.name == name).ok_or_else(|| {
        let found: Vec<&str> = blocks.iter().map(|block| block.name.as_str()).collect();
        Error::NoSuchBlock { at, wanted: name.to_owned(), found: found.join(", ") }
    })
}

/// What is known of the memory block and its pages.
struct Memory {
    block: usize,
    bytes: u64,
    /// One bit for each page: whether the template has a page there that is not zero.
    used: Vec<u64>,
    used_pages: u64,
    zero_pages: u64,
    sent_pages: u64,
}

impl Memory {
    fn find(at: u64, blocks: &[Block], name: &str) -> Result<Self, Error> {
        let block = find_block(at, blocks, name)?;
        let bytes = blocks[block].bytes;
        if bytes > MAX_MEMORY_BYTES {
            let most = MAX_MEMORY_BYTES;
            return Err(Error::TooLarge { at, what: "a memory block of too many bytes", value: bytes, most });
        }
        if !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(Error::malformed(
                at,
                format!("block '{name}' has {bytes} bytes, which is no number of pages"),
            ));
        }
        let words = usize::try_from((bytes / PAGE_BYTES).div_ceil(u64::BITS.into())).unwrap_or(usize::MAX);
        Ok(Self { block, bytes, used: vec![0; words], used_pages: 0, zero_pages: 0, sent_pages: 0 })
    }

    /// Puts a page into the template. A zero page needs it only where another page was put before.
    fn page<T: TemplateSink>(
        &mut self,
        offset: u64,
        content: Content<'_>,
        template: &mut T,
    ) -> std::io::Result<()> {
        let page = match content {
            Content::Bytes(page) if !is_zero(page) => Some(page),
            _ => None,
        };
        let index = offset / PAGE_BYTES;
        let word = &mut self.used[(index / 64) as usize];
        let bit = 1 << (index % 64);
        let was_used = *word & bit != 0;
        self.sent_pages += 1;
        if let Some(page) = page {
            *word |= bit;
            self.used_pages += u64::from(!was_used);
            return template.write_page(offset, page);
        }
        self.zero_pages += 1;
        if was_used {
            *word &= !bit;
            self.used_pages -= 1;
            template.write_page(offset, &ZERO_PAGE)?;
        }
        Ok(())
    }
}
