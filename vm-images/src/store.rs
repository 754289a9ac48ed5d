//! Images on disk.
//!
//! ```text
//! ROOT/FORMAT                 layout version
//! ROOT/lock                   held while anything below appears or disappears, never while data is written
//! ROOT/images/<id>/           manifest.json, manifest.sig, one file for each part; never changed once it is there
//! ROOT/names/<name>           id of the image that was published last under this name
//! ROOT/pins/<id>              empty: keep this image
//! ROOT/trusted/<key>          empty: use images signed by this key
//! ROOT/verified/<id>          what the files looked like when everything was last checked
//! ROOT/incoming/<id>/         an image that is being fetched from others; stays when its fetcher dies
//! ROOT/lists/<digest>         values of the blocks of a part with this digest, so that they are taken once only
//! ROOT/indexes/<digest>       where the blocks of a part with this digest lie, so that they are hashed once only
//! ROOT/tmp/<random>/          a draft or rubbish; whose `lock` nobody holds is rubbish
//! ```
//!
//! A disk's backing file is the relative path `../<parent id>/disk.qcow2`, so a store can be moved as a whole.
//!
//! **Invariant:** a directory under `images` is complete and durable: it is made under `tmp`, synced, and appears
//! by one rename. Whatever is killed at whatever point leaves the old or the new, never half of one.
//!
//! **Invariant:** readers need no lock. Several processes may use one store (the daemon and `cloudlet image build`).
//!
//! All calls block on the disk; on an async runtime, wrap them in a blocking task.

mod crash;
mod draft;
mod error;
pub(crate) mod files;
mod gc;
mod image;
mod incoming;
mod indexes;
mod key_file;
mod leftovers;
mod lists;
mod lock;
mod names;
mod stamp;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use draft::Draft;
pub use error::Error;
pub(crate) use error::reading;
#[cfg(feature = "build")]
pub(crate) use error::writing;
pub use gc::GcReport;
pub use image::{Broken, Image, Listing};
pub use incoming::{Incoming, Interrupted, Naming};
pub use indexes::Indexed;
pub use verify::Progress;

use crate::id::ImageId;
use crate::signature::{PublicKey, SigningKey, TrustedSigners};
use lock::StoreLock;

/// Layout that this release writes.
pub const FORMAT: u32 = 1;

/// The image store of this node. Clones are cheap and are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    key: SigningKey,
    verified: Mutex<BTreeMap<ImageId, Arc<stamp::Verified>>>,
    /// Trusted beside those on the disk, for as long as this store is open: its own key, and what others vouch for.
    lent: Mutex<BTreeSet<PublicKey>>,
}

impl Store {
    /// Opens the store at `root`, makes it if there is none, and removes what killed builders left.
    ///
    /// Images that this node builds are signed with `key`, and its own key is trusted. That is written down with the first
    /// image that it publishes: nodes that share a store and build nothing leave nothing behind in it.
    pub fn open(root: &Path, key: SigningKey) -> Result<Self, Error> {
        files::make_directory(root)?;
        // A relative root would change its meaning with the working directory of whoever uses a path.
        let root = root.canonicalize().map_err(reading("open", root))?;
        check_format(&root)?;
        let store = Self {
            inner: Arc::new(Inner {
                root,
                verified: Mutex::default(),
                lent: Mutex::new([key.public()].into()),
                key,
            }),
        };
        for dir in ["images", "names", "pins", "trusted", "verified", "tmp", "incoming", "lists", "indexes"] {
            files::make_directory(&store.root().join(dir))?;
        }
        let lock = store.lock("opening the store")?;
        if files::read_small(&store.root().join("FORMAT"), MAX_FORMAT_BYTES)?.is_none() {
            store.replace(&lock, &store.root().join("FORMAT"), format!("{FORMAT}\n").as_bytes())?;
        }
        let rubbish = store.find_leftovers(&lock)?;
        drop(lock);
        rubbish.remove();
        Ok(store)
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The key that this node's images are signed with.
    pub fn own_key(&self) -> PublicKey {
        self.inner.key.public()
    }

    /// What the store's file system has left, bytes.
    pub fn free_bytes(&self) -> u64 {
        files::free_bytes(self.root())
    }

    /// Uses images signed by `key` from now on.
    pub fn trust(&self, key: PublicKey) -> Result<(), Error> {
        self.trust_locked(&self.lock("trusting a key")?, key)
    }

    /// Uses images signed by `key` no more; they stay in the store. Says whether it was trusted. The node's own key
    /// is trusted again at the next [`Store::open`].
    pub fn distrust(&self, key: PublicKey) -> Result<bool, Error> {
        let _lock = self.lock("distrusting a key")?;
        let was_lent = self.lent().remove(&key);
        Ok(files::remove(&self.trust_path(&key))? || was_lent)
    }

    /// Uses images signed by these keys as well, in this store and its clones, for as long as they are open: nothing is
    /// written. For trust that somebody else gives and that ends with him, such as a mission's.
    pub fn lend_trust(&self, keys: impl IntoIterator<Item = PublicKey>) {
        self.lent().extend(keys);
    }

    /// The keys whose images are used.
    pub fn trusted(&self) -> Result<TrustedSigners, Error> {
        let kept = self.entries("trusted")?;
        let kept = kept.iter().filter_map(|name| name.parse().ok());
        Ok(kept.chain(self.lent().iter().copied()).collect())
    }

    /// Whether images signed by `key` are used.
    fn trusts(&self, key: &PublicKey) -> bool {
        self.lent().contains(key) || self.trust_path(key).exists()
    }

    fn lent(&self) -> std::sync::MutexGuard<'_, BTreeSet<PublicKey>> {
        // A set of keys is sound after every single operation on it.
        self.inner.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trust_locked(&self, lock: &StoreLock, key: PublicKey) -> Result<(), Error> {
        let path = self.trust_path(&key);
        if path.exists() { Ok(()) } else { self.replace(lock, &path, b"") }
    }

    fn trust_path(&self, key: &PublicKey) -> PathBuf {
        self.root().join("trusted").join(key.to_string())
    }

    fn image_dir(&self, id: ImageId) -> PathBuf {
        self.root().join("images").join(id.to_string())
    }

    fn lock(&self, doing: &str) -> Result<StoreLock, Error> {
        StoreLock::take(self.root(), doing)
    }

    /// A name under `tmp` that nobody else uses.
    fn temporary(&self) -> Result<PathBuf, Error> {
        Ok(self.root().join("tmp").join(key_file::random_name()?))
    }

    /// Writes a small file atomically. Plain files under `tmp` are rubbish to whoever holds the lock next.
    fn replace(&self, _lock: &StoreLock, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        files::replace(path, &self.temporary()?, bytes, 0o644)
    }

    /// File names in a directory of the store, in order.
    fn entries(&self, dir: &str) -> Result<Vec<String>, Error> {
        let path = self.root().join(dir);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(reading("list", &path))? {
            let entry = entry.map_err(reading("list", &path))?;
            names.extend(entry.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn id_entries(&self, dir: &str) -> Result<Vec<ImageId>, Error> {
        Ok(self.entries(dir)?.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

/// "1" and a newline; more room so that whatever a newer release writes can be shown.
const MAX_FORMAT_BYTES: u64 = 100;

fn check_format(root: &Path) -> Result<(), Error> {
    let Some(bytes) = files::read_small(&root.join("FORMAT"), MAX_FORMAT_BYTES)? else { return Ok(()) };
    let found = String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
    if found == FORMAT.to_string() {
        return Ok(());
    }
    Err(Error::NewerStore { root: root.to_owned(), found, known: FORMAT })
}
