//! Making an overlay.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::metadata::{CHUNK_BYTES, Coding, FORMAT, Overlay, Part, ROLES};
use super::payload::{cut, file_name};
use super::{Error, Guest, blocks, xz};
use crate::id::{Digest, ImageId, ServiceId};
use crate::manifest::Role;
use crate::vcdiff::Encoder;

/// How many threads pack with XZ. Two took 330 MiB with blocks of 8 MiB (measured); ours are three times as long.
pub type Threads = NonZeroU32;

/// Files that go unless all of them were made.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn create(&mut self, path: &Path) -> Result<File, Error> {
        let file = File::create_new(path).map_err(Error::file("create", path))?;
        self.0.push(path.to_owned());
        Ok(file)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            // The error that led here says more.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Makes the overlay of `service` over `base`, and the files of its parts in `dir`, where there must be none. On an error
/// none stays there.
pub fn create(
    coding: Coding,
    (base_id, base): (ImageId, &Guest),
    (service_id, service): (ServiceId, &Guest),
    dir: &Path,
    threads: Threads,
) -> Result<Overlay, Error> {
    let mut made = Made::default();
    let mut parts = Vec::new();
    for role in ROLES {
        let path = dir.join(file_name(coding, role));
        let to = made.create(&path)?;
        match (coding, role) {
            (Coding::Vcdiff, Role::Disk) => packed(service.path(role), &path, to, threads)?,
            (Coding::Blocks, Role::Disk | Role::MemoryTemplate) => {
                blocks::encode(role, base, service, (&path, to))?;
            }
            _ => difference(base.path(role), service.path(role), (&path, to), threads)?,
        }
        let (restored_bytes, restored_blake3) = digest(service.path(role))?;
        let (bytes, chunks) = cut(&path, CHUNK_BYTES)?;
        parts.push(Part { role, restored_bytes, restored_blake3, bytes, chunks });
    }
    let overlay = Overlay {
        format: FORMAT,
        coding,
        base: base_id,
        service: service_id,
        chunk_bytes: CHUNK_BYTES,
        parts,
    };
    overlay.check()?;
    made.0.clear();
    Ok(overlay)
}

/// The file as it is, packed.
fn packed(from: &Path, path: &Path, to: File, threads: Threads) -> Result<(), Error> {
    let mut from_file = File::open(from).map_err(Error::file("open", from))?;
    let mut pack = |to: File| {
        let mut xz = xz::pack(to, threads)?;
        io::copy(&mut from_file, &mut xz)?;
        xz.finish()?.flush()
    };
    pack(to).map_err(Error::file("write", path))
}

/// The VCDIFF of a file against the base's, packed.
fn difference(base: &Path, target: &Path, (path, to): (&Path, File), threads: Threads) -> Result<(), Error> {
    let source = File::open(base).map_err(Error::file("open", base))?;
    let target_file = File::open(target).map_err(Error::file("open", target))?;
    let mut encoder = Encoder::new(source).map_err(Error::Difference)?;
    let mut xz = xz::pack(to, threads).map_err(Error::file("write", path))?;
    encoder.encode(target_file, &mut xz).map_err(Error::Difference)?;
    xz.finish().map_err(Error::file("write", path)).map(|_| ())
}

fn digest(path: &Path) -> Result<(u64, Digest), Error> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let mut hasher = blake3::Hasher::new();
    let bytes = io::copy(&mut file, &mut hasher).map_err(Error::file("read", path))?;
    Ok((bytes, hasher.finalize().into()))
}
