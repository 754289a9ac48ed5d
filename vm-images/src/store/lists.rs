//! The values of the blocks of parts: taken once, kept under the part's digest, checked against it at every reading.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::error::{Error, reading};
use super::image::Image;
use super::{Store, files};
use crate::blocks::{self, Cut, Tree};
use crate::id::Digest;
use crate::manifest::{Manifest, Part};

/// Longest list that is read, bytes.
const MAX_LIST_BYTES: u64 = blocks::MAX_BLOCKS as u64 * blocks::ENTRY_BYTES as u64;

impl Store {
    /// The values of the blocks of a part of an image that is here. Reads the whole part the first time, and a small
    /// file later. Fails if the part is not what the manifest says.
    pub fn tree(&self, image: &Image, part: &Part) -> Result<Tree, Error> {
        if let Some(tree) = self.kept_tree(part) {
            return Ok(tree);
        }
        let failed = |source| Error::Blocks { image: image.label(), role: part.role, source };
        let cut = Cut::of(part.bytes).map_err(failed)?;
        let path = image.path(part.role)?;
        let file = File::open(&path).map_err(reading("open", &path))?;
        let mut list = Vec::with_capacity(cut.count() as usize * blocks::ENTRY_BYTES);
        let mut buffer = vec![0; cut.block_bytes() as usize];
        for block in 0..cut.count() {
            let content = &mut buffer[..cut.len(block) as usize];
            file.read_exact_at(content, cut.offset(block)).map_err(reading("read", &path))?;
            list.extend_from_slice(&cut.value(block, content));
        }
        let tree = Tree::check(part.bytes, &part.blake3, &list).map_err(failed)?;
        self.keep_tree(part, &tree);
        Ok(tree)
    }

    /// The values of a part's blocks, if they are kept here; of a part that is here or that is being fetched.
    pub fn kept_tree(&self, part: &Part) -> Option<Tree> {
        let list = files::read_small(&self.list_path(&part.blake3), MAX_LIST_BYTES).ok()??;
        Tree::check(part.bytes, &part.blake3, &list).ok()
    }

    /// Keeps a list. It is only a saving, so that it cannot be written is no failure; it is not synced either.
    pub(super) fn keep_tree(&self, part: &Part, tree: &Tree) {
        let kept = self.temporary().and_then(|temporary| {
            std::fs::write(&temporary, tree.list()).map_err(reading("write", &temporary))?;
            let path = self.list_path(&part.blake3);
            std::fs::rename(&temporary, &path).map_err(|source| {
                let _ = std::fs::remove_file(&temporary);
                reading("write", &path)(source)
            })
        });
        if let Err(error) = kept {
            tracing::debug!(part = part.role.title(), %error, "could not keep the values of a part's blocks");
        }
    }

    /// Removes the lists of parts that are no longer here nor being fetched.
    pub(super) fn sweep_lists(&self) -> Result<(), Error> {
        let images = self.list()?.images.into_iter().map(|image| image.manifest);
        let needed: BTreeSet<Digest> = images.chain(self.incoming_manifests()?).flat_map(digests).collect();
        for name in self.entries("lists")? {
            if !name.parse().is_ok_and(|digest| needed.contains(&digest)) {
                let path = self.root().join("lists").join(name);
                std::fs::remove_file(&path).map_err(reading("remove", &path))?;
            }
        }
        Ok(())
    }

    fn list_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("lists").join(digest.to_string())
    }
}

fn digests(manifest: Manifest) -> Vec<Digest> {
    manifest.parts.into_iter().map(|part| part.blake3).collect()
}
