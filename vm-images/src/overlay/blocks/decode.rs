//! Restoring a part from its groups.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::wire::{HEADER_BYTES, Header, What, damaged, take_run, unpack};
use super::{BASE_MEMORY, joined, sources};
use crate::index::BLOCK_BYTES;
use crate::manifest::Role;
use crate::overlay::metadata::Part;
use crate::overlay::output::Output;
use crate::overlay::{Error, Guest};
use crate::vcdiff::{self, Joined, Limits};

/// Takes the bytes of a part in pieces.
pub(crate) struct Decoder {
    files: Vec<File>,
    against: Joined<File>,
    output: Output,
    restored_bytes: u64,
    is_memory: bool,
    pending: Vec<u8>,
    next: u32,
}

impl Decoder {
    pub(crate) fn new(part: &Part, base: &Guest, disk: &Path, output: Output) -> Result<Self, Error> {
        let files = sources(part.role, base, disk)?;
        let against = joined(&files).map_err(|source| Error::Decode { role: part.role, source })?;
        let is_memory = part.role == Role::MemoryTemplate;
        let restored_bytes = part.restored_bytes;
        Ok(Self { files, against, output, restored_bytes, is_memory, pending: Vec::new(), next: 0 })
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A chunk has at most 4 MiB; a group is as long as its header says and has been allowed to be.
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let header = Header::parse(header)?;
            let Some((packed, after)) = after.split_at_checked(header.packed_bytes) else { break };
            self.group(&header, packed)?;
            rest = after;
        }
        let used = pending.len() - rest.len();
        self.pending = pending;
        self.pending.drain(..used);
        Ok(())
    }

    pub(crate) fn finish(self) -> io::Result<Output> {
        if self.pending.is_empty() {
            Ok(self.output)
        } else {
            Err(damaged("it ends in the middle of a group"))
        }
    }

    fn group(&mut self, header: &Header, packed: &[u8]) -> io::Result<()> {
        let end = u64::from(header.first) + u64::from(header.blocks);
        if header.first != self.next || end > self.restored_bytes.div_ceil(BLOCK_BYTES as u64) {
            return Err(damaged("a group is for other blocks than those that are next"));
        }
        let all = unpack(header.packing, packed, header.directory_bytes + header.delta_bytes)?;
        let (mut directory, delta) = all.split_at(header.directory_bytes);
        let content = self.content(delta, header.content_bytes)?;
        let mut content = content.as_chunks::<BLOCK_BYTES>().0.iter();
        while !directory.is_empty() {
            let (what, count) = take_run(&mut directory)?;
            if u64::from(self.next) + u64::from(count) > end {
                return Err(damaged("a run goes beyond its group"));
            }
            for within in 0..count {
                self.block(what, within, &mut content)?;
                self.next += 1;
            }
        }
        let is_used_up = u64::from(self.next) == end && content.next().is_none();
        if is_used_up { Ok(()) } else { Err(damaged("the directory of a group does not fit it")) }
    }

    fn content(&self, delta: &[u8], bytes: usize) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        if !delta.is_empty() {
            let limits = Limits { target_bytes: bytes as u64, ..Limits::default() };
            vcdiff::decode(&self.against, delta, &mut content, limits)?;
        }
        if content.len() == bytes {
            Ok(content)
        } else {
            Err(damaged("a group has less content than it says"))
        }
    }

    fn block<'a>(
        &mut self,
        what: What,
        within: u32,
        content: &mut impl Iterator<Item = &'a [u8; BLOCK_BYTES]>,
    ) -> io::Result<()> {
        let mut block = [0; BLOCK_BYTES];
        let mut brought = || content.next().ok_or_else(|| damaged("a group has less content than it uses"));
        match what {
            What::Zero => {}
            What::Raw => block = *brought()?,
            What::Same if self.is_memory => self.read(BASE_MEMORY, self.next, &mut block)?,
            What::Xor if self.is_memory => {
                self.read(BASE_MEMORY, self.next, &mut block)?;
                block.iter_mut().zip(brought()?).for_each(|(byte, other)| *byte ^= other);
            }
            What::From { part, block: first } => {
                let number = first.checked_add(within).ok_or_else(|| damaged("a block that cannot be"))?;
                self.read(part.into(), number, &mut block)?;
            }
            What::Same | What::Xor => return Err(damaged("a disk has no base at the same place")),
        }
        let left = self.restored_bytes - u64::from(self.next) * BLOCK_BYTES as u64;
        self.output.write_all(&block[..left.min(BLOCK_BYTES as u64) as usize])
    }

    /// Reads a block of a part; the last is what has been restored of this one.
    fn read(&self, part: usize, number: u32, into: &mut [u8; BLOCK_BYTES]) -> io::Result<()> {
        let offset = u64::from(number) * BLOCK_BYTES as u64;
        if let Some(file) = self.files.get(part) {
            return file.read_exact_at(into, offset);
        }
        let is_before = offset + BLOCK_BYTES as u64 <= self.output.written();
        if part != self.files.len() || !is_before {
            return Err(damaged("it refers to a block that is not there yet"));
        }
        // What is behind the file's end is a hole that was not followed by anything yet.
        let length = self.output.file().metadata()?.len().saturating_sub(offset).min(BLOCK_BYTES as u64);
        into.fill(0);
        self.output.file().read_exact_at(&mut into[..length as usize], offset)
    }
}
