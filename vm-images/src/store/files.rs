//! Files: atomic writes, bounded reads, sparse copies and digests.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::error::{Error, reading, writing};
use crate::id::Digest;

/// How much is read, hashed or copied at a time, bytes. A guess: large against a system call, small against memory.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Reads a whole small file; `None` if there is none. Longer than `limit` is an error before anything is read.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(reading("open", path)(source)),
    };
    let mut bytes = Vec::new();
    // One more than allowed, so that "too long" can be told from "just fits".
    file.take(limit + 1).read_to_end(&mut bytes).map_err(reading("read", path))?;
    if bytes.len() as u64 > limit {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes"));
        return Err(reading("read", path)(source));
    }
    Ok(Some(bytes))
}

/// Writes a new file and syncs it; the directory is the caller's to sync.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |action| writing(action, path, bytes.len() as u64);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed("create"))?;
    file.write_all(bytes).map_err(failed("write"))?;
    file.sync_all().map_err(failed("write"))
}

/// Replaces or creates a file so that a crash leaves the old content or the new. `temporary` is on the same file
/// system and does not exist.
pub(crate) fn replace(path: &Path, temporary: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let result = write_new(temporary, bytes, mode).and_then(|()| rename(temporary, path));
    if result.is_err() {
        // The error at hand says more than a failure to clean up would.
        let _ = std::fs::remove_file(temporary);
    }
    result
}

/// Renames and syncs the directory that the name now lies in.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(writing("rename to", to, 0))?;
    sync_parent(to)
}

/// Removes a file if it is there and syncs its directory; says whether it was.
pub(crate) fn remove(path: &Path) -> Result<bool, Error> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(reading("remove", path)(source)),
    }
}

/// Removes a tree that somebody else may be removing too.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(reading("remove", path)(source)),
        _ => Ok(()),
    }
}

/// Makes a directory's entries durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(writing("sync", path, 0))
}

fn sync_parent(path: &Path) -> Result<(), Error> {
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes a directory and what leads to it, if it is not there.
pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(writing("create", path, 0))
}

/// What the file system of `path` (or of its nearest existing ancestor) has left for us, bytes; 0 if it does not say.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    path.ancestors()
        .find_map(|place| nix::sys::statvfs::statvfs(place).ok())
        .map_or(0, |found| found.blocks_available().saturating_mul(found.fragment_size()))
}

/// A stretch of a file.
enum Segment {
    Data(Range<u64>),
    Hole(Range<u64>),
}

/// Splits a file into data and holes. A file system that knows no holes gives one stretch of data.
fn segments(file: &File, length: u64) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < length {
        let data = match lseek(file, at as i64, Whence::SeekData) {
            Ok(offset) => (offset as u64).min(length),
            Err(Errno::ENXIO) => length,
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => {
                found.push(Segment::Data(at..length));
                break;
            }
            Err(errno) => return Err(errno.into()),
        };
        if data > at {
            found.push(Segment::Hole(at..data));
        }
        if data == length {
            break;
        }
        let end = (lseek(file, data as i64, Whence::SeekHole)? as u64).min(length);
        found.push(Segment::Data(data..end));
        at = end;
    }
    Ok(found)
}

fn chunks(range: Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    range.clone().step_by(CHUNK_BYTES).map(move |at| (at, (range.end - at).min(CHUNK_BYTES as u64) as usize))
}

/// Digest of a file's first `length` bytes, holes read as zeros but not from the disk. `progress` is told how many
/// bytes each step took.
pub(crate) fn digest(file: &File, length: u64, progress: &mut dyn FnMut(u64)) -> io::Result<Digest> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let zeros = vec![0; CHUNK_BYTES];
    let mut hasher = blake3::Hasher::new();
    for segment in segments(file, length)? {
        let (Segment::Data(range) | Segment::Hole(range)) = &segment;
        for (at, count) in chunks(range.clone()) {
            if matches!(segment, Segment::Data(_)) {
                file.read_exact_at(&mut buffer[..count], at)?;
                hasher.update(&buffer[..count]);
            } else {
                hasher.update(&zeros[..count]);
            }
            progress(count as u64);
        }
    }
    Ok(hasher.finalize().into())
}

/// Copies a file with its holes to a new one. Blocks of zeros stay what they are; nothing is synced.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<(), Error> {
    let source = File::open(from).map_err(reading("open", from))?;
    let meta = source.metadata().map_err(reading("read", from))?;
    let failed = |action| writing(action, to, meta.blocks() * 512);
    let target = OpenOptions::new().write(true).create_new(true).open(to).map_err(failed("create"))?;
    target.set_len(meta.len()).map_err(failed("write"))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    for segment in segments(&source, meta.len()).map_err(reading("read", from))? {
        let Segment::Data(range) = segment else { continue };
        for (at, count) in chunks(range) {
            source.read_exact_at(&mut buffer[..count], at).map_err(reading("read", from))?;
            target.write_all_at(&buffer[..count], at).map_err(failed("write"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_hash_like_zeros_and_survive_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let sparse = dir.path().join("sparse");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&sparse).unwrap();
        let length = 5 * CHUNK_BYTES as u64 + 123;
        file.set_len(length).unwrap();
        file.write_all_at(b"middle", 2 * CHUNK_BYTES as u64 + 17).unwrap();

        let mut whole = vec![0; length as usize];
        whole[2 * CHUNK_BYTES + 17..][..6].copy_from_slice(b"middle");
        let mut seen = 0;
        assert_eq!(digest(&file, length, &mut |step| seen += step).unwrap(), Digest::of(&whole));
        assert_eq!(seen, length);

        let copy = dir.path().join("copy");
        copy_sparse(&sparse, &copy).unwrap();
        assert_eq!(std::fs::read(&copy).unwrap(), whole);
        assert!(std::fs::metadata(&copy).unwrap().blocks() * 512 < length / 2, "the copy lost its holes");
    }

    #[test]
    fn a_small_file_that_is_not_small_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read_small(&path, 10).unwrap().is_none());
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read_small(&path, 10).unwrap().unwrap(), [7; 10]);
        assert!(read_small(&path, 9).is_err());
    }
}
