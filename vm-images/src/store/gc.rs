//! Removing what nobody needs.

use std::collections::BTreeSet;

use super::error::Error;
use super::image::allocated_bytes;
use super::leftovers::{Leftovers, Workspace};
use super::{Store, files};
use crate::id::ImageId;

/// What a garbage collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// The images that are gone.
    pub removed: Vec<ImageId>,
    /// What they took on the disk, bytes.
    pub freed_bytes: u64,
    /// Drafts and temporary files of killed builders that are gone, too.
    pub leftovers: usize,
    /// Images of which a part was fetched, and that stay so that the rest can follow. What nobody wants any more,
    /// [`Store::discard_interrupted`] removes.
    pub interrupted: Vec<ImageId>,
}

impl Store {
    /// Removes every image that has no name, no pin, no VM (`live`) and no child that has one; also what killed
    /// builders left. Each image goes in one step: a crash leaves it whole or gone.
    ///
    /// If an image that is kept cannot be read, its parents are unknown, so nothing is removed.
    pub fn gc(&self, live: &BTreeSet<ImageId>) -> Result<GcReport, Error> {
        let lock = self.lock("collecting garbage")?;
        let leftovers = self.find_leftovers(&lock)?;
        let keep = self.needed(&leftovers, live)?;
        let mut report = GcReport::default();
        let bin = self.new_workspace(&lock)?;
        for id in self.id_entries("images")? {
            if !keep.contains(&id) {
                report.freed_bytes += self.discard(&bin, id)?;
                report.removed.push(id);
            }
        }
        files::sync_directory(&self.root().join("images"))?;
        report.interrupted = self.sweep_incoming(&lock)?;
        self.sweep_lists()?;
        self.sweep_indexes()?;
        drop(lock);
        report.leftovers = leftovers.remove();
        Ok(report)
    }

    /// What [`Store::gc`] would remove now, in order of ids. Nothing is changed.
    pub fn unneeded(&self, live: &BTreeSet<ImageId>) -> Result<Vec<ImageId>, Error> {
        // Without taking leftovers over, dead drafts count like live ones: nothing is listed that would stay.
        let keep = self.needed(&Leftovers::default(), live)?;
        Ok(self.id_entries("images")?.into_iter().filter(|id| !keep.contains(id)).collect())
    }

    /// Removes one image, its name and its stamp. Refused while it is pinned or another image or build needs it.
    pub fn remove(&self, id: ImageId) -> Result<(), Error> {
        let lock = self.lock("removing an image")?;
        if !self.contains(id) {
            return Err(Error::NotFound { wanted: id.to_string() });
        }
        let image = || self.get(id).map_or_else(|_| id.short(), |image| image.label());
        if self.pin_path(id).exists() {
            return Err(Error::Pinned { image: image() });
        }
        if let Some(child) = self.list()?.images.iter().find(|child| child.manifest.parent == Some(id)) {
            return Err(Error::NeededBy { image: image(), needed_by: format!("image {}", child.label()) });
        }
        let leftovers = self.find_leftovers(&lock)?;
        if self.parents_of_drafts(&leftovers)?.contains(&id) {
            return Err(Error::NeededBy {
                image: image(),
                needed_by: "an image that is being built or fetched".to_owned(),
            });
        }
        // The name first: a name without an image would be half of something, an unnamed image is whole.
        for (name, named) in self.names()? {
            if named == id {
                files::remove(&self.name_path(&name))?;
            }
        }
        let bin = self.new_workspace(&lock)?;
        self.discard(&bin, id)?;
        files::sync_directory(&self.root().join("images"))?;
        drop(lock);
        leftovers.remove();
        Ok(())
    }

    /// Everything that must stay.
    fn needed(&self, leftovers: &Leftovers, live: &BTreeSet<ImageId>) -> Result<BTreeSet<ImageId>, Error> {
        let mut open: Vec<ImageId> = live.iter().copied().collect();
        open.extend(self.names()?.into_values());
        open.extend(self.pins()?);
        open.extend(self.parents_of_drafts(leftovers)?);
        let mut needed = BTreeSet::new();
        while let Some(id) = open.pop() {
            if needed.insert(id) && self.contains(id) {
                open.extend(self.get(id)?.manifest.parent);
            }
        }
        Ok(needed)
    }

    /// Moves an image out of sight; it is deleted when `bin` is dropped. Says what it takes, bytes.
    fn discard(&self, bin: &Workspace, id: ImageId) -> Result<u64, Error> {
        let dir = self.image_dir(id);
        let bytes = allocated_bytes(&dir);
        files::rename(&dir, &bin.path().join("removed").with_extension(id.to_string()))?;
        self.forget(id);
        Ok(bytes)
    }
}
