//! Reading what one layer of a disk holds.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Error, Header, Refusal};

/// Longest L1 table that is read, entries: those of the largest virtual size with clusters of 64 KiB.
const MAX_L1_ENTRIES: u32 = 1 << 15;
/// Bits of a table's entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// An entry of an L2 table that says "compressed".
const COMPRESSED: u64 = 1 << 62;
/// An entry of an L2 table that says "reads as zeros", whatever lies below.
const ZERO: u64 = 1;
/// Feature bit of L2 entries of twice the length, with parts of clusters.
const EXTENDED_L2: u64 = 1 << 4;

/// What a layer holds of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing: the layer below decides.
    Unallocated,
    /// Zeros: written as such, or discarded by the guest.
    Zero,
    /// Data, at this offset of the file, bytes.
    Data(u64),
}

/// One qcow2 file, without those below it. Nobody may be writing to it: a frozen layer, or one of a paused guest
/// after its disk was flushed.
#[derive(Debug)]
pub struct Layer {
    path: PathBuf,
    file: File,
    header: Header,
    l1: Vec<u64>,
    /// The L2 table that was used last: index in `l1`, entries.
    l2: Option<(usize, Vec<u64>)>,
}

impl Layer {
    /// Opens a layer for reading.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { action: "open", path: path.to_owned(), source };
        let refused = |reason| Error::Format { path: path.to_owned(), reason };
        let header = super::read_header(path)?;
        let file = File::open(path).map_err(failed)?;
        let mut start = [0; 104];
        let start_bytes = if header.version == 3 { 104 } else { 72 };
        file.read_exact_at(&mut start[..start_bytes], 0).map_err(failed)?;
        let incompatible = u64::from_be_bytes(bytes_at(&start, 72));
        if incompatible & EXTENDED_L2 != 0 {
            return Err(refused(Refusal::Feature("extended L2 entries")));
        }
        let count = u32::from_be_bytes(bytes_at(&start, 36));
        let covered = u64::from(count) * header.cluster_bytes / 8 * header.cluster_bytes;
        if count > MAX_L1_ENTRIES || covered < header.virtual_bytes {
            return Err(refused(Refusal::Damaged("length of the L1 table")));
        }
        let l1_offset = u64::from_be_bytes(bytes_at(&start, 40));
        let l1 = table(&file, l1_offset, count as usize).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, header, l1, l2: None })
    }

    /// What its header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many clusters the disk has.
    pub fn clusters(&self) -> u64 {
        self.header.virtual_bytes.div_ceil(self.header.cluster_bytes)
    }

    /// What the layer holds of this cluster of the guest's disk.
    pub fn mapping(&mut self, cluster: u64) -> Result<Mapping, Error> {
        let entries = self.header.cluster_bytes / 8;
        let (l1_index, l2_index) = ((cluster / entries) as usize, (cluster % entries) as usize);
        let Some(l2_offset) = self.l1.get(l1_index).map(|entry| entry & OFFSET) else {
            return Ok(Mapping::Unallocated);
        };
        if l2_offset == 0 {
            return Ok(Mapping::Unallocated);
        }
        if self.l2.as_ref().is_none_or(|(index, _)| *index != l1_index) {
            let found = table(&self.file, l2_offset, entries as usize).map_err(|e| self.unreadable(e))?;
            self.l2 = Some((l1_index, found));
        }
        let entry = self.l2.as_ref().map_or(0, |(_, table)| table[l2_index]);
        if entry & COMPRESSED != 0 {
            return Err(Error::Format {
                path: self.path.clone(),
                reason: Refusal::Feature("compressed clusters"),
            });
        }
        let offset = entry & OFFSET;
        Ok(if entry & ZERO != 0 && self.header.version == 3 {
            Mapping::Zero
        } else if offset == 0 {
            Mapping::Unallocated
        } else {
            Mapping::Data(offset)
        })
    }

    /// The next cluster from `cluster` on that the layer holds something of; `None` if there is none.
    pub fn next_held(&mut self, mut cluster: u64) -> Result<Option<(u64, Mapping)>, Error> {
        let entries = self.header.cluster_bytes / 8;
        while cluster < self.clusters() {
            if self.l1.get((cluster / entries) as usize).is_none_or(|entry| entry & OFFSET == 0) {
                cluster = (cluster / entries + 1) * entries;
                continue;
            }
            match self.mapping(cluster)? {
                Mapping::Unallocated => cluster += 1,
                held => return Ok(Some((cluster, held))),
            }
        }
        Ok(None)
    }

    /// Reads from the file at an offset that a [`Mapping::Data`] led to. What lies behind the file's end is zero, as
    /// QEMU has it.
    pub fn read_file(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let mut filled = 0;
        while filled < into.len() {
            match self.file.read_at(&mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(error)),
            }
        }
        into[filled..].fill(0);
        Ok(())
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::File { action: "read", path: self.path.clone(), source }
    }
}

fn table(file: &File, offset: u64, entries: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; entries * 8];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
}

/// The `N` bytes at `at`, which are there.
fn bytes_at<const N: usize>(bytes: &[u8; 104], at: usize) -> [u8; N] {
    let mut found = [0; N];
    found.copy_from_slice(&bytes[at..at + N]);
    found
}
