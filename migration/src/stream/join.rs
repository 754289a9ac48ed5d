//! Joins device stream and memory template to a full stream, which a QEMU without the template can load.

use std::io::{Read, Write};

use super::Error;
use super::page::{PAGE_BYTES, Page, is_zero};
use super::reader::{Content, Event, Reader, Section};
use super::split::find_block;
use super::template::{RUN_BYTES, TemplateSource};
use super::writer::Writer;

/// What a join wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// Length of the stream, bytes.
    pub stream_bytes: u64,
    /// Pages of the memory block that were sent in full.
    pub used_pages: u64,
    /// Pages of the memory block that were sent as zero pages.
    pub zero_pages: u64,
}

/// Writes the stream of which [`split`](super::split) made `device` and `template`, with every page of `memory_block` once.
///
/// The pages come in the last RAM section, in order. On error `to` holds rubbish; it is flushed and not synced.
pub fn join<T: TemplateSource>(
    device: impl Read,
    memory_block: &str,
    template: &T,
    to: &mut impl Write,
) -> Result<Joined, Error> {
    let mut reader = Reader::new(device);
    let mut writer = Writer::new(to);
    let mut memory_index = None;
    let mut pages = Pages::default();
    loop {
        let at = reader.offset();
        let Some(event) = reader.read()? else { break };
        match event {
            Event::Blocks(blocks) => {
                let index = find_block(at, blocks, memory_block)?;
                check_length(at, template, blocks[index].bytes)?;
                memory_index = Some((index, blocks[index].bytes));
            }
            Event::Page { block, .. } if memory_index.is_some_and(|(index, _)| index == block) => {
                let what = format!("it has pages of '{memory_block}' already, so it is no device stream");
                return Err(Error::malformed(at, what));
            }
            Event::End { section: Section::End, .. } => {
                if let Some((index, bytes)) = memory_index {
                    pages.write_all(at, index, bytes, template, &mut writer)?;
                }
            }
            _ => {}
        }
        writer.write(&event).map_err(|source| Error::Write { at, source })?;
    }
    let at = reader.offset();
    let stream_bytes = writer.finish().map_err(|source| Error::Write { at, source })?;
    Ok(Joined { stream_bytes, used_pages: pages.used, zero_pages: pages.zero })
}

fn check_length<T: TemplateSource>(at: u64, template: &T, block_bytes: u64) -> Result<(), Error> {
    let template_bytes =
        template.bytes().map_err(|source| Error::Template { at, doing: "find the length of", source })?;
    let whole_pages = block_bytes.is_multiple_of(PAGE_BYTES);
    if template_bytes == block_bytes && whole_pages {
        return Ok(());
    }
    Err(Error::OtherTemplate { at, template_bytes, block_bytes })
}

/// Counts the pages that it writes.
#[derive(Default)]
struct Pages {
    used: u64,
    zero: u64,
}

impl Pages {
    fn write_all<T: TemplateSource, W: Write>(
        &mut self,
        at: u64,
        block: usize,
        bytes: u64,
        template: &T,
        writer: &mut Writer<W>,
    ) -> Result<(), Error> {
        let mut run = vec![0; RUN_BYTES];
        for run_offset in (0..bytes).step_by(RUN_BYTES) {
            // At most RUN_BYTES, so the cast loses nothing.
            let run = &mut run[..(bytes - run_offset).min(RUN_BYTES as u64) as usize];
            template.read_at(run_offset, run).map_err(|source| Error::Template {
                at,
                doing: "read",
                source,
            })?;
            let (pages, _) = run.as_chunks::<{ PAGE_BYTES as usize }>();
            for (page, offset) in pages.iter().zip((run_offset..).step_by(PAGE_BYTES as usize)) {
                let content = self.count(page);
                let event = Event::Page { block, offset, content };
                writer.write(&event).map_err(|source| Error::Write { at, source })?;
            }
        }
        Ok(())
    }

    fn count<'a>(&mut self, page: &'a Page) -> Content<'a> {
        if is_zero(page) {
            self.zero += 1;
            Content::Zero
        } else {
            self.used += 1;
            Content::Bytes(page)
        }
    }
}
