//! What a recipe depends on, as one digest: equal digests need no second build.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::{self, Error};
use super::recipe::Recipe;
use crate::id::{Digest, ImageId};

/// Counted up whenever this crate or its callers would make another image from the same files.
const BUILDER_VERSION: &str = "tactical cloudlet image builder 1";
/// Largest file in a recipe, bytes; larger ones are most likely not meant to be there.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

impl Recipe {
    /// The digest of all that decides what is built: every file of the recipe (name, content, whether it can be
    /// executed), the scripts that recipes share, the parent image, the builder's version, and `context`: whatever
    /// the caller's part of the build depends on besides (accelerator, device layout).
    ///
    /// Not in it: what the Debian mirror offers today, and the files outside of the recipe that warm-up requests send.
    pub fn digest(&self, parent: Option<ImageId>, context: &str) -> Result<Digest, Error> {
        let mut hasher = blake3::Hasher::new();
        frame(&mut hasher, BUILDER_VERSION.as_bytes());
        frame(&mut hasher, context.as_bytes());
        frame(&mut hasher, parent.map(|id| id.to_string()).unwrap_or_default().as_bytes());
        if let Some(shared) = self.directory.parent() {
            for path in entries(shared)?.into_iter().filter(|path| path.is_file()) {
                add(&mut hasher, shared, &path)?;
            }
        }
        frame(&mut hasher, b"recipe");
        add_tree(&mut hasher, &self.directory, &self.directory)?;
        Ok(hasher.finalize().into())
    }
}

fn add_tree(hasher: &mut blake3::Hasher, root: &Path, dir: &Path) -> Result<(), Error> {
    for path in entries(dir)? {
        add(hasher, root, &path)?;
        if path.is_dir() && !path.is_symlink() {
            add_tree(hasher, root, &path)?;
        }
    }
    Ok(())
}

/// Adds one entry. Of the mode only what Git keeps: the rest depends on the umask of whoever checked out.
fn add(hasher: &mut blake3::Hasher, root: &Path, path: &Path) -> Result<(), Error> {
    let meta = std::fs::symlink_metadata(path).map_err(error::file("read", path))?;
    frame(hasher, path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes());
    if meta.is_symlink() {
        let target = std::fs::read_link(path).map_err(error::file("read", path))?;
        frame(hasher, b"link");
        frame(hasher, target.as_os_str().as_bytes());
    } else if meta.is_file() {
        if meta.len() > MAX_FILE_BYTES {
            let source = std::io::Error::other(format!("it is longer than {MAX_FILE_BYTES} bytes"));
            return Err(error::file("take the digest of", path)(source));
        }
        frame(hasher, if meta.permissions().mode() & 0o100 != 0 { b"program" } else { b"file" });
        frame(hasher, &std::fs::read(path).map_err(error::file("read", path))?);
    } else {
        frame(hasher, b"directory");
    }
    Ok(())
}

/// Lengths keep neighbours apart: "ab" and "c" must not be "a" and "bc".
fn frame(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(error::file("list", dir))? {
        paths.push(entry.map_err(error::file("list", dir))?.path());
    }
    paths.sort();
    Ok(paths)
}
