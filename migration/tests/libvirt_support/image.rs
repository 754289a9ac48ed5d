//! An image in the store, read as its layout is documented in `vm_images::store`, so that nothing is written to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vm_images::{Digest, Hardware, ImageId, Manifest, Role, qcow2};

/// An image that was built before the tests.
pub struct Image {
    dir: PathBuf,
    manifest: Manifest,
    /// What the files of the image and its parents looked like: length, times of change.
    looks: BTreeMap<PathBuf, Looks>,
}

type Looks = (u64, i64, i64, i64, i64);

impl Image {
    /// The newest image of this name. Without it the test fails and says what to run.
    pub fn named(name: &str) -> Self {
        let store = store();
        let id = fs::read_to_string(store.join("names").join(name)).unwrap_or_else(|error| {
            panic!(
                "no image '{name}' in {} ({error}): run `make test`, or first `cloudlet image build all` with \
                 CLOUDLET_NODE__IMAGE_STORE set to that directory",
                store.display()
            )
        });
        let dir = store.join("images").join(id.trim());
        let manifest = manifest(&dir);
        let mut image = Self { dir, manifest, looks: BTreeMap::new() };
        image.looks = image.look();
        image
    }

    pub fn hardware(&self) -> &Hardware {
        &self.manifest.hardware
    }

    pub fn created_unix_s(&self) -> u64 {
        self.manifest.created_unix_s
    }

    pub fn disk(&self) -> PathBuf {
        self.path(Role::Disk)
    }

    pub fn template(&self) -> PathBuf {
        self.path(Role::MemoryTemplate)
    }

    pub fn device_stream(&self) -> PathBuf {
        self.path(Role::DeviceStream)
    }

    pub fn kernel(&self) -> PathBuf {
        self.path(Role::Kernel)
    }

    pub fn initrd(&self) -> PathBuf {
        self.path(Role::Initrd)
    }

    /// Digest, role and file of every part of the image and its parents, the image's own first.
    pub fn parts(&self) -> Vec<(Digest, Role, PathBuf)> {
        let mut parts = Vec::new();
        let mut next = Some(self.dir.clone());
        while let Some(dir) = next {
            let manifest = manifest(&dir);
            let path = |role: Role| dir.join(role.file_name());
            parts.extend(manifest.parts.iter().map(|part| (part.blake3, part.role, path(part.role))));
            next = manifest.parent.map(|parent| dir.with_file_name(parent.to_string()));
        }
        parts
    }

    /// Makes a writable disk on the image's disk.
    pub fn overlay(&self, path: &Path) {
        overlay(&self.disk(), path).unwrap();
    }

    /// Nobody has written to the image, and it is what its manifest says.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        assert_eq!(self.look(), self.looks, "the image's files were touched");
        for part in &self.manifest.parts {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(self.path(part.role)).unwrap()).unwrap();
            assert_eq!(Digest::from(hasher.finalize()), part.blake3, "the {} has changed", part.role.title());
        }
    }

    fn path(&self, role: Role) -> PathBuf {
        self.dir.join(role.file_name())
    }

    fn look(&self) -> BTreeMap<PathBuf, Looks> {
        let mut looks = BTreeMap::new();
        let mut next = Some(self.dir.clone());
        while let Some(dir) = next {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::metadata(&path).unwrap();
                let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
                looks.insert(path, (meta.len(), times.0, times.1, times.2, times.3));
            }
            let parent: Option<ImageId> = manifest(&dir).parent;
            next = parent.map(|parent| dir.with_file_name(parent.to_string()));
        }
        looks
    }
}

/// Makes a writable disk on another.
pub fn overlay(below: &Path, path: &Path) -> std::io::Result<()> {
    let virtual_bytes = qcow2::virtual_size(below).map_err(std::io::Error::other)?;
    qcow2::create_overlay(path, below, virtual_bytes).map_err(std::io::Error::other)
}

fn manifest(dir: &Path) -> Manifest {
    let path = dir.join("manifest.json");
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Manifest::parse(&bytes).unwrap()
}

/// The image store that `make test` fills: as configured, or in the user's cache.
fn store() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(store) = variable("CLOUDLET_NODE__IMAGE_STORE") {
        return store;
    }
    let cache = variable("XDG_CACHE_HOME").unwrap_or_else(|| variable("HOME").unwrap().join(".cache"));
    cache.join("cloudlet/images")
}
