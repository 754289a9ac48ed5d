//! Which images a node should hold by the mission's profile ("these services on every vehicle").

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vm_images::{ImageId, ServiceId};

use crate::NodeId;
use crate::advert::ImageSize;

/// After a failed fetch the image is left alone for this long, then twice as long, and so on. A guess.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// The longest of these pauses. A guess: somebody may have made room or trusted a key meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// Images that somebody says to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The image of each service.
    pub images: BTreeMap<ServiceId, ImageId>,
    /// How much there is to fetch of each of them, as far as that is said.
    pub sizes: BTreeMap<ServiceId, ImageSize>,
    /// Base images.
    pub base_images: BTreeSet<ImageId>,
}

impl Holdings {
    /// Whether the image is among them.
    pub fn holds(&self, image: ImageId) -> bool {
        self.base_images.contains(&image) || self.images.values().any(|held| *held == image)
    }
}

/// What the profile asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// Services that every node should hold, the most wanted first.
    pub replicate: Vec<ServiceId>,
    /// What must stay free on the disk, bytes: instances need room for what they write.
    pub reserve_bytes: u64,
}

/// Why an earlier fetch of an image failed, as far as it matters here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failure {
    /// How often in a row.
    pub times: u32,
    /// When it failed last, on the clock of `now`.
    pub last: Duration,
}

/// What to do about one service of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// An image of it is here, or is being fetched.
    Held,
    /// Fetch this image.
    Fetch(ImageId),
    /// Nobody in reach has it.
    NobodyHasIt,
    /// Less is free than must stay free.
    NoSpace,
    /// It failed; to be tried again at this time.
    Later(Duration),
}

/// What to do about each service of the profile, in its order. At most one [`Decision::Fetch`] is to be followed at a
/// time: the first.
///
/// A service of which any image is here is held: replacing one image by another is for people to decide (or for what
/// distributes packages), because adverts do not say which of two images is newer. If members hold different images
/// of a service, the one that most of them hold is taken, so that a mission converges on one.
pub fn decide(
    now: Duration,
    profile: &Profile,
    own: &Holdings,
    fetching: &BTreeSet<ImageId>,
    members: &BTreeMap<NodeId, Holdings>,
    free_bytes: u64,
    failures: &BTreeMap<ImageId, Failure>,
) -> Vec<(ServiceId, Decision)> {
    let one = |service: &ServiceId| {
        if own.images.contains_key(service) {
            return Decision::Held;
        }
        let offers = offers(service, members);
        if offers.keys().any(|image| fetching.contains(image)) {
            return Decision::Held;
        }
        let ranked = ranked(offers);
        let Some(most_held) = ranked.first().copied() else { return Decision::NobodyHasIt };
        let due = |image: ImageId| failures.get(&image).map_or(Duration::ZERO, retry_at);
        // One that cannot be had (nobody trusts its signer) must not keep another from being tried.
        match ranked.iter().find(|image| due(**image) <= now) {
            None => Decision::Later(due(most_held)),
            Some(_) if free_bytes < profile.reserve_bytes => Decision::NoSpace,
            Some(image) => Decision::Fetch(*image),
        }
    };
    profile.replicate.iter().map(|service| (service.clone(), one(service))).collect()
}

/// The image of a service that most members hold; `None` if nobody holds one.
pub fn most_held(service: &ServiceId, members: &BTreeMap<NodeId, Holdings>) -> Option<ImageId> {
    ranked(offers(service, members)).first().copied()
}

/// How a node could get a service that it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetchable {
    /// The image that it would fetch.
    pub image: ImageId,
    /// How much that is, bytes, base images that it lacks included.
    pub bytes: u64,
    /// Who has it and is reached by the best link; others may help.
    pub from: NodeId,
    /// What that link was measured to carry, bytes per second; `None`: it was not.
    pub rate_bytes_per_s: Option<u64>,
}

/// What a node that holds `own` could fetch from `members`, with the links to them as it measured them.
///
/// The figures are on the bad side: one link although several may carry, everything although some of it may be in other
/// images, nothing compressed. An image of which nobody says how large it is, is left out.
pub fn fetchable(
    own: &Holdings,
    members: &BTreeMap<NodeId, Holdings>,
    rates: &BTreeMap<NodeId, u64>,
) -> BTreeMap<ServiceId, Fetchable> {
    let services: BTreeSet<&ServiceId> = members.values().flat_map(|held| held.images.keys()).collect();
    let one = |service: &ServiceId| {
        let image = most_held(service, members)?;
        let holders = offers(service, members).remove(&image)?;
        let fastest = |node: &NodeId| (rates.get(node).copied(), std::cmp::Reverse(*node));
        let from = holders.into_iter().max_by_key(fastest)?;
        let held = members.get(&from)?;
        let ImageSize { own_bytes, parent_bytes } = *held.sizes.get(service)?;
        // Which of them it builds on, nobody says; there is seldom more than one.
        let has_parents = held.base_images.is_subset(&own.base_images);
        let bytes = own_bytes.saturating_add(if has_parents { 0 } else { parent_bytes });
        Some(Fetchable { image, bytes, from, rate_bytes_per_s: rates.get(&from).copied() })
    };
    let lacked = services.into_iter().filter(|service| !own.images.contains_key(*service));
    lacked.filter_map(|service| Some((service.clone(), one(service)?))).collect()
}

/// Images in the order in which they are tried: those first that most members hold.
fn ranked(offers: BTreeMap<ImageId, BTreeSet<NodeId>>) -> Vec<ImageId> {
    let mut ranked: Vec<(usize, ImageId)> = offers.into_iter().map(|(image, by)| (by.len(), image)).collect();
    ranked.sort_by_key(|(count, image)| (std::cmp::Reverse(*count), *image));
    ranked.into_iter().map(|(_, image)| image).collect()
}

/// The images of a service that members hold, and who holds each.
pub fn offers(
    service: &ServiceId,
    members: &BTreeMap<NodeId, Holdings>,
) -> BTreeMap<ImageId, BTreeSet<NodeId>> {
    let mut offers: BTreeMap<ImageId, BTreeSet<NodeId>> = BTreeMap::new();
    for (node, held) in members {
        if let Some(image) = held.images.get(service) {
            offers.entry(*image).or_default().insert(*node);
        }
    }
    offers
}

/// When an image whose fetch failed may be tried again by itself, on the clock of the failure.
pub fn retry_at(failure: &Failure) -> Duration {
    let doublings = failure.times.saturating_sub(1).min(16);
    failure.last + (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(byte: u8) -> ImageId {
        ImageId(vm_images::Digest::from_bytes([byte; 32]))
    }

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; NodeId::BYTES])
    }

    fn holding(service: &str, byte: u8) -> Holdings {
        let images = BTreeMap::from([(service.parse().unwrap(), image(byte))]);
        Holdings { images, ..Holdings::default() }
    }

    fn profile() -> Profile {
        Profile { replicate: vec!["speech".parse().unwrap(), "maps".parse().unwrap()], reserve_bytes: 1000 }
    }

    struct Case {
        now: u64,
        own: Holdings,
        fetching: BTreeSet<ImageId>,
        free_bytes: u64,
        failures: BTreeMap<ImageId, Failure>,
    }

    impl Default for Case {
        fn default() -> Self {
            Self {
                now: 0,
                own: Holdings::default(),
                fetching: BTreeSet::new(),
                free_bytes: 5000,
                failures: BTreeMap::new(),
            }
        }
    }

    fn decided(case: &Case) -> Vec<Decision> {
        let members = BTreeMap::from([
            (node(1), holding("speech", 1)),
            (node(2), holding("speech", 2)),
            (node(3), holding("speech", 2)),
        ]);
        let now = Duration::from_secs(case.now);
        let all =
            decide(now, &profile(), &case.own, &case.fetching, &members, case.free_bytes, &case.failures);
        all.into_iter().map(|(_, decision)| decision).collect()
    }

    #[test]
    fn the_image_that_most_hold_is_fetched() {
        assert_eq!(decided(&Case::default()), [Decision::Fetch(image(2)), Decision::NobodyHasIt]);
    }

    #[test]
    fn on_demand_the_same_image_is_taken() {
        let members = BTreeMap::from([
            (node(1), holding("speech", 1)),
            (node(2), holding("speech", 2)),
            (node(3), holding("speech", 2)),
        ]);
        assert_eq!(most_held(&"speech".parse().unwrap(), &members), Some(image(2)));
        assert_eq!(most_held(&"maps".parse().unwrap(), &members), None);
    }

    #[test]
    fn what_could_be_fetched_is_reckoned_by_the_best_link_and_what_is_lacked() {
        let speech: ServiceId = "speech".parse().unwrap();
        let held = |byte: u8| Holdings {
            sizes: BTreeMap::from([(speech.clone(), ImageSize { own_bytes: 60, parent_bytes: 40 })]),
            base_images: [image(0xba)].into(),
            ..holding("speech", byte)
        };
        let members = BTreeMap::from([(node(1), held(1)), (node(2), held(2)), (node(3), held(2))]);
        let rates = BTreeMap::from([(node(1), 9_000), (node(3), 1_000)]);
        let could = |own: &Holdings| fetchable(own, &members, &rates).get(&speech).copied();
        let nothing = could(&Holdings::default()).unwrap();
        assert_eq!((nothing.image, nothing.bytes), (image(2), 100), "the image that most hold");
        assert_eq!((nothing.from, nothing.rate_bytes_per_s), (node(3), Some(1_000)), "its link was measured");
        let base = Holdings { base_images: [image(0xba)].into(), ..Holdings::default() };
        assert_eq!(could(&base).unwrap().bytes, 60);
        assert_eq!(could(&holding("speech", 9)), None, "it has one");
        let silent = BTreeMap::from([(node(1), holding("speech", 1))]);
        assert!(fetchable(&base, &silent, &rates).is_empty(), "nobody says how large it is");
    }

    #[test]
    fn what_is_held_or_on_its_way_is_left_alone() {
        let own = holding("speech", 9);
        assert_eq!(decided(&Case { own, ..Case::default() })[0], Decision::Held);
        let fetching = BTreeSet::from([image(1)]);
        assert_eq!(decided(&Case { fetching, ..Case::default() })[0], Decision::Held);
    }

    #[test]
    fn a_full_disk_and_failures_hold_it_back() {
        assert_eq!(decided(&Case { free_bytes: 999, ..Case::default() })[0], Decision::NoSpace);
        let failed = |times| Failure { times, last: Duration::from_secs(100) };
        let mut case = Case { now: 110, ..Case::default() };
        case.failures.insert(image(2), failed(1));
        assert_eq!(decided(&case)[0], Decision::Fetch(image(1)), "the other image is tried meanwhile");
        case.failures.insert(image(1), failed(1));
        assert_eq!(decided(&case)[0], Decision::Later(Duration::from_secs(130)));
        case.failures.insert(image(2), failed(2));
        case.failures.insert(image(1), failed(40));
        assert_eq!(decided(&case)[0], Decision::Later(Duration::from_secs(160)));
        case.now = 160;
        assert_eq!(decided(&case)[0], Decision::Fetch(image(2)));
    }
}
