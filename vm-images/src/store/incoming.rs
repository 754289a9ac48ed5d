//! An image that is being fetched from others, block by block.
//!
//! ```text
//! incoming/<id>/lock             held by the process that fetches
//! incoming/<id>/manifest.json    checked: has the id, is signed by somebody who is trusted
//! incoming/<id>/manifest.sig
//! incoming/<id>/image/           the parts, as far as they are here; becomes images/<id>
//! incoming/<id>/<parent id>      -> ../../images/<parent id>, keeps the parent from garbage collection
//! ```
//!
//! There is no record of which blocks are here: at the start of a fetch every block of the files is hashed and
//! compared with the checked list ([`Incoming::scan`]; about 1 GB/s). So nothing can be claimed that is not so,
//! however the fetcher or the machine died, and blocks need no sync: one that a power cut took is fetched again. At
//! most [`UNSYNCED_BYTES`] are at stake, because after that many the files are synced. What is synced for certain is
//! the whole image, before it appears under `images`.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::draft::Draft;
use super::error::{Error, reading, writing};
use super::image::{Image, MANIFEST, SIGNATURE, allocated_bytes};
use super::leftovers::{End, Workspace};
use super::lock::{Claim, Lease, StoreLock};
use super::{Store, files};
use crate::blocks::{self, Cut, Tree};
use crate::id::ImageId;
use crate::manifest::{self, Manifest, Part, Role};

/// After how many new bytes files are synced. A guess: a minute on a fast radio link (8 Mbit/s).
const UNSYNCED_BYTES: u64 = 64 * 1024 * 1024;
/// What a file system keeps as a hole, bytes: the page of every file system that is in use with QEMU.
const PAGE_BYTES: usize = 4096;

/// Whether a published image takes its name from the one that had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Yes: it is what somebody asked for.
    Take,
    /// Only if nothing has the name: it comes along because something else needs it.
    IfFree,
}

/// An image that is being fetched. Dropping it keeps what is there for the next try.
#[derive(Debug)]
pub struct Incoming {
    store: Store,
    workspace: Workspace,
    id: ImageId,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    signature: Vec<u8>,
    parts: Vec<Opened>,
    unsynced_bytes: u64,
}

#[derive(Debug)]
struct Opened {
    role: Role,
    file: File,
    tree: Option<Tree>,
}

/// An image of which a part was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupted {
    /// Its id.
    pub id: ImageId,
    /// Name and short id; the id alone if its manifest cannot be read.
    pub label: String,
    /// What is here, bytes on the disk.
    pub bytes: u64,
    /// Whether a live process is fetching it.
    pub in_use: bool,
}

impl Store {
    /// Begins to fetch an image, or goes on with it. The manifest must have the wanted id and be signed by a key that
    /// is trusted here; else nothing is written.
    pub fn incoming(&self, wanted: ImageId, manifest: &[u8], signature: &[u8]) -> Result<Incoming, Error> {
        let found = Manifest::id_of(manifest);
        if found != wanted {
            return Err(Error::ManifestChanged { id: wanted, found });
        }
        let parsed =
            Manifest::parse(manifest).map_err(|source| Error::Manifest { image: wanted.short(), source })?;
        self.trusted()?
            .check(manifest, Some(signature))
            .map_err(|source| Error::Signature { image: parsed.label(wanted), source })?;
        for part in &parsed.parts {
            let image = || parsed.label(wanted);
            Cut::of(part.bytes).map_err(|source| Error::Blocks {
                image: image(),
                role: part.role,
                source,
            })?;
        }
        let workspace = self.incoming_workspace(wanted, parsed.parent)?;
        let mut incoming = Incoming {
            store: self.clone(),
            workspace,
            id: wanted,
            manifest: parsed,
            manifest_bytes: manifest.to_vec(),
            signature: signature.to_vec(),
            parts: Vec::new(),
            unsynced_bytes: 0,
        };
        incoming.prepare()?;
        Ok(incoming)
    }

    fn incoming_workspace(&self, id: ImageId, parent: Option<ImageId>) -> Result<Workspace, Error> {
        let path = self.incoming_path(id);
        let _lock = self.lock("beginning to fetch an image")?;
        files::make_directory(&path.join("image"))?;
        let lease = match Lease::claim(&path.join("lock"))? {
            Claim::Taken(lease) => lease,
            Claim::NoLock => Lease::make(&path.join("lock"))?,
            Claim::InUse => return Err(Error::BeingFetched { image: id.short() }),
        };
        if let Some(parent) = parent {
            let link = path.join(parent.to_string());
            if std::fs::symlink_metadata(&link).is_err() {
                let target = Path::new("../../images").join(parent.to_string());
                std::os::unix::fs::symlink(target, &link).map_err(writing("create", &link, 0))?;
            }
        }
        Ok(Workspace::kept(path, lease))
    }

    /// Manifest and signature of an image that was begun, so that a fetch can go on without asking for them.
    pub fn begun(&self, id: ImageId) -> Option<(Vec<u8>, Vec<u8>)> {
        let read = |name, limit| files::read_small(&self.incoming_path(id).join(name), limit).ok()?;
        let manifest = read(MANIFEST, manifest::MAX_BYTES)?;
        let signature = read(SIGNATURE, crate::signature::MAX_BYTES)?;
        (Manifest::id_of(&manifest) == id).then_some((manifest, signature))
    }

    /// Images of which a part was fetched, in order of ids.
    pub fn interrupted(&self) -> Result<Vec<Interrupted>, Error> {
        let mut found = Vec::new();
        for id in self.id_entries("incoming")? {
            let path = self.incoming_path(id);
            let manifest = self.begun(id).and_then(|(bytes, _)| Manifest::parse(&bytes).ok());
            found.push(Interrupted {
                id,
                label: manifest.map_or_else(|| id.short(), |manifest| manifest.label(id)),
                bytes: allocated_bytes(&path.join("image")),
                in_use: matches!(Lease::claim(&path.join("lock"))?, Claim::InUse),
            });
        }
        Ok(found)
    }

    /// Removes what was fetched of an image, unless somebody is at it. Says what became free, bytes.
    pub fn discard_interrupted(&self, id: ImageId) -> Result<u64, Error> {
        let lock = self.lock("discarding a fetched part of an image")?;
        self.discard_locked(&lock, id)?.ok_or_else(|| Error::BeingFetched { image: id.short() })
    }

    /// `None`: somebody is at it.
    fn discard_locked(&self, _lock: &StoreLock, id: ImageId) -> Result<Option<u64>, Error> {
        let path = self.incoming_path(id);
        if !path.is_dir() {
            return Err(Error::NotFound { wanted: id.to_string() });
        }
        let _lease = match Lease::claim(&path.join("lock"))? {
            Claim::InUse => return Ok(None),
            Claim::Taken(lease) => Some(lease),
            Claim::NoLock => None,
        };
        let bytes = allocated_bytes(&path.join("image"));
        files::remove_tree(&path)?;
        Ok(Some(bytes))
    }

    /// Removes what was fetched of images that are here by now; names the others.
    pub(super) fn sweep_incoming(&self, lock: &StoreLock) -> Result<Vec<ImageId>, Error> {
        let mut kept = Vec::new();
        for id in self.id_entries("incoming")? {
            if !self.contains(id) || self.discard_locked(lock, id)?.is_none() {
                kept.push(id);
            }
        }
        Ok(kept)
    }

    pub(super) fn incoming_manifests(&self) -> Result<Vec<Manifest>, Error> {
        let begun = self.id_entries("incoming")?.into_iter().filter_map(|id| self.begun(id));
        Ok(begun.filter_map(|(bytes, _)| Manifest::parse(&bytes).ok()).collect())
    }

    fn incoming_path(&self, id: ImageId) -> PathBuf {
        self.root().join("incoming").join(id.to_string())
    }
}

impl Incoming {
    /// The image.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// Its manifest; checked, and signed by somebody who is trusted.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Name and short id.
    pub fn label(&self) -> String {
        self.manifest.label(self.id)
    }

    /// The values of a part's blocks, once they are known.
    pub fn tree(&self, role: Role) -> Option<&Tree> {
        self.opened(role)?.tree.as_ref()
    }

    /// Takes the values of a part's blocks from anybody, and keeps them if they lead to the part's digest.
    pub fn set_list(&mut self, role: Role, list: &[u8]) -> Result<(), Error> {
        let part = self.part(role)?.clone();
        let image = || self.label();
        let tree = Tree::check(part.bytes, &part.blake3, list).map_err(|source| Error::Blocks {
            image: image(),
            role,
            source,
        })?;
        self.store.keep_tree(&part, &tree);
        self.set_tree(role, tree);
        Ok(())
    }

    /// Which blocks of a part are here: reads and checks what there is. What is wrong becomes a hole.
    pub fn scan(&self, role: Role) -> Result<Vec<bool>, Error> {
        let (opened, tree) = self.known(role)?;
        let path = self.path(role);
        let cut = tree.cut();
        let mut buffer = vec![0; cut.block_bytes() as usize];
        let mut here = Vec::with_capacity(cut.count() as usize);
        for block in 0..cut.count() {
            let content = &mut buffer[..cut.len(block) as usize];
            opened.file.read_exact_at(content, cut.offset(block)).map_err(reading("read", &path))?;
            let fits = tree.fits(block, content);
            if !fits && content.iter().any(|byte| *byte != 0) {
                clear(&opened.file, cut, block).map_err(writing("clear a block of", &path, 0))?;
            }
            here.push(fits);
        }
        Ok(here)
    }

    /// Copies a block from a part of another image that has the same value at the same place; says whether it was
    /// good. `other` is a tree of that part.
    pub fn copy_block(&mut self, role: Role, block: u32, from: &File) -> Result<bool, Error> {
        let (_, tree) = self.known(role)?;
        let cut = tree.cut();
        let mut content = vec![0; cut.len(block) as usize];
        if from.read_exact_at(&mut content, cut.offset(block)).is_err() {
            return Ok(false);
        }
        match self.write_block(role, block, &content) {
            Ok(()) => Ok(true),
            Err(Error::WrongBlock { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Checks a block and writes it; pages of zeros stay holes.
    pub fn write_block(&mut self, role: Role, block: u32, content: &[u8]) -> Result<(), Error> {
        let (opened, tree) = self.known(role)?;
        if !tree.fits(block, content) {
            return Err(Error::WrongBlock { image: self.label(), role, block });
        }
        let start = tree.cut().offset(block);
        let failed = |source| writing("write", &self.path(role), content.len() as u64)(source);
        let mut written = 0;
        for run in runs(content) {
            let at = start + run.start as u64;
            opened.file.write_all_at(&content[run.clone()], at).map_err(failed)?;
            written += run.len() as u64;
        }
        self.unsynced_bytes += written;
        if self.unsynced_bytes >= UNSYNCED_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes durable what is here.
    pub fn sync(&mut self) -> Result<(), Error> {
        for opened in &self.parts {
            opened.file.sync_data().map_err(writing("sync", &self.path(opened.role), 0))?;
        }
        self.unsynced_bytes = 0;
        Ok(())
    }

    /// Fails if fewer than `bytes` are free.
    pub fn require_space(&self, bytes: u64) -> Result<(), Error> {
        let free_bytes = self.store.free_bytes();
        if free_bytes < bytes {
            let path = self.workspace.path().to_owned();
            return Err(Error::NoSpace { path, needed_bytes: bytes, free_bytes });
        }
        Ok(())
    }

    /// Publishes the image when every block is here; reads and checks it all once more on the way. A failure keeps
    /// what is here.
    pub fn publish(self, naming: Naming) -> Result<ImageId, Error> {
        let Self { store, workspace, manifest, manifest_bytes, signature, parts, .. } = self;
        drop(parts);
        let parent = manifest.parent;
        if let Some(parent) = parent {
            store.chain(parent)?;
        }
        Draft::resumed(store, workspace, parent, naming).publish_signed(&manifest_bytes, &signature)
    }

    /// Gives the image up and removes what is here.
    pub fn discard(mut self) {
        self.workspace.end(End::Remove);
    }

    /// Images whose blocks may be used for this one: those that it is made of and those that have its name, and of
    /// the others those whose values are known anyway.
    pub fn relatives(&self, role: Role) -> Result<Vec<(Image, Tree)>, Error> {
        let Some(tree) = self.tree(role) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for image in self.store.list()?.images {
            let is_close =
                Some(image.id) == self.manifest.parent || image.manifest.name == self.manifest.name;
            let Some(part) = image.manifest.part(role) else { continue };
            let other = match self.store.kept_tree(part) {
                None if is_close => self.store.tree(&image, part).ok(),
                kept => kept,
            };
            if let Some(other) = other.filter(|other| other.cut().block_bytes() == tree.cut().block_bytes()) {
                found.push((image, other));
            }
        }
        Ok(found)
    }

    fn prepare(&mut self) -> Result<(), Error> {
        let dir = self.workspace.path().to_owned();
        for (name, bytes) in [(MANIFEST, &self.manifest_bytes), (SIGNATURE, &self.signature)] {
            // From a publication that was cut short.
            files::remove(&dir.join("image").join(name))?;
            let temporary = dir.join("new");
            files::remove(&temporary)?;
            files::replace(&dir.join(name), &temporary, bytes, 0o644)?;
        }
        for part in self.manifest.parts.clone() {
            let path = self.path(part.role);
            let file = open_part(&path, part.bytes)?;
            let tree = self.store.kept_tree(&part);
            self.parts.push(Opened { role: part.role, file, tree });
        }
        self.set_trivial_trees();
        Ok(())
    }

    /// The list of a part of one block is the digest in the manifest.
    fn set_trivial_trees(&mut self) {
        for part in self.manifest.parts.clone() {
            if let Ok(tree) = Tree::check(part.bytes, &part.blake3, part.blake3.as_bytes()) {
                self.set_tree(part.role, tree);
            }
        }
    }

    fn set_tree(&mut self, role: Role, tree: Tree) {
        if let Some(opened) = self.parts.iter_mut().find(|opened| opened.role == role) {
            opened.tree = Some(tree);
        }
    }

    fn part(&self, role: Role) -> Result<&Part, Error> {
        self.manifest.part(role).ok_or_else(|| Error::NoSuchPart { image: self.label(), role })
    }

    fn opened(&self, role: Role) -> Option<&Opened> {
        self.parts.iter().find(|opened| opened.role == role)
    }

    fn known(&self, role: Role) -> Result<(&Opened, &Tree), Error> {
        let opened = self.opened(role);
        let known = opened.and_then(|opened| Some((opened, opened.tree.as_ref()?)));
        known.ok_or_else(|| Error::NoSuchPart { image: self.label(), role })
    }

    fn path(&self, role: Role) -> PathBuf {
        self.workspace.path().join("image").join(role.file_name())
    }
}

fn open_part(path: &Path, bytes: u64) -> Result<File, Error> {
    if path.exists() {
        // A publication that was cut short has made it read-only.
        std::fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(writing(
            "change the mode of",
            path,
            0,
        ))?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(writing("create", path, 0))?;
    file.set_len(bytes).map_err(writing("write", path, bytes))?;
    Ok(file)
}

/// Makes a block a hole, or zeros where the file system has no holes.
fn clear(file: &File, cut: Cut, block: u32) -> std::io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (start, length) = (cut.offset(block), cut.len(block));
    if fallocate(file, flags, start as i64, length.into()).is_ok() {
        return Ok(());
    }
    file.write_all_at(&vec![0; length as usize], start)
}

/// The stretches of a block that are not whole pages of zeros.
fn runs(content: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    for start in (0..content.len()).step_by(PAGE_BYTES) {
        let end = (start + PAGE_BYTES).min(content.len());
        if content[start..end].iter().all(|byte| *byte == 0) {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => found.push(start..end),
        }
    }
    found
}

// Blocks begin at pages, so that a hole of one block never reaches into another.
const _: () = assert!((blocks::BLOCK_BYTES as usize).is_multiple_of(PAGE_BYTES));
