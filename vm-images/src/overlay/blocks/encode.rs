//! Making the groups of a part.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::wire::{Header, MOST_DIRECTORY, MOST_RUN, What, pack, put_run};
use super::{BASE_MEMORY, CONTENT_BYTES, joined, sources};
use crate::id::Digest;
use crate::index::{BLOCK_BYTES, Block, Index, Table, is_zero};
use crate::manifest::Role;
use crate::overlay::{Error, Guest};
use crate::vcdiff::{Encoder as Differ, Joined};

/// Words of 8 bytes, of 512, that must be equal for a block to be XORed with the base's; as `migration::reduce` has it.
const LEAST_EQUAL: usize = 448;

/// Writes the groups of a part.
pub(crate) fn encode(
    role: Role,
    base: &Guest,
    service: &Guest,
    (path, to): (&Path, File),
) -> Result<(), Error> {
    let target = service.path(role);
    let mut files = sources(role, base, &service.disk)?;
    let against = joined(&files).map_err(Error::file("read", target))?;
    let differ = Differ::new(against).map_err(Error::Difference)?;
    files.push(File::open(target).map_err(Error::file("open", target))?);
    let table = table(&files).map_err(Error::file("read", target))?;
    let table = table.ok_or(Error::Metadata("the images are too long for an index"))?;
    let own = (files.len() - 1) as u16;
    let is_memory = role == Role::MemoryTemplate;
    let group = Group::default();
    let mut encoder = Encoder { files, table, own, is_memory, differ, to, group };
    encoder.run().map_err(Error::file("write", path))
}

/// Digests in these indexes are of nothing: they do not leave this function's caller.
fn table(files: &[File]) -> io::Result<Option<Table>> {
    let mut indexes = Vec::new();
    for file in files {
        indexes.push(Index::build(Digest::of(b""), file.try_clone()?, &mut |_| {})?);
    }
    Ok(Table::new(&indexes.iter().collect::<Vec<_>>()))
}

#[derive(Default)]
struct Group {
    first: u32,
    blocks: u32,
    directory: Vec<u8>,
    run: Option<(What, u32)>,
    content: Vec<u8>,
}

struct Encoder {
    files: Vec<File>,
    table: Table,
    /// Number of the part itself.
    own: u16,
    is_memory: bool,
    differ: Differ<Joined<File>>,
    to: File,
    group: Group,
}

impl Encoder {
    fn run(&mut self) -> io::Result<()> {
        // The index has moved the file's position.
        let path = self.files[usize::from(self.own)].try_clone()?;
        io::Seek::rewind(&mut &path)?;
        let mut reader = BufReader::with_capacity(1 << 20, path);
        let mut number = 0_u32;
        loop {
            let mut block = Vec::with_capacity(BLOCK_BYTES);
            (&mut reader).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
            if block.is_empty() {
                break;
            }
            // A last block that is not whole is filled with zeros; the length of the part cuts it again.
            let mut whole = [0; BLOCK_BYTES];
            whole[..block.len()].copy_from_slice(&block);
            self.block(number, &whole)?;
            number = number.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        }
        self.flush(number)
    }

    fn block(&mut self, number: u32, block: &Block) -> io::Result<()> {
        let mut there = [0; BLOCK_BYTES];
        let has_base = self.is_memory && self.read(BASE_MEMORY, number, &mut there)?;
        let what = if has_base && there == *block {
            What::Same
        } else if is_zero(block) {
            What::Zero
        } else if let Some(from) = self.find(number, block)? {
            from
        } else if has_base && nearly(block, &there) {
            self.group.content.extend(block.iter().zip(&there).map(|(a, b)| a ^ b));
            What::Xor
        } else {
            self.group.content.extend_from_slice(block);
            What::Raw
        };
        self.group.add(what);
        let is_full = self.group.content.len() >= CONTENT_BYTES
            || self.group.directory.len() + 2 * MOST_RUN > MOST_DIRECTORY;
        if is_full { self.flush(number + 1) } else { Ok(()) }
    }

    /// Reads a block of a file; false if it is not there as a whole.
    fn read(&self, part: usize, number: u32, into: &mut Block) -> io::Result<bool> {
        match self.files[part].read_exact_at(into, u64::from(number) * BLOCK_BYTES as u64) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where else the block is. One that goes on where the last one was from makes the run longer, so it is tried first.
    fn find(&self, number: u32, block: &Block) -> io::Result<Option<What>> {
        let next = match self.group.run {
            Some((What::From { part, block }, count)) => {
                block.checked_add(count).map(|next| (part.into(), next))
            }
            _ => None,
        };
        let found = self.table.find_block(block).map(|place| (place.part, place.block));
        let mut there = [0; BLOCK_BYTES];
        for (part, at) in next.into_iter().chain(found) {
            if (part != self.own || at < number) && self.read(part.into(), at, &mut there)? && there == *block
            {
                return Ok(Some(What::From { part: part as u8, block: at }));
            }
        }
        Ok(None)
    }

    /// Writes the group; the next one begins with block `next`.
    fn flush(&mut self, next: u32) -> io::Result<()> {
        let mut group = std::mem::replace(&mut self.group, Group { first: next, ..Group::default() });
        group.end_run();
        if group.blocks == 0 {
            return Ok(());
        }
        let delta =
            if group.content.is_empty() { Vec::new() } else { self.differ.encode_bytes(&group.content)? };
        let all = [&group.directory[..], &delta].concat();
        let (packing, packed) = pack(&all)?;
        let header = Header {
            first: group.first,
            blocks: group.blocks,
            directory_bytes: group.directory.len(),
            content_bytes: group.content.len(),
            delta_bytes: delta.len(),
            packing,
            packed_bytes: packed.len(),
        };
        self.to.write_all(&header.to_bytes())?;
        self.to.write_all(&packed)
    }
}

impl Group {
    fn add(&mut self, what: What) {
        self.blocks += 1;
        if let Some((last, count)) = &mut self.run {
            let goes_on = match (*last, what) {
                (What::From { part, block }, What::From { part: other, block: next }) => {
                    part == other && block.checked_add(*count) == Some(next)
                }
                (last, what) => last == what,
            };
            if goes_on {
                *count += 1;
                return;
            }
        }
        self.end_run();
        self.run = Some((what, 1));
    }

    fn end_run(&mut self) {
        if let Some((what, count)) = self.run.take() {
            put_run(&mut self.directory, what, count);
        }
    }
}

/// Whether nearly all words are equal.
fn nearly(block: &Block, there: &Block) -> bool {
    let words = block.as_chunks::<8>().0.iter().zip(there.as_chunks::<8>().0);
    words.filter(|(a, b)| a == b).count() >= LEAST_EQUAL
}
