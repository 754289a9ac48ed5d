//! What is in the image store, and whether it is whole.

use vm_images::{SigningKey, Store};

use crate::causes::chain;
use crate::config::Config;
use crate::doctor::Image;

/// Every image, checked against its signature. Fast for images that nobody touched since they were checked in full,
/// else everything is read.
pub(super) fn images(config: &Config) -> Result<Vec<Image>, String> {
    let root = config.image_store();
    // Opening would make the store; looking leaves the machine as it is.
    if !root.exists() {
        return Ok(Vec::new());
    }
    let key = SigningKey::load_or_create(&config.image_key()).map_err(|error| chain(&error))?;
    let store = Store::open(&root, key).map_err(|error| chain(&error))?;
    let listing = store.list().map_err(|error| chain(&error))?;
    let readable = listing.images.into_iter().map(|image| Image {
        title: image.label(),
        service: image.manifest.service.as_ref().map(|service| service.id.to_string()),
        damaged: store.ensure_intact(image.id).err().map(|error| chain(&error)),
    });
    let broken = listing.broken.into_iter().map(|broken| Image {
        title: broken.id.short(),
        service: None,
        damaged: Some(chain(&broken.error)),
    });
    Ok(readable.chain(broken).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_not_there_is_empty_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.state_dir = dir.path().join("state");
        assert_eq!(images(&config), Ok(Vec::new()));
        assert!(!config.node.state_dir.exists());
    }

    #[test]
    fn what_cannot_be_a_store_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.state_dir = dir.path().to_owned();
        std::fs::write(config.image_store(), "a file").unwrap();
        assert!(images(&config).is_err());
    }
}
