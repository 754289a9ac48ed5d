//! The images that a VM is reduced against: those of its own image and its parents. Indexes are built once for each part
//! and kept on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use migration::reduce::{Images, KnownPart};
use vm_images::index::Index;
use vm_images::{Digest, Image, ImageId, Role, Store};

/// Images that are kept open, each with its table in memory (1 % of its parts). A guess: a vehicle runs few services.
const OPEN_MOST: usize = 4;

/// Why the images of a VM cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot use the image {image}")]
    Store {
        image: ImageId,
        #[source]
        source: Box<vm_images::store::Error>,
    },
    #[error("the image {image} has no {role}, so no VM of it can move", role = role.title())]
    Lacks { image: ImageId, role: Role },
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Reduce(#[from] migration::reduce::Error),
}

/// An image, opened with its parents.
pub(super) struct Opened {
    pub image: Image,
    pub images: Images,
    pub template: Digest,
    pub device: Digest,
    pub disk: Digest,
}

/// Opens images.
pub(super) struct Stock {
    store: Store,
    /// Directory of the indexes.
    indexes: PathBuf,
    open: Mutex<BTreeMap<ImageId, Arc<Opened>>>,
}

impl Stock {
    pub fn new(store: Store, indexes: PathBuf) -> Self {
        Self { store, indexes, open: Mutex::default() }
    }

    /// An image for sending: with indexes. Blocks; the first time for as long as it takes to read its parts.
    pub fn open(&self, id: ImageId) -> Result<Arc<Opened>, Error> {
        let cached = |open: &BTreeMap<ImageId, Arc<Opened>>| open.get(&id).cloned();
        if let Some(opened) = cached(&self.open.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(opened);
        }
        let opened = Arc::new(self.assemble(id, true)?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while open.len() >= OPEN_MOST {
            open.pop_first();
        }
        open.insert(id, Arc::clone(&opened));
        Ok(opened)
    }

    /// An image for receiving: its parts are found by digest only. Blocks.
    pub fn open_plain(&self, id: ImageId) -> Result<Opened, Error> {
        self.assemble(id, false)
    }

    fn assemble(&self, id: ImageId, with_indexes: bool) -> Result<Opened, Error> {
        let failed = |source| Error::Store { image: id, source: Box::new(source) };
        let image = self.store.ensure_intact(id).map_err(failed)?;
        let digest = |role| {
            let part = image.manifest.part(role).ok_or(Error::Lacks { image: id, role })?;
            Ok::<_, Error>(part.blake3)
        };
        let (template, device, disk) =
            (digest(Role::MemoryTemplate)?, digest(Role::DeviceStream)?, digest(Role::Disk)?);
        let mut parts: Vec<KnownPart> = Vec::new();
        for image in self.store.chain(id).map_err(failed)? {
            for part in &image.manifest.parts {
                let indexed = matches!(part.role, Role::Disk | Role::MemoryTemplate);
                let known = parts.iter().any(|other| other.digest == part.blake3);
                if known || !(indexed || part.role == Role::DeviceStream) {
                    continue;
                }
                let path = image.path(part.role).map_err(failed)?;
                let index = (indexed && with_indexes).then(|| self.index(part.blake3, &path)).transpose()?;
                parts.push(KnownPart { digest: part.blake3, path, index });
            }
        }
        Ok(Opened { image, images: Images::open(&parts)?, template, device, disk })
    }

    fn index(&self, digest: Digest, part: &Path) -> Result<Index, Error> {
        let kept = self.indexes.join(digest.to_string());
        if let Ok(bytes) = fs::read(&kept)
            && let Ok(index) = Index::from_bytes(&bytes)
            && *index.part() == digest
        {
            return Ok(index);
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { path, source }
        };
        let file = File::open(part).map_err(failed(part))?;
        let index = Index::build(digest, file, &mut |_| {}).map_err(failed(part))?;
        if let Err(error) = keep(&self.indexes, &kept, &index.to_bytes()) {
            // It is built again next time.
            tracing::warn!(path = %kept.display(), %error, "the index of an image cannot be kept");
        }
        Ok(index)
    }
}

fn keep(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}
