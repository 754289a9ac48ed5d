//! Building an image and publishing it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::crash;
use super::error::{Error, reading, writing};
use super::image::{MANIFEST, SIGNATURE, backing_path};
use super::incoming::Naming;
use super::leftovers::{End, Workspace};
use super::stamp::FileStamp;
use super::{Store, files, verify};
use crate::id::ImageId;
use crate::manifest::{Manifest, Part, Role};

/// An image that is being made. Nobody else sees it; dropping it removes it.
///
/// ```text
/// tmp/<random>/lock            held while the draft lives
/// tmp/<random>/image/          becomes images/<id>
/// tmp/<random>/<parent id>  -> ../../images/<parent id>, so that the disk's relative backing path works here, too
/// tmp/<random>/scratch/        for whatever building needs besides
/// ```
#[derive(Debug)]
pub struct Draft {
    store: Store,
    workspace: Workspace,
    parent: Option<ImageId>,
    naming: Naming,
}

impl Store {
    /// Begins an image, layered on `parent`, which is kept from garbage collection while the draft lives.
    pub fn begin(&self, parent: Option<ImageId>) -> Result<Draft, Error> {
        let lock = self.lock("beginning an image")?;
        let workspace = self.new_workspace(&lock)?;
        files::make_directory(&workspace.path().join("image"))?;
        files::make_directory(&workspace.path().join("scratch"))?;
        if let Some(parent) = parent {
            self.chain(parent)?;
            let link = workspace.path().join(parent.to_string());
            let target = Path::new("../../images").join(parent.to_string());
            std::os::unix::fs::symlink(target, &link).map_err(writing("create", &link, 0))?;
        }
        crash::point("draft made");
        Ok(Draft { store: self.clone(), workspace, parent, naming: Naming::Take })
    }
}

impl Draft {
    /// A draft in a directory that stays unless it is published.
    pub(super) fn resumed(
        store: Store,
        workspace: Workspace,
        parent: Option<ImageId>,
        naming: Naming,
    ) -> Self {
        Self { store, workspace, parent, naming }
    }

    /// Where the parts belong, each under its role's file name.
    pub fn dir(&self) -> PathBuf {
        self.workspace.path().join("image")
    }

    /// Where this part belongs.
    pub fn path(&self, role: Role) -> PathBuf {
        self.dir().join(role.file_name())
    }

    /// A directory for files that are not part of the image; goes away with the draft.
    pub fn scratch(&self) -> PathBuf {
        self.workspace.path().join("scratch")
    }

    /// What the disk must name as its backing file; `None` without a parent.
    pub fn backing(&self) -> Option<PathBuf> {
        self.parent.map(|parent| backing_path(parent).into())
    }

    /// The image that this one is layered on.
    pub fn parent(&self) -> Option<ImageId> {
        self.parent
    }

    /// Fails now, rather than after minutes of work, if fewer than `bytes` are free.
    pub fn require_space(&self, bytes: u64) -> Result<(), Error> {
        let free_bytes = self.store.free_bytes();
        if free_bytes < bytes {
            return Err(Error::NoSpace { path: self.dir(), needed_bytes: bytes, free_bytes });
        }
        Ok(())
    }

    /// Copies a file in as a part; its holes stay holes.
    pub fn add_copy(&self, role: Role, from: &Path) -> Result<(), Error> {
        files::copy_sparse(from, &self.path(role))
    }

    /// Writes a part.
    pub fn add_bytes(&self, role: Role, bytes: &[u8]) -> Result<(), Error> {
        files::write_new(&self.path(role), bytes, 0o444)
    }

    /// Publishes the image: `manifest.parts` is filled in from the files that are there, then the manifest is
    /// signed with the node's key, and the image appears under its id and its name.
    ///
    /// A crash leaves the old or the new. On error nothing was published and the draft is removed. An image that is
    /// there already is no error; if it was damaged, this one takes its place.
    pub fn publish(self, mut manifest: Manifest) -> Result<ImageId, Error> {
        let (parts, stamps) = self.seal()?;
        manifest.parts = parts;
        let label = || format!("'{}'", manifest.name);
        manifest.validate().map_err(|source| Error::Manifest { image: label(), source })?;
        let bytes = manifest.to_bytes().map_err(|source| Error::Manifest { image: label(), source })?;
        let signature = self.store.inner.key.sign(&bytes).to_bytes();
        // Before the image is there: others who share the store use it, too.
        self.store.trust(self.store.own_key())?;
        self.finish(&manifest, &bytes, &signature, stamps)
    }

    /// Publishes an image that somebody else signed, under the very same id. The signer must be trusted here, and
    /// the parts that are there must be those of the manifest. For the rest as [`Draft::publish`].
    pub fn publish_signed(self, manifest_bytes: &[u8], signature: &[u8]) -> Result<ImageId, Error> {
        let id = Manifest::id_of(manifest_bytes);
        let manifest = Manifest::parse(manifest_bytes)
            .map_err(|source| Error::Manifest { image: id.short(), source })?;
        self.store
            .trusted()?
            .check(manifest_bytes, Some(signature))
            .map_err(|source| Error::Signature { image: manifest.label(id), source })?;
        let (found, stamps) = self.seal()?;
        verify::compare_parts(&manifest, id, &found, &self.dir())?;
        self.finish(&manifest, manifest_bytes, signature, stamps)
    }

    /// Makes the parts read-only and durable, and takes their digests.
    fn seal(&self) -> Result<(Vec<Part>, BTreeMap<Role, FileStamp>), Error> {
        let roles = self.roles()?;
        for role in &roles {
            make_durable(&self.path(*role))?;
        }
        crash::point("parts synced");
        let mut parts = Vec::new();
        let mut stamps = BTreeMap::new();
        self.store.settle(&self.dir());
        for role in roles {
            let in_use =
                || Error::PartInUse { image: "being published".to_owned(), role, path: self.path(role) };
            let (stamp, blake3) = verify::measure(&self.path(role), &mut |_| {})?.ok_or_else(in_use)?;
            parts.push(Part { role, bytes: stamp.bytes, blake3 });
            stamps.insert(role, stamp);
        }
        crash::point("parts hashed");
        Ok((parts, stamps))
    }

    /// The parts that are there. A file that is none is a mistake of the builder, and would never be verified.
    fn roles(&self) -> Result<Vec<Role>, Error> {
        let dir = self.dir();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(reading("list", &dir))? {
            names.push(entry.map_err(reading("list", &dir))?.file_name());
        }
        let roles: Vec<Role> =
            Role::ALL.into_iter().filter(|role| names.iter().any(|name| name == role.file_name())).collect();
        match names.iter().find(|name| !roles.iter().any(|role| *name == role.file_name())) {
            Some(name) => {
                Err(Error::Draft { reason: format!("'{}' is no part of an image", name.display()) })
            }
            None => Ok(roles),
        }
    }

    fn finish(
        mut self,
        manifest: &Manifest,
        bytes: &[u8],
        signature: &[u8],
        stamps: BTreeMap<Role, FileStamp>,
    ) -> Result<ImageId, Error> {
        let id = Manifest::id_of(bytes);
        if manifest.parent != self.parent {
            return Err(Error::Draft {
                reason: "the manifest names another parent than the draft was begun with".into(),
            });
        }
        verify::check_backing(manifest, id, &self.dir())?;
        if let Some(parent) = self.parent {
            self.store.ensure_intact(parent)?;
        }
        let dir = self.dir();
        files::write_new(&dir.join(MANIFEST), bytes, 0o444)?;
        crash::point("manifest written");
        files::write_new(&dir.join(SIGNATURE), signature, 0o444)?;
        crash::point("signature written");
        let name = self.workspace.path().join("name");
        // From an earlier try, if the draft was kept.
        files::remove(&name)?;
        files::write_new(&name, format!("{id}\n").as_bytes(), 0o644)?;
        files::sync_directory(&dir)?;
        crash::point("image synced");
        self.reveal(id, &manifest.name, &name)?;
        self.workspace.end(End::Remove);
        self.store.stamp_published(id, stamps);
        crash::point("stamped");
        tracing::info!(image = manifest.label(id), "published");
        Ok(id)
    }

    /// The one moment in which the image appears, and then its name.
    fn reveal(&self, id: ImageId, name: &str, name_file: &Path) -> Result<(), Error> {
        let target = self.store.image_dir(id);
        // Outside of the lock, because it may read everything. Nothing but a removal can change the answer.
        let damaged = self.store.contains(id) && self.store.ensure_intact(id).is_err();
        let _lock = self.store.lock("publishing an image")?;
        if let Some(parent) = self.parent {
            self.store.chain(parent)?;
        }
        let appeared = match std::fs::rename(self.dir(), &target) {
            Ok(()) => true,
            Err(source) if is_there_already(&source) => {
                if damaged {
                    exchange(&self.dir(), &target)?;
                }
                false
            }
            Err(source) => return Err(writing("rename to", &target, 0)(source)),
        };
        let named = files::sync_directory(&self.store.root().join("images")).and_then(|()| {
            crash::point("image renamed");
            let path = self.store.name_path(name);
            if self.naming == Naming::IfFree && path.exists() {
                return Ok(());
            }
            files::rename(name_file, &path)
        });
        if let Err(error) = named {
            if appeared {
                // Back into the draft, which goes away: nothing was published.
                std::fs::rename(&target, self.dir()).map_err(reading("withdraw", &target))?;
            }
            return Err(error);
        }
        crash::point("name renamed");
        Ok(())
    }
}

fn is_there_already(source: &io::Error) -> bool {
    matches!(source.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

/// Swaps two directories in one step, so that at no moment there is none.
fn exchange(from: &Path, to: &Path) -> Result<(), Error> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_EXCHANGE)
        .map_err(|errno| writing("replace", to, 0)(errno.into()))
}

fn make_durable(path: &Path) -> Result<(), Error> {
    let meta = std::fs::symlink_metadata(path).map_err(reading("read", path))?;
    if !meta.is_file() {
        return Err(Error::Draft { reason: format!("{} is not a plain file", path.display()) });
    }
    let read_only = std::fs::Permissions::from_mode(0o444);
    std::fs::set_permissions(path, read_only).map_err(writing("change the mode of", path, 0))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(writing("write", path, meta.len()))
}
