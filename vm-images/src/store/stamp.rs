//! The fast check before every start.
//!
//! A full check reads everything, which takes a second and more; a start has a quarter of one. So after a full check
//! the store notes what every file of the image and its parents looked like: device, inode, length, and the times of
//! the last change of content and of attributes, in nanoseconds. As long as all of that is the same, nobody has
//! written to the files through the file system, and the check holds.
//!
//! What this finds: a file that was written, cut, replaced or restored, also with its modification time put back,
//! because the time of the attribute change cannot be set. What it does not find: bits that rot below the file
//! system, writes to the raw device, and root setting the clock back to forge a time. `cloudlet image verify` reads
//! everything and finds these, too.
//!
//! A stamp is trusted only if the file system's clock had moved on before the files were read ([`Store::settle`]):
//! otherwise a write in the same tick could leave the times as they were. Stamps on disk carry a key only this node
//! can derive, so that none can be copied in together with an image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Error, reading};
use super::image::{Image, MANIFEST, SIGNATURE};
use super::verify::Checked;
use super::{Store, files};
use crate::id::{Digest, ImageId};
use crate::manifest::Role;
use crate::signature::{self, PublicKey};

/// Longest stamp that is read, bytes. One of a chain of 16 images has about 30 KiB.
const MAX_BYTES: u64 = 128 * 1024;
/// What keeps the key for stamps apart from other uses of the signing key.
const PURPOSE: &str = "tactical cloudlet image store 2026 verification stamp";
/// How far the file system's clock must be past a file's last change: the coarsest tick of Linux (100 Hz), twice.
const TICK_NS: i64 = 20_000_000;

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileStamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) bytes: u64,
    pub(super) mtime_unix_ns: i64,
    pub(super) ctime_unix_ns: i64,
}

impl From<&Metadata> for FileStamp {
    fn from(meta: &Metadata) -> Self {
        let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            mtime_unix_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_unix_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl FileStamp {
    /// Looks at a file; `None` if there is none. A symbolic link is not followed: no part is one.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, Error> {
        match std::fs::symlink_metadata(path) {
            Ok(meta) => Ok(Some(Self::from(&meta))),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(reading("read", path)(source)),
        }
    }
}

/// What a whole chain looked like when it was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    /// By image, then by file name.
    images: BTreeMap<String, BTreeMap<String, FileStamp>>,
    signers: BTreeSet<PublicKey>,
}

/// A stamp as it is stored.
#[derive(Serialize, Deserialize)]
struct Sealed {
    stamp: Stamp,
    mac: Digest,
}

/// An image that was checked by this process, or by an earlier one that left a stamp.
#[derive(Debug)]
pub(super) struct Verified {
    image: Image,
    stamp: Stamp,
}

impl Store {
    /// Makes sure that an image and its parents are what was signed, and gives it out. To be called before every
    /// start: takes well under a millisecond if nothing was touched since the last full check, else checks in full.
    ///
    /// What the fast way cannot see, [`Store::verify`] does: bits that rot below the file system.
    pub fn ensure_intact(&self, id: ImageId) -> Result<Image, Error> {
        match self.stamped(id) {
            Some(image) => Ok(image),
            None => self.verify(id),
        }
    }

    /// The image, if it was checked in full and nothing was touched since.
    pub(super) fn stamped(&self, id: ImageId) -> Option<Image> {
        // Two statements: the lock on the map must be free again when `load` puts something into it.
        let known = self.verified().get(&id).cloned();
        let verified = known.or_else(|| self.load(id))?;
        self.holds(&verified.stamp).then(|| verified.image.clone())
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, BTreeMap<ImageId, Arc<Verified>>> {
        // The map is valid after every single operation on it, so a panic elsewhere does not spoil it.
        self.inner.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self, stamp: &Stamp) -> bool {
        let images = self.root().join("images");
        let unchanged = |image: &str, name: &str, then: &FileStamp| {
            FileStamp::of(&images.join(image).join(name)).is_ok_and(|now| now.as_ref() == Some(then))
        };
        stamp.signers.iter().all(|signer| self.trusts(signer))
            && stamp
                .images
                .iter()
                .all(|(image, files)| files.iter().all(|(name, then)| unchanged(image, name, then)))
    }

    /// Notes a full check. Failing to write it down costs another full check later, nothing else.
    pub(super) fn remember(&self, chain: &[Image], checked: BTreeMap<ImageId, Checked>) {
        let Some(image) = chain.first() else { return };
        let mut stamp = Stamp { images: BTreeMap::new(), signers: BTreeSet::new() };
        for (id, found) in checked {
            stamp.images.insert(id.to_string(), found.files);
            stamp.signers.insert(found.signer);
        }
        self.keep(image.clone(), stamp);
    }

    fn keep(&self, image: Image, stamp: Stamp) {
        let id = image.id;
        self.verified().insert(id, Arc::new(Verified { image, stamp: stamp.clone() }));
        if let Err(error) = self.save(id, stamp) {
            tracing::debug!(image = id.short(), %error, "could not note that an image was verified");
        }
    }

    /// Drops what is known about an image.
    pub(super) fn forget(&self, id: ImageId) {
        self.verified().remove(&id);
        // If this fails, the stamp is compared with the files all the same.
        let _ = std::fs::remove_file(self.stamp_path(id));
    }

    /// A publication has just read every part, so the first start need not do it again. Needs the parent's stamp.
    pub(super) fn stamp_published(&self, id: ImageId, parts: BTreeMap<Role, FileStamp>) {
        if let Err(error) = self.try_stamp_published(id, parts) {
            tracing::debug!(image = id.short(), %error, "a new image will be verified in full before its first start");
        }
    }

    fn try_stamp_published(&self, id: ImageId, parts: BTreeMap<Role, FileStamp>) -> Result<(), Error> {
        let image = self.get(id)?;
        let mut stamp = Stamp { images: BTreeMap::new(), signers: BTreeSet::new() };
        if let Some(parent) = image.manifest.parent {
            let Some(known) = self.verified().get(&parent).cloned() else { return Ok(()) };
            stamp = known.stamp.clone();
        }
        let settled = self.settle(image.dir());
        let mut files: BTreeMap<String, FileStamp> =
            parts.into_iter().map(|(role, stamp)| (role.file_name().to_owned(), stamp)).collect();
        for name in [MANIFEST, SIGNATURE] {
            files.extend(FileStamp::of(&image.dir().join(name))?.map(|stamp| (name.to_owned(), stamp)));
        }
        let signature =
            files::read_small(&image.dir().join(SIGNATURE), signature::MAX_BYTES)?.unwrap_or_default();
        let signed = signature::Detached::parse(&signature);
        stamp
            .signers
            .insert(signed.map_err(|source| Error::Signature { image: image.label(), source })?.signer);
        stamp.images.insert(id.to_string(), files);
        if settled && self.holds(&stamp) {
            self.keep(image, stamp);
        }
        Ok(())
    }

    fn stamp_path(&self, id: ImageId) -> std::path::PathBuf {
        self.root().join("verified").join(id.to_string())
    }

    fn save(&self, id: ImageId, stamp: Stamp) -> Result<(), Error> {
        let path = self.stamp_path(id);
        let failed = |source: serde_json::Error| reading("write", &path)(source.into());
        let mac = self.mac(&serde_json::to_vec(&stamp).map_err(failed)?);
        let bytes = serde_json::to_vec(&Sealed { stamp, mac }).map_err(failed)?;
        // No sync: a stamp that is lost costs a full check.
        let temporary = self.temporary()?;
        std::fs::write(&temporary, bytes).map_err(reading("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(|source| {
            let _ = std::fs::remove_file(&temporary);
            reading("write", &path)(source)
        })
    }

    fn load(&self, id: ImageId) -> Option<Arc<Verified>> {
        let bytes = files::read_small(&self.stamp_path(id), MAX_BYTES).ok()??;
        let Sealed { stamp, mac } = serde_json::from_slice(&bytes).ok()?;
        let expected = self.mac(&serde_json::to_vec(&stamp).ok()?);
        // Both are digests under a secret key; comparing them in constant time would protect nothing here.
        if mac != expected || !stamp.images.contains_key(&id.to_string()) {
            return None;
        }
        let verified = Arc::new(Verified { image: self.get(id).ok()?, stamp });
        self.verified().insert(id, Arc::clone(&verified));
        Some(verified)
    }

    fn mac(&self, bytes: &[u8]) -> Digest {
        blake3::keyed_hash(&self.inner.key.derive(PURPOSE), bytes).into()
    }

    /// Waits until the file system's clock is past the last change of every file in `dir`, so that any later write
    /// shows in a file's times. `false`: it did not come past (files from the future), so do not stamp.
    pub(super) fn settle(&self, dir: &Path) -> bool {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let stamps = entries.filter_map(|entry| entry.metadata().ok()).map(|meta| FileStamp::from(&meta));
        // The time of the attribute change alone: every write moves it, and nobody can set it.
        let newest = stamps.map(|stamp| stamp.ctime_unix_ns).max().unwrap_or(0);
        (0..20).any(|attempt| {
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.file_system_clock().is_some_and(|now| now > newest.saturating_add(TICK_NS))
        })
    }

    /// The time that the file system gives a file that is made now.
    fn file_system_clock(&self) -> Option<i64> {
        let path = self.temporary().ok()?;
        let file = std::fs::File::create_new(&path).ok()?;
        let _ = std::fs::remove_file(&path);
        Some(FileStamp::from(&file.metadata().ok()?).ctime_unix_ns)
    }
}
