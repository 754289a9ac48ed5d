//! The parts of images that are here: found by content, read by place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use vm_images::Digest;
use vm_images::index::{BlockHash, Index, Place, Table};

use super::{BLOCK_BYTES, Error};
use crate::stream::Page;

/// A part of an image.
#[derive(Debug, Clone)]
pub struct KnownPart {
    /// Its digest, which both sides know it by.
    pub digest: Digest,
    /// Its file, verified.
    pub path: PathBuf,
    /// Where its blocks lie; a sink needs none, nor does a part that only device state is compared with.
    pub index: Option<Index>,
}

/// Parts of images that are here. A source's must all be at its sink, too; the sink may have more, in any order.
#[derive(Debug)]
pub struct Images {
    parts: Vec<Open>,
    table: Table,
}

#[derive(Debug)]
struct Open {
    digest: Digest,
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Images {
    /// Opens the parts. Of equal blocks the one in the part that is named first is used.
    pub fn open(parts: &[KnownPart]) -> Result<Self, Error> {
        let open = |part: &KnownPart| {
            let file = File::open(&part.path).map_err(Error::file("open", &part.path))?;
            let bytes = file.metadata().map_err(Error::file("read", &part.path))?.len();
            Ok(Open { digest: part.digest, path: part.path.clone(), file, bytes })
        };
        let opened = parts.iter().map(open).collect::<Result<Vec<_>, Error>>()?;
        // A part without an index has an empty one, so that numbers of parts are the same everywhere.
        let empty = |part: &KnownPart| Index::build(part.digest, std::io::empty(), &mut |_| {}).ok();
        let indexes: Vec<Index> =
            parts.iter().filter_map(|part| part.index.clone().or_else(|| empty(part))).collect();
        let bytes: u64 = opened.iter().map(|part| part.bytes).sum();
        let table = Table::new(&indexes.iter().collect::<Vec<_>>());
        let table =
            table.ok_or(Error::TooLarge { what: "a set of images", bytes, most: Table::MOST_BYTES })?;
        Ok(Self { parts: opened, table })
    }

    /// Digests of the parts, in order.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.parts.iter().map(|part| &part.digest)
    }

    /// Number of the part with this digest.
    pub fn number_of(&self, digest: &Digest) -> Option<u16> {
        self.digests().position(|found| found == digest).and_then(|number| u16::try_from(number).ok())
    }

    /// File of a part.
    pub fn path(&self, part: u16) -> Option<&PathBuf> {
        self.parts.get(usize::from(part)).map(|part| &part.path)
    }

    /// How many whole blocks a part has; 0 if there is no such part.
    pub fn blocks(&self, part: u16) -> u64 {
        self.parts.get(usize::from(part)).map_or(0, |part| part.bytes / BLOCK_BYTES as u64)
    }

    /// What the table takes in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    /// Reads a block. Fails if there is no such part or block.
    pub fn read(&self, place: Place, into: &mut Page) -> Result<(), Error> {
        let missing = || Error::Frame(super::WireError::Damaged("it refers to a block that no image has"));
        let part = self.parts.get(usize::from(place.part)).ok_or_else(missing)?;
        if u64::from(place.block) >= part.bytes / BLOCK_BYTES as u64 {
            return Err(missing());
        }
        let offset = u64::from(place.block) * BLOCK_BYTES as u64;
        part.file.read_exact_at(into, offset).map_err(Error::file("read", &part.path))
    }

    /// Where this content, which has this hash, lies; compared byte by byte. `scratch` is overwritten.
    pub fn find(&self, hash: &BlockHash, page: &Page, scratch: &mut Page) -> Result<Option<Place>, Error> {
        for place in self.table.find(hash) {
            self.read(place, scratch)?;
            if scratch == page {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}
