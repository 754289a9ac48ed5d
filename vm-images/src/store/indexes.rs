//! Where the blocks of parts lie: found once, kept under the part's digest, checked at every reading.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use super::error::{Error, reading};
use super::image::Image;
use super::verify::Progress;
use super::{Store, files};
use crate::id::{Digest, ImageId};
use crate::index::Index;
use crate::manifest::{Part, Role};

/// A part with an index, as they belong to an image and its parents.
#[derive(Debug, Clone)]
pub struct Indexed {
    /// Its digest.
    pub digest: Digest,
    /// What it is.
    pub role: Role,
    /// Its file; only to be read.
    pub path: PathBuf,
    /// Where its blocks lie.
    pub index: Index,
}

impl Store {
    /// The disks and memory templates of an image and its parents, with their indexes. The image's own come first.
    ///
    /// What is not indexed yet is read (0.6 GB of images in about a second) and kept; `progress` counts the bytes of
    /// the parts, so it jumps over what is kept. Check the image first with [`Store::ensure_intact`]: an index is
    /// made of what is there.
    pub fn indexes(&self, id: ImageId, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Indexed>, Error> {
        let chain = self.chain(id)?;
        let indexed = |part: &&Part| matches!(part.role, Role::Disk | Role::MemoryTemplate);
        let parts =
            |image: &'_ Image| image.manifest.parts.iter().filter(indexed).cloned().collect::<Vec<_>>();
        let total_bytes = chain.iter().flat_map(parts).map(|part| part.bytes).sum();
        let mut done_bytes = 0;
        let mut found = Vec::new();
        for image in &chain {
            for part in parts(image) {
                let mut step = |bytes| progress(Progress { done_bytes: done_bytes + bytes, total_bytes });
                let index = self.index(image, &part, &mut step)?;
                done_bytes += part.bytes;
                progress(Progress { done_bytes, total_bytes });
                found.push(Indexed {
                    digest: part.blake3,
                    role: part.role,
                    path: image.path(part.role)?,
                    index,
                });
            }
        }
        Ok(found)
    }

    fn index(&self, image: &Image, part: &Part, step: &mut dyn FnMut(u64)) -> Result<Index, Error> {
        if let Some(index) = self.kept_index(part) {
            return Ok(index);
        }
        let path = image.path(part.role)?;
        let file = File::open(&path).map_err(reading("open", &path))?;
        let mut done = 0;
        let mut count = |bytes| {
            done += bytes;
            step(done);
        };
        let index = Index::build(part.blake3, file, &mut count).map_err(reading("read", &path))?;
        self.keep_index(part, &index);
        Ok(index)
    }

    /// The index of a part, if it is kept here and fits.
    pub fn kept_index(&self, part: &Part) -> Option<Index> {
        let limit = Index::most_stored_bytes(part.bytes);
        let bytes = files::read_small(&self.index_path(&part.blake3), limit).ok()??;
        let index = Index::from_bytes(&bytes).ok()?;
        (*index.part() == part.blake3 && index.part_bytes() == part.bytes).then_some(index)
    }

    /// Keeps an index; appears whole or not at all. It is only a saving, so that it cannot be written is no failure.
    fn keep_index(&self, part: &Part, index: &Index) {
        let kept = self.temporary().and_then(|temporary| {
            files::replace(&self.index_path(&part.blake3), &temporary, &index.to_bytes(), 0o644)
        });
        if let Err(error) = kept {
            tracing::debug!(part = part.role.title(), %error, "could not keep the index of a part's blocks");
        }
    }

    /// Removes the indexes of parts that are no longer here.
    pub(super) fn sweep_indexes(&self) -> Result<(), Error> {
        let parts = self.list()?.images.into_iter().flat_map(|image| image.manifest.parts);
        let needed: BTreeSet<Digest> = parts.map(|part| part.blake3).collect();
        for name in self.entries("indexes")? {
            if !name.parse().is_ok_and(|digest| needed.contains(&digest)) {
                let path = self.root().join("indexes").join(name);
                std::fs::remove_file(&path).map_err(reading("remove", &path))?;
            }
        }
        Ok(())
    }

    fn index_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("indexes").join(digest.to_string())
    }
}
