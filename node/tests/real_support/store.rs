//! The image store that `make test` fills, and stores that look like it.
//!
//! A test never opens that store itself: it would leave the key of its daemon there as trusted. It makes a store of its own
//! whose images are links to the real ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use vm_images::manifest::Accelerator;
use vm_images::{ImageId, Manifest};

/// A store made for one test, with links to the images that were built before.
pub struct Images {
    root: PathBuf,
}

impl Images {
    /// Makes the store at `root`. Without the sample service's image the test fails and says what to run.
    pub fn linked(root: &Path) -> Self {
        let built = built();
        if !built.join("names/speech").exists() {
            panic!(
                "no image 'speech' in {}: run `make test`, or first `cloudlet image build all` with \
                 CLOUDLET_NODE__IMAGE_STORE set to that directory",
                built.display()
            );
        }
        fs::create_dir_all(root.join("images")).unwrap();
        fs::copy(built.join("FORMAT"), root.join("FORMAT")).unwrap();
        for small in ["names", "trusted"] {
            fs::create_dir(root.join(small)).unwrap();
            for entry in fs::read_dir(built.join(small)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), root.join(small).join(entry.file_name())).unwrap();
            }
        }
        let images = Self { root: root.to_owned() };
        for name in ["base", "speech"] {
            let id = images.id(name).to_string();
            symlink(built.join("images").join(&id), root.join("images").join(id)).unwrap();
        }
        images
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The image that a name stands for.
    pub fn id(&self, name: &str) -> ImageId {
        fs::read_to_string(self.root.join("names").join(name)).unwrap().trim().parse().unwrap()
    }

    /// The directory of an image.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.root.join("images").join(self.id(name).to_string())
    }

    pub fn manifest(&self, name: &str) -> Manifest {
        Manifest::parse(&fs::read(self.dir(name).join("manifest.json")).unwrap()).unwrap()
    }

    /// What the images were suspended under, which is what this host runs guests under.
    pub fn accelerator(&self) -> Accelerator {
        self.manifest("speech").hardware.accelerator
    }

    /// Replaces the link to an image by a copy that may be damaged.
    pub fn own_copy(&self, name: &str) -> PathBuf {
        let link = self.dir(name);
        let real = link.canonicalize().unwrap();
        fs::remove_file(&link).unwrap();
        let copied =
            Command::new("cp").args(["-r", "--sparse=always"]).arg(real).arg(&link).status().unwrap();
        assert!(copied.success());
        link
    }
}

/// The image store that `make test` fills: as configured, or in the user's cache.
fn built() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(store) = variable("CLOUDLET_NODE__IMAGE_STORE") {
        return store;
    }
    let cache = variable("XDG_CACHE_HOME").unwrap_or_else(|| variable("HOME").unwrap().join(".cache"));
    cache.join("cloudlet/images")
}
