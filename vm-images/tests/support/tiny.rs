//! A file system that is soon full.
#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A file system of its own, a few MiB large.
pub struct Tiny(tempfile::TempDir);

impl Tiny {
    /// Mounts it; `None`, and a message, where that is not permitted.
    pub fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        match mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options)) {
            Ok(()) => Some(Self(dir)),
            Err(errno) => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here ({errno})");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}
