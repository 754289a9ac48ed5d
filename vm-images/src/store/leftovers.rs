//! What killed processes leave under `tmp`, and how it is told from what live ones are building.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::lock::{Claim, Lease, StoreLock};
use super::{Store, files};
use crate::id::ImageId;

/// A directory under `tmp` that is ours as long as this value lives; goes away with it.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
    /// What is to happen when the owner lets go of it.
    end: End,
    /// Only rubbish has none: its lock file is gone already.
    _lease: Option<Lease>,
}

/// What happens to a workspace that is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Remove,
    Keep,
}

impl Workspace {
    /// A directory outside of `tmp` that stays until [`Workspace::end`] says otherwise.
    pub(super) fn kept(path: PathBuf, lease: Lease) -> Self {
        Self { path, end: End::Keep, _lease: Some(lease) }
    }

    pub(super) fn end(&mut self, end: End) {
        self.end = end;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if self.end == End::Keep {
            return;
        }
        if let Err(error) = files::remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove a temporary directory; the next start will");
        }
    }
}

/// Rubbish whose owners are dead, taken over so that nobody else removes it at the same time.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    taken: Vec<Workspace>,
    files: Vec<PathBuf>,
}

impl Leftovers {
    /// Removes it all and says how many there were. May take long; needs no lock.
    pub(super) fn remove(self) -> usize {
        for path in &self.files {
            if let Err(error) = files::remove(path) {
                tracing::warn!(path = %path.display(), %error, "could not remove a temporary file");
            }
        }
        self.files.len() + self.taken.len()
    }
}

impl Store {
    /// Makes a workspace. Under the lock, because between its making and its lease it looks like rubbish.
    pub(super) fn new_workspace(&self, _lock: &StoreLock) -> Result<Workspace, Error> {
        let path = self.temporary()?;
        files::make_directory(&path)?;
        let lease = Lease::make(&path.join("lock"))?;
        Ok(Workspace { path, end: End::Remove, _lease: Some(lease) })
    }

    /// Finds what is nobody's. Plain files are written only under the lock, so one that is there now is nobody's.
    pub(super) fn find_leftovers(&self, _lock: &StoreLock) -> Result<Leftovers, Error> {
        let mut found = Leftovers::default();
        for name in self.entries("tmp")? {
            let path = self.root().join("tmp").join(name);
            if !path.is_dir() {
                found.files.push(path);
                continue;
            }
            let lease = match Lease::claim(&path.join("lock"))? {
                Claim::InUse => continue,
                Claim::Taken(lease) => Some(lease),
                Claim::NoLock => None,
            };
            found.taken.push(Workspace { path, end: End::Remove, _lease: lease });
        }
        Ok(found)
    }

    /// Parents of the drafts that live processes are building (of all that are no leftovers), and of what is being
    /// fetched, also if nobody fetches it right now.
    pub(super) fn parents_of_drafts(&self, leftovers: &Leftovers) -> Result<Vec<ImageId>, Error> {
        let mut parents = Vec::new();
        let drafts = self.entries("tmp")?.into_iter().map(|name| self.root().join("tmp").join(name));
        let fetches =
            self.entries("incoming")?.into_iter().map(|name| self.root().join("incoming").join(name));
        for path in drafts.chain(fetches) {
            if leftovers.taken.iter().any(|rubbish| rubbish.path == path) {
                continue;
            }
            // A draft that is being dropped right now has no entries any more, or no parent to protect.
            if let Ok(entries) = std::fs::read_dir(path) {
                let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
                parents.extend(names.filter_map(|name| name.parse::<ImageId>().ok()));
            }
        }
        Ok(parents)
    }
}
