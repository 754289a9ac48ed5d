//! Finding images by what people type, and pins.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::Error;
use super::image::Image;
use super::{Store, files};
use crate::id::{ImageId, ServiceId};

/// Fewest digits that are taken for the beginning of an id. A guess: with 1000 images, two share their first six
/// digits with a chance of 3 %, and then both are named.
const MIN_PREFIX: usize = 6;
/// An id and a newline.
const MAX_NAME_FILE_BYTES: u64 = 65;

impl Store {
    /// The image that was published last under this name.
    pub fn by_name(&self, name: &str) -> Result<Image, Error> {
        match self.id_of_name(name)? {
            Some(id) => self.get(id),
            None => Err(Error::NotFound { wanted: shown(name) }),
        }
    }

    /// The image that people mean: a name, an id, or at least six digits that only one id begins with.
    pub fn resolve(&self, text: &str) -> Result<Image, Error> {
        if let Some(id) = self.id_of_name(text)? {
            return self.get(id);
        }
        if let Ok(id) = text.parse() {
            return self.get(id);
        }
        let not_found = || Error::NotFound { wanted: shown(text) };
        if text.len() < MIN_PREFIX || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let prefix = text.to_ascii_lowercase();
        let ids = self.id_entries("images")?;
        let meant: Vec<_> = ids.into_iter().filter(|id| id.to_string().starts_with(&prefix)).collect();
        match meant[..] {
            [] => Err(not_found()),
            [id] => self.get(id),
            _ => Err(Error::Ambiguous { wanted: prefix, count: meant.len() }),
        }
    }

    /// Every name and the image that it stands for. The image may have been damaged or lost since.
    pub fn names(&self) -> Result<BTreeMap<String, ImageId>, Error> {
        let mut found = BTreeMap::new();
        for name in self.entries("names")? {
            if let Some(id) = self.id_of_name(&name)? {
                found.insert(name, id);
            }
        }
        Ok(found)
    }

    /// Keeps the image, and with it its parents, until it is unpinned.
    pub fn pin(&self, id: ImageId) -> Result<(), Error> {
        let lock = self.lock("pinning an image")?;
        let image = self.get(id)?;
        self.replace(&lock, &self.pin_path(image.id), b"")
    }

    /// Takes a pin away; says whether there was one.
    pub fn unpin(&self, id: ImageId) -> Result<bool, Error> {
        let _lock = self.lock("unpinning an image")?;
        files::remove(&self.pin_path(id))
    }

    /// The pinned images, in order.
    pub fn pins(&self) -> Result<Vec<ImageId>, Error> {
        self.id_entries("pins")
    }

    pub(super) fn pin_path(&self, id: ImageId) -> PathBuf {
        self.root().join("pins").join(id.to_string())
    }

    pub(super) fn name_path(&self, name: &str) -> PathBuf {
        self.root().join("names").join(name)
    }

    /// What a name stands for. What cannot be a name is not looked for, so `../x` never leaves the directory.
    fn id_of_name(&self, name: &str) -> Result<Option<ImageId>, Error> {
        if name.parse::<ServiceId>().is_err() {
            return Ok(None);
        }
        let Some(bytes) = files::read_small(&self.name_path(name), MAX_NAME_FILE_BYTES)? else {
            return Ok(None);
        };
        Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()))
    }
}

/// What somebody typed, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
