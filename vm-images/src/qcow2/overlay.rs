//! Writing empty disks.
//!
//! ```text
//! cluster 0   header, backing format, end of extensions, backing file name
//! cluster 1   refcount table: one entry, to cluster 2
//! cluster 2   refcount block: 1 for each cluster in use
//! cluster 3…  L1 table, all zero: nothing is allocated, everything is read from the backing file
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Error;
use super::header::{BACKING_FORMAT, MAGIC, MAX_BACKING_BYTES, MAX_VIRTUAL_BYTES, V3_BYTES};

/// QEMU's default; an L2 table of one cluster then covers 512 MiB.
const CLUSTER_BITS: u32 = 16;
pub(super) const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
/// Guest bytes behind one entry of the L1 table.
pub(super) const BYTES_PER_L1_ENTRY: u64 = CLUSTER_BYTES / 8 * CLUSTER_BYTES;

/// Makes an empty copy-on-write layer over the qcow2 disk `backing`, whose name is stored exactly as given;
/// a relative one is relative to the directory of `path`.
///
/// `path` must not exist. The file is not synced: an overlay that a crash loses was never used.
/// On error no file is left behind.
pub fn create_overlay(path: &Path, backing: &Path, virtual_bytes: u64) -> Result<(), Error> {
    write_new(path, Some(&check_backing(backing)?), virtual_bytes)
}

/// The name of a backing file as it is stored.
pub(super) fn check_backing(backing: &Path) -> Result<String, Error> {
    match backing.to_str() {
        Some(name) if !name.is_empty() && name.len() <= MAX_BACKING_BYTES => Ok(name.to_owned()),
        _ => Err(Error::Backing(backing.to_owned())),
    }
}

/// Makes an empty disk that reads as zeros. `path` must not exist. On error no file is left behind.
pub fn create(path: &Path, virtual_bytes: u64) -> Result<(), Error> {
    write_new(path, None, virtual_bytes)
}

fn write_new(path: &Path, backing: Option<&str>, virtual_bytes: u64) -> Result<(), Error> {
    if !virtual_bytes.is_multiple_of(512) || virtual_bytes > MAX_VIRTUAL_BYTES {
        return Err(Error::Size(virtual_bytes));
    }
    let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed("create"))?;
    write_disk(&file, backing, virtual_bytes).map_err(failed("write")).inspect_err(|_| {
        // The error at hand says more than a failure to clean up would.
        let _ = std::fs::remove_file(path);
    })
}

fn write_disk(file: &File, backing: Option<&str>, virtual_bytes: u64) -> io::Result<()> {
    let l1_entries = virtual_bytes.div_ceil(BYTES_PER_L1_ENTRY).max(1);
    let clusters = 3 + (l1_entries * 8).div_ceil(CLUSTER_BYTES);
    // Set first: the parts that stay zero are holes and cost nothing.
    file.set_len(clusters * CLUSTER_BYTES)?;
    let tables = Tables {
        l1_entries: l1_entries as u32,
        l1_offset: 3 * CLUSTER_BYTES,
        refcount_table: CLUSTER_BYTES,
        refcount_table_clusters: 1,
    };
    file.write_all_at(&header(backing, virtual_bytes, &tables), 0)?;
    file.write_all_at(&(2 * CLUSTER_BYTES).to_be_bytes(), CLUSTER_BYTES)?;
    file.write_all_at(&1_u16.to_be_bytes().repeat(clusters as usize), 2 * CLUSTER_BYTES)
}

/// Where the fixed structures of a disk are.
pub(super) struct Tables {
    pub(super) l1_entries: u32,
    /// Bytes.
    pub(super) l1_offset: u64,
    /// Bytes.
    pub(super) refcount_table: u64,
    pub(super) refcount_table_clusters: u32,
}

pub(super) fn header(backing: Option<&str>, virtual_bytes: u64, tables: &Tables) -> Vec<u8> {
    let mut extensions = Vec::new();
    if backing.is_some() {
        extensions.extend(BACKING_FORMAT.to_be_bytes());
        extensions.extend(5_u32.to_be_bytes());
        extensions.extend(b"qcow2\0\0\0");
    }
    extensions.extend([0; 8]);
    let name = backing.unwrap_or_default();
    let name_offset = if backing.is_some() { (V3_BYTES + extensions.len()) as u64 } else { 0 };

    let mut out = Vec::with_capacity(V3_BYTES + extensions.len() + name.len());
    out.extend(MAGIC);
    out.extend(3_u32.to_be_bytes()); // version
    out.extend(name_offset.to_be_bytes());
    out.extend((name.len() as u32).to_be_bytes());
    out.extend(CLUSTER_BITS.to_be_bytes());
    out.extend(virtual_bytes.to_be_bytes());
    out.extend(0_u32.to_be_bytes()); // no encryption
    out.extend(tables.l1_entries.to_be_bytes());
    out.extend(tables.l1_offset.to_be_bytes());
    out.extend(tables.refcount_table.to_be_bytes());
    out.extend(tables.refcount_table_clusters.to_be_bytes());
    out.extend(0_u32.to_be_bytes()); // snapshots
    out.extend(0_u64.to_be_bytes());
    out.extend(0_u64.to_be_bytes()); // incompatible features
    out.extend(0_u64.to_be_bytes()); // compatible features
    out.extend(0_u64.to_be_bytes()); // autoclear features
    out.extend(4_u32.to_be_bytes()); // refcounts of 1 << 4 bits
    out.extend((V3_BYTES as u32).to_be_bytes());
    out.extend(extensions);
    out.extend(name.as_bytes());
    out
}
