//! Checking that images are what was signed.
//!
//! Everything is checked, down to the last byte and up to the last parent: manifest against id, signature against
//! trusted keys, every part's length and digest, every disk's backing file against the manifest's parent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use super::error::{Error, reading};
use super::image::{Image, MANIFEST, SIGNATURE, backing_path};
use super::stamp::FileStamp;
use super::{Store, files};
use crate::id::{Digest, ImageId};
use crate::manifest::{self, Manifest, Part, Role};
use crate::qcow2;
use crate::signature::{self, PublicKey};

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Checked so far, bytes; holes count.
    pub done_bytes: u64,
    /// To be checked in all, bytes.
    pub total_bytes: u64,
}

/// What a full check of one image found.
pub(super) struct Checked {
    pub(super) signer: PublicKey,
    /// The files that were looked at, by name, as they were.
    pub(super) files: BTreeMap<String, FileStamp>,
}

impl Store {
    /// Checks an image and its parents in full and gives it out. Reads every byte.
    pub fn verify(&self, id: ImageId) -> Result<Image, Error> {
        self.verify_with_progress(id, &mut |_| {})
    }

    /// As [`Store::verify`], and tells `progress` after every MiB.
    pub fn verify_with_progress(
        &self,
        id: ImageId,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image, Error> {
        self.forget(id);
        let chain = self.chain(id)?;
        let total_bytes = chain.iter().flat_map(|image| &image.manifest.parts).map(|part| part.bytes).sum();
        let mut done_bytes = 0;
        let settled = chain.iter().all(|image| self.settle(image.dir()));
        let mut checked = BTreeMap::new();
        for image in &chain {
            let mut step = |bytes| {
                done_bytes += bytes;
                progress(Progress { done_bytes, total_bytes });
            };
            checked.insert(image.id, self.check_image(image, &mut step)?);
        }
        if settled {
            self.remember(&chain, checked);
        }
        chain.into_iter().next().ok_or_else(|| Error::NotFound { wanted: id.to_string() })
    }

    fn check_image(&self, image: &Image, progress: &mut dyn FnMut(u64)) -> Result<Checked, Error> {
        let mut files = BTreeMap::new();
        for name in [MANIFEST, SIGNATURE] {
            files.extend(FileStamp::of(&image.dir().join(name))?.map(|stamp| (name.to_owned(), stamp)));
        }
        let signer = self.check_origin(image)?;
        check_lengths(image)?;
        check_backing(&image.manifest, image.id, image.dir())?;
        for part in &image.manifest.parts {
            let stamp = check_content(image, part, progress)?;
            files.insert(part.role.file_name().to_owned(), stamp);
        }
        Ok(Checked { signer, files })
    }

    /// Checks manifest and signature as they are on the disk now.
    fn check_origin(&self, image: &Image) -> Result<PublicKey, Error> {
        let manifest = files::read_small(&image.dir().join(MANIFEST), manifest::MAX_BYTES)?;
        let manifest = manifest.ok_or_else(|| Error::NotFound { wanted: image.id.to_string() })?;
        let found = Manifest::id_of(&manifest);
        if found != image.id {
            return Err(Error::ManifestChanged { id: image.id, found });
        }
        let signature = files::read_small(&image.dir().join(SIGNATURE), signature::MAX_BYTES)?;
        self.trusted()?
            .check(&manifest, signature.as_deref())
            .map_err(|source| Error::Signature { image: image.label(), source })
    }
}

/// All lengths before any content: a cut file is found at once, however large the others are.
fn check_lengths(image: &Image) -> Result<(), Error> {
    for part in &image.manifest.parts {
        let path = image.dir().join(part.role.file_name());
        let Some(stamp) = FileStamp::of(&path)? else {
            return Err(Error::PartMissing { image: image.label(), role: part.role, path });
        };
        compare_length(&image.label(), part, stamp.bytes)?;
    }
    Ok(())
}

fn check_content(image: &Image, part: &Part, progress: &mut dyn FnMut(u64)) -> Result<FileStamp, Error> {
    let path = image.dir().join(part.role.file_name());
    let Some((stamp, found)) = measure(&path, progress)? else {
        return Err(Error::PartInUse { image: image.label(), role: part.role, path });
    };
    compare_length(&image.label(), part, stamp.bytes)?;
    compare_content(&image.label(), part, found)?;
    Ok(stamp)
}

fn compare_length(image: &str, part: &Part, found: u64) -> Result<(), Error> {
    if found == part.bytes {
        return Ok(());
    }
    Err(Error::PartLength { image: image.to_owned(), role: part.role, expected: part.bytes, found })
}

fn compare_content(image: &str, part: &Part, found: Digest) -> Result<(), Error> {
    if found == part.blake3 {
        return Ok(());
    }
    Err(Error::PartContent { image: image.to_owned(), role: part.role, expected: part.blake3, found })
}

/// Checks that the parts in `dir` are those of the manifest, none missing, none besides.
pub(super) fn compare_parts(
    manifest: &Manifest,
    id: ImageId,
    found: &[Part],
    dir: &Path,
) -> Result<(), Error> {
    let image = manifest.label(id);
    for part in &manifest.parts {
        let Some(here) = found.iter().find(|here| here.role == part.role) else {
            let path = dir.join(part.role.file_name());
            return Err(Error::PartMissing { image, role: part.role, path });
        };
        compare_length(&image, part, here.bytes)?;
        compare_content(&image, part, here.blake3)?;
    }
    match found.iter().find(|here| manifest.part(here.role).is_none()) {
        Some(extra) => Err(Error::NoSuchPart { image, role: extra.role }),
        None => Ok(()),
    }
}

/// Takes a file's digest; `None` if it was written to meanwhile.
pub(super) fn measure(
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<(FileStamp, Digest)>, Error> {
    let file = File::open(path).map_err(reading("open", path))?;
    let before = FileStamp::from(&file.metadata().map_err(reading("read", path))?);
    let digest = match files::digest(&file, before.bytes, progress) {
        // Cut while it was read.
        Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result.map_err(reading("read", path))?,
    };
    let unchanged = FileStamp::of(path)? == Some(before);
    Ok(unchanged.then_some((before, digest)))
}

/// Checks that the disk is layered on the manifest's parent and on nothing else.
pub(super) fn check_backing(manifest: &Manifest, id: ImageId, dir: &Path) -> Result<(), Error> {
    let image = || manifest.label(id);
    let path = dir.join(Role::Disk.file_name());
    let header = qcow2::read_header(&path).map_err(|source| Error::Disk { image: image(), source })?;
    let wanted = manifest.parent.map(backing_path);
    if header.backing == wanted {
        return Ok(());
    }
    let shown = |backing: Option<String>| backing.unwrap_or_else(|| "nothing".to_owned());
    Err(Error::Backing { image: image(), found: shown(header.backing), expected: shown(wanted) })
}
