//! Reading what the store holds.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::{Store, files};
use crate::id::{Digest, ImageId};
use crate::manifest::{self, Manifest, Role};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const SIGNATURE: &str = "manifest.sig";
/// Longest chain of parents that is followed. Recipes make two layers; packages of later releases a few more.
const MAX_CHAIN: usize = 16;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// What it is.
    pub manifest: Manifest,
    dir: PathBuf,
}

impl Image {
    /// The directory that its files are in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image as people read it in messages: name and short id.
    pub fn label(&self) -> String {
        self.manifest.label(self.id)
    }

    /// The file of a part. Read it, never write it: other VMs run on the same file.
    pub fn path(&self, role: Role) -> Result<PathBuf, Error> {
        match self.manifest.part(role) {
            Some(part) => Ok(self.dir.join(part.role.file_name())),
            None => Err(Error::NoSuchPart { image: self.label(), role }),
        }
    }

    /// What the image takes on the disk, bytes: holes do not count.
    pub fn allocated_bytes(&self) -> u64 {
        allocated_bytes(&self.dir)
    }
}

/// What the files of a directory take on the disk, bytes; for reports, so files that vanish count nothing.
pub(super) fn allocated_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
}

/// Everything in the store.
#[derive(Debug, Default)]
pub struct Listing {
    /// The images whose manifests can be read, by name and then newest first.
    pub images: Vec<Image>,
    /// The others.
    pub broken: Vec<Broken>,
}

/// An image that is there but cannot be read.
#[derive(Debug)]
pub struct Broken {
    /// The id under which it lies.
    pub id: ImageId,
    /// Why it cannot be read.
    pub error: Error,
}

/// What a disk layered on `parent` has as its backing file.
pub(super) fn backing_path(parent: ImageId) -> String {
    format!("../{parent}/{}", Role::Disk.file_name())
}

impl Store {
    /// The image with this id. Its manifest is checked against the id, its parts are not: see
    /// [`Store::ensure_intact`].
    pub fn get(&self, id: ImageId) -> Result<Image, Error> {
        let dir = self.image_dir(id);
        let limit = manifest::MAX_BYTES;
        let Some(bytes) = files::read_small(&dir.join(MANIFEST), limit)? else {
            return Err(Error::NotFound { wanted: id.to_string() });
        };
        let found = Manifest::id_of(&bytes);
        if found != id {
            return Err(Error::ManifestChanged { id, found });
        }
        let manifest =
            Manifest::parse(&bytes).map_err(|source| Error::Manifest { image: id.short(), source })?;
        Ok(Image { id, manifest, dir })
    }

    /// The exact bytes of an image's manifest and signature, for passing them on.
    pub fn signed(&self, id: ImageId) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let dir = self.image_dir(id);
        let read = |name, limit| {
            files::read_small(&dir.join(name), limit)?
                .ok_or_else(|| Error::NotFound { wanted: id.to_string() })
        };
        Ok((read(MANIFEST, manifest::MAX_BYTES)?, read(SIGNATURE, crate::signature::MAX_BYTES)?))
    }

    /// Whether an image with this id is there; says nothing about its state.
    pub fn contains(&self, id: ImageId) -> bool {
        self.image_dir(id).is_dir()
    }

    /// The image and its parents, up to the one that has none.
    pub fn chain(&self, id: ImageId) -> Result<Vec<Image>, Error> {
        let mut chain = vec![self.get(id)?];
        while let Some(child) = chain.last()
            && let Some(parent) = child.manifest.parent
        {
            if !self.contains(parent) {
                return Err(Error::MissingParent { child: child.label(), parent });
            }
            if chain.len() > MAX_CHAIN {
                return Err(Error::TooDeep { image: chain[0].label(), limit: MAX_CHAIN });
            }
            chain.push(self.get(parent)?);
        }
        Ok(chain)
    }

    /// Everything in the store, also what is broken.
    pub fn list(&self) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        for id in self.id_entries("images")? {
            match self.get(id) {
                Ok(image) => listing.images.push(image),
                // Removed since the directory was read.
                Err(Error::NotFound { .. }) if !self.contains(id) => {}
                Err(error) => listing.broken.push(Broken { id, error }),
            }
        }
        listing.images.sort_by(|a, b| {
            let newest_first = b.manifest.created_unix_s.cmp(&a.manifest.created_unix_s);
            a.manifest.name.cmp(&b.manifest.name).then(newest_first).then(a.id.cmp(&b.id))
        });
        Ok(listing)
    }

    /// The image that was built from this recipe; of several, one that has a name, else the newest.
    pub fn find_by_recipe(&self, recipe: &Digest) -> Result<Option<Image>, Error> {
        let named: Vec<ImageId> = self.names()?.into_values().collect();
        let images = self.list()?.images.into_iter().filter(|image| image.manifest.recipe == *recipe);
        Ok(images.max_by_key(|image| (named.contains(&image.id), image.manifest.created_unix_s, image.id)))
    }
}
