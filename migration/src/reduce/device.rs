//! QEMU's stream without the pages of the memory, as short as it can be.
//!
//! A live stream goes over the memory many times, in many sections. What the other QEMU needs of it is one list of
//! blocks, the last content of each page, and the devices. So of firmware's and devices' own pages (they change
//! little) only the last content is kept, and all go into the one section that is left.

use std::collections::BTreeMap;

use super::{Error, Kept, wire};
use crate::stream::{Block, Content, Event, Section, Writer};

/// Gathers what is not memory.
#[derive(Default)]
pub(super) struct Device {
    header: Vec<u8>,
    machine: String,
    blocks: Vec<Block>,
    ram: (u32, u32),
    ended: bool,
    /// Commands before the last RAM section, and after it.
    before: Vec<(u16, Vec<u8>)>,
    after: Vec<(u16, Vec<u8>)>,
    /// By block and offset.
    pages: BTreeMap<(usize, u64), Option<Kept>>,
    opaque: Vec<u8>,
    bytes: usize,
}

impl Device {
    /// Takes an event that is no page of the memory.
    pub fn event(&mut self, event: &Event<'_>) -> Result<(), Error> {
        self.bytes += match event {
            Event::Page { content: Content::Bytes(page), .. } => page.len(),
            Event::Opaque(bytes) => bytes.len(),
            _ => 16,
        };
        match *event {
            Event::Header { machine, bytes } => {
                (self.machine, self.header) = (machine.to_owned(), bytes.to_vec());
            }
            Event::Begin { section: Section::Start, id, instance } => self.ram = (id, instance),
            Event::Begin { section: Section::End, .. } => self.ended = true,
            Event::Blocks(blocks) => self.blocks = blocks.to_vec(),
            Event::Page { block, offset, content } => {
                let kept = match content {
                    Content::Zero => None,
                    Content::Bytes(page) => Some(Box::new(*page)),
                };
                if let Some(older) = self.pages.insert((block, offset), kept) {
                    self.bytes -= older.map_or(0, |page| page.len());
                }
            }
            Event::Command { command, data } => {
                let list = if self.ended { &mut self.after } else { &mut self.before };
                list.push((command, data.to_vec()));
            }
            Event::Opaque(bytes) => self.opaque.extend_from_slice(bytes),
            Event::Begin { section: Section::Part, .. } | Event::Flush | Event::End { .. } => {}
        }
        if self.bytes > wire::MOST_DEVICE_BYTES / 2 {
            let (bytes, most) = (self.bytes as u64, wire::MOST_DEVICE_BYTES as u64 / 2);
            return Err(Error::TooLarge { what: "device state", bytes, most });
        }
        Ok(())
    }

    /// The stream.
    pub fn stream(&self) -> std::io::Result<Vec<u8>> {
        let mut stream = Vec::with_capacity(self.bytes + self.bytes / 64);
        let mut writer = Writer::new(&mut stream);
        let (id, instance) = self.ram;
        writer.write(&Event::Header { machine: &self.machine, bytes: &self.header })?;
        writer.write(&Event::Begin { section: Section::Start, id, instance })?;
        writer.write(&Event::Blocks(&self.blocks))?;
        writer.write(&Event::End { section: Section::Start, id })?;
        for (command, data) in &self.before {
            writer.write(&Event::Command { command: *command, data })?;
        }
        writer.write(&Event::Begin { section: Section::End, id, instance: 0 })?;
        for ((block, offset), page) in &self.pages {
            let content = page.as_ref().map_or(Content::Zero, |page| Content::Bytes(page));
            writer.write(&Event::Page { block: *block, offset: *offset, content })?;
        }
        writer.write(&Event::End { section: Section::End, id })?;
        for (command, data) in &self.after {
            writer.write(&Event::Command { command: *command, data })?;
        }
        writer.write(&Event::Opaque(&self.opaque))?;
        writer.finish()?;
        Ok(stream)
    }
}
