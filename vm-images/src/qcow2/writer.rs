//! Writing a layer with content, once, from front to back.
//!
//! ```text
//! cluster 0   header, as an empty layer's
//! then        L1 table | data clusters as they come | L2 tables | refcount blocks | refcount table
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Error;
use super::header::MAX_VIRTUAL_BYTES;
use super::overlay::{BYTES_PER_L1_ENTRY, CLUSTER_BYTES, Tables, check_backing, header};

/// Entries of an L2 table, and 8-byte entries of any cluster.
const ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Clusters that one refcount block of 16-bit counts covers.
const REFCOUNTS: u64 = CLUSTER_BYTES / 2;
/// "This table or cluster is used once", which allows writing in place.
const COPIED: u64 = 1 << 63;
const ZERO: u64 = 1;

/// A layer that is being written. Holds one L2 table (64 KiB) for every 512 MiB of disk that something is put into.
#[derive(Debug)]
pub struct LayerWriter {
    path: PathBuf,
    file: File,
    backing: Option<String>,
    virtual_bytes: u64,
    l2: BTreeMap<u64, Vec<u64>>,
    /// Number of the next free cluster of the file.
    next: u64,
}

impl LayerWriter {
    /// Length of its clusters, bytes.
    pub const CLUSTER_BYTES: u64 = CLUSTER_BYTES;

    /// Begins a layer over `backing`, whose name is stored exactly as given. `path` must not exist.
    pub fn create(path: &Path, backing: Option<&Path>, virtual_bytes: u64) -> Result<Self, Error> {
        Self::begin(path, OpenOptions::new().write(true).create_new(true), backing, virtual_bytes)
    }

    /// The same in a file that is there, and whose content goes: whoever has it open finds the layer in it.
    pub fn overwrite(path: &Path, backing: Option<&Path>, virtual_bytes: u64) -> Result<Self, Error> {
        Self::begin(path, OpenOptions::new().write(true).truncate(true), backing, virtual_bytes)
    }

    fn begin(
        path: &Path,
        how: &OpenOptions,
        backing: Option<&Path>,
        virtual_bytes: u64,
    ) -> Result<Self, Error> {
        let backing = backing.map(check_backing).transpose()?;
        if !virtual_bytes.is_multiple_of(512) || virtual_bytes > MAX_VIRTUAL_BYTES {
            return Err(Error::Size(virtual_bytes));
        }
        let failed = |source| Error::File { action: "create", path: path.to_owned(), source };
        let file = how.open(path).map_err(failed)?;
        let next = 1 + l1_clusters(virtual_bytes);
        Ok(Self { path: path.to_owned(), file, backing, virtual_bytes, l2: BTreeMap::new(), next })
    }

    /// Puts a whole cluster's content at its place; the last time counts.
    pub fn put(&mut self, cluster: u64, content: &[u8; CLUSTER_BYTES as usize]) -> Result<(), Error> {
        let held = self.l2.get(&(cluster / ENTRIES)).map_or(0, |table| table[(cluster % ENTRIES) as usize]);
        // The file has room for it already if it was put before.
        let at = if held & COPIED == 0 { self.next * CLUSTER_BYTES } else { held & !COPIED };
        self.set(cluster, at | COPIED)?;
        self.file.write_all_at(content, at).map_err(|source| self.failed(source))?;
        self.next = self.next.max(at / CLUSTER_BYTES + 1);
        Ok(())
    }

    /// Lets a cluster read as zeros, whatever lies below. Before it is put, if it is both: its room would be lost.
    pub fn discard(&mut self, cluster: u64) -> Result<(), Error> {
        self.set(cluster, ZERO)
    }

    fn set(&mut self, cluster: u64, entry: u64) -> Result<(), Error> {
        if cluster >= self.virtual_bytes.div_ceil(CLUSTER_BYTES) {
            return Err(Error::Size(cluster.saturating_mul(CLUSTER_BYTES)));
        }
        let table = self.l2.entry(cluster / ENTRIES).or_insert_with(|| vec![0; ENTRIES as usize]);
        table[(cluster % ENTRIES) as usize] = entry;
        Ok(())
    }

    /// Writes the tables; until then the file is no disk. Not synced.
    pub fn finish(mut self) -> Result<File, Error> {
        self.write_tables().map_err(|source| self.failed(source))?;
        Ok(self.file)
    }

    fn write_tables(&mut self) -> io::Result<()> {
        let l1_entries = self.virtual_bytes.div_ceil(BYTES_PER_L1_ENTRY).max(1);
        let mut l1 = vec![0_u64; l1_entries as usize];
        for (index, table) in std::mem::take(&mut self.l2) {
            l1[index as usize] = self.append(&table)? | COPIED;
        }
        self.file.write_all_at(&big_endian(&l1), CLUSTER_BYTES)?;
        let (refcount_table, table_clusters) = self.write_refcounts()?;
        let tables = Tables {
            l1_entries: l1_entries as u32,
            l1_offset: CLUSTER_BYTES,
            refcount_table,
            refcount_table_clusters: table_clusters as u32,
        };
        // Last, so that a file that was not finished has no header.
        self.file.write_all_at(&header(self.backing.as_deref(), self.virtual_bytes, &tables), 0)
    }

    /// Counts every cluster of the file once, those of the counts included. Gives the table's offset and its clusters.
    fn write_refcounts(&mut self) -> io::Result<(u64, u64)> {
        let (mut blocks, mut table_clusters) = (0, 0);
        // Each round may need more clusters for the counts of the round before; two rounds are enough in practice.
        loop {
            let all = self.next + blocks + table_clusters;
            let wanted = all.div_ceil(REFCOUNTS);
            let wanted_table = wanted.div_ceil(ENTRIES);
            if (wanted, wanted_table) == (blocks, table_clusters) {
                break;
            }
            (blocks, table_clusters) = (wanted, wanted_table);
        }
        let all = self.next + blocks + table_clusters;
        let first = self.next * CLUSTER_BYTES;
        let counts = 1_u16.to_be_bytes().repeat(all as usize);
        let table_at = first + blocks * CLUSTER_BYTES;
        self.file.set_len(all * CLUSTER_BYTES)?;
        self.file.write_all_at(&counts, first)?;
        let offsets: Vec<u64> = (0..blocks).map(|block| first + block * CLUSTER_BYTES).collect();
        self.file.write_all_at(&big_endian(&offsets), table_at)?;
        Ok((table_at, table_clusters))
    }

    /// Writes a table into the next free cluster; gives its offset.
    fn append(&mut self, table: &[u64]) -> io::Result<u64> {
        let at = self.next * CLUSTER_BYTES;
        self.file.write_all_at(&big_endian(table), at)?;
        self.next += 1;
        Ok(at)
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File { action: "write", path: self.path.clone(), source }
    }
}

fn l1_clusters(virtual_bytes: u64) -> u64 {
    (virtual_bytes.div_ceil(BYTES_PER_L1_ENTRY).max(1) * 8).div_ceil(CLUSTER_BYTES)
}

fn big_endian(table: &[u64]) -> Vec<u8> {
    table.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}
