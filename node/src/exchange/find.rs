//! Which image people mean.

use std::collections::{BTreeMap, BTreeSet};

use mesh::NodeId;
use mesh::exchange::policy::{self, Holdings};
use vm_images::{ImageId, Manifest, ServiceId, Store};

use super::FindError;

/// Fewest digits that are taken for the beginning of an id, as in the store.
const MIN_DIGITS: usize = 6;

/// The image that `wanted` names, as far as these members hold it.
pub(super) fn image(wanted: &str, members: &BTreeMap<NodeId, Holdings>) -> Result<ImageId, FindError> {
    let shown = || wanted.chars().take(80).collect();
    if members.is_empty() {
        return Err(FindError::Alone { wanted: shown() });
    }
    // An advert names one image of each service; somebody may hold others, so a whole id is asked for in any case.
    if let Ok(image) = wanted.parse() {
        return Ok(image);
    }
    let service = wanted.parse::<ServiceId>();
    let offers = service.as_ref().map(|service| policy::offers(service, members)).unwrap_or_default();
    let mut images: Vec<(ImageId, usize)> = offers.into_iter().map(|(image, by)| (image, by.len())).collect();
    if images.is_empty() {
        images = beginning_with(wanted, members);
    }
    match images[..] {
        [] if service.is_err() && !is_beginning(wanted) => Err(FindError::NoName { wanted: shown() }),
        [] => Err(FindError::NobodyHasIt { wanted: shown(), members: members.len() }),
        [(image, _)] => Ok(image),
        _ => Err(FindError::Several { wanted: shown(), images }),
    }
}

/// The image that `wanted` names in this store: a whole one, or one that was begun. Blocks.
pub(super) fn here(store: &Store, wanted: &str) -> Option<ImageId> {
    if let Ok(image) = store.resolve(wanted) {
        return Some(image.id);
    }
    let is_meant = |id: ImageId| {
        let manifest = store.begun(id).and_then(|(manifest, _)| Manifest::parse(&manifest).ok());
        let service = manifest.and_then(|manifest| manifest.service);
        let digits = id.to_string();
        is_beginning(wanted) && digits.starts_with(&wanted.to_ascii_lowercase())
            || service.is_some_and(|service| service.id.as_str() == wanted)
    };
    store.interrupted().ok()?.into_iter().map(|one| one.id).find(|id| is_meant(*id))
}

fn is_beginning(digits: &str) -> bool {
    digits.len() >= MIN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Images whose ids begin with these digits, and how many hold each.
fn beginning_with(digits: &str, members: &BTreeMap<NodeId, Holdings>) -> Vec<(ImageId, usize)> {
    if !is_beginning(digits) {
        return Vec::new();
    }
    let digits = digits.to_ascii_lowercase();
    let of = |held: &Holdings| -> BTreeSet<ImageId> {
        held.images.values().chain(&held.base_images).copied().collect()
    };
    let mut found: BTreeMap<ImageId, usize> = BTreeMap::new();
    for image in members.values().flat_map(of).filter(|image| image.to_string().starts_with(&digits)) {
        *found.entry(image).or_default() += 1;
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use vm_images::Digest;

    use super::*;

    fn id(byte: u8) -> ImageId {
        ImageId(Digest::from_bytes([byte; 32]))
    }

    fn members() -> BTreeMap<NodeId, Holdings> {
        let held = |node: u8, service: &str, image: u8| {
            let images = BTreeMap::from([(service.parse().unwrap(), id(image))]);
            (
                NodeId::from_bytes([node; NodeId::BYTES]),
                Holdings { images, base_images: [id(0xba)].into(), ..Holdings::default() },
            )
        };
        BTreeMap::from([held(1, "speech", 1), held(2, "speech", 1), held(3, "maps", 3), held(4, "maps", 4)])
    }

    #[test]
    fn services_whole_ids_and_first_digits_name_images() {
        let members = members();
        assert_eq!(image("speech", &members), Ok(id(1)));
        assert_eq!(image(&id(9).to_string(), &members), Ok(id(9)), "somebody may have what no advert names");
        assert_eq!(image("bababa", &members), Ok(id(0xba)));
        assert_eq!(image("BABABA", &members), Ok(id(0xba)));
        assert_eq!(image("040404", &members), Ok(id(4)));
        let nobody = |wanted: &str| Err(FindError::NobodyHasIt { wanted: wanted.into(), members: 4 });
        assert_eq!(image("babab", &members), nobody("babab"), "five digits are too few");
        assert_eq!(image("050505", &members), nobody("050505"));
        assert_eq!(image("../etc", &members), Err(FindError::NoName { wanted: "../etc".into() }));
    }

    #[test]
    fn what_cannot_be_named_is_explained() {
        let members = members();
        let several = image("maps", &members).unwrap_err().to_string();
        assert!(several.contains(&id(3).to_string()) && several.contains("(on 1)"), "{several}");
        let nobody = image("faces", &members).unwrap_err().to_string();
        assert!(nobody.contains("none of the 4 cloudlets in reach"), "{nobody}");
        let alone = image("speech", &BTreeMap::new()).unwrap_err().to_string();
        assert!(alone.contains("no other cloudlet"), "{alone}");
    }
}
