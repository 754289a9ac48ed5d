//! How long services took to be ready on this cloudlet lately. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use migration::VmId;
use vm_images::{ImageId, ServiceId};

use crate::lifecycle::Instance;

/// What a new start counts beside all before it. Guess: a handful of starts outweighs one that was disturbed.
const NEW_SHARE: f64 = 0.3;
/// What is said changes when experience differs from it by this share: less does not change a choice, and every change is
/// an advert to all cloudlets. Guess; starts of one service on an idle cloudlet were measured to vary by a sixth.
const SAID_SHARE: f64 = 0.25;

/// Ready times of services. They are forgotten when the daemon ends: another day, another load.
#[derive(Debug, Default)]
pub struct Experience {
    /// Starts that are in it already, as long as they are listed.
    counted: BTreeSet<VmId>,
    lately: BTreeMap<ServiceId, Lately>,
}

#[derive(Debug, Clone, Copy)]
struct Lately {
    image: ImageId,
    mean_ms: f64,
    said_ms: f64,
}

impl Experience {
    /// Learns from every instance that is listed; one that was there before changes nothing.
    pub fn learn(&mut self, instances: &[Instance]) {
        let mut new: Vec<&Instance> = instances
            .iter()
            .filter(|instance| instance.ready_after_ms.is_some() && !self.counted.contains(&instance.vm))
            .collect();
        new.sort_by_key(|instance| (instance.requested_unix_ms, instance.vm));
        for instance in new {
            self.start(instance);
        }
        self.counted = instances
            .iter()
            .filter(|instance| instance.ready_after_ms.is_some())
            .map(|instance| instance.vm)
            .collect();
    }

    fn start(&mut self, instance: &Instance) {
        let Some(took_ms) = instance.ready_after_ms else { return };
        // Exact up to 285,000 years.
        let took_ms = took_ms as f64;
        let image = instance.service.image;
        let first = Lately { image, mean_ms: took_ms, said_ms: took_ms };
        let lately = self.lately.entry(instance.service.id.clone()).or_insert(first);
        if lately.image != image {
            *lately = first;
        }
        lately.mean_ms += NEW_SHARE * (took_ms - lately.mean_ms);
        if (lately.mean_ms - lately.said_ms).abs() > SAID_SHARE * lately.said_ms {
            lately.said_ms = lately.mean_ms;
        }
    }

    /// What a start from this image is expected to take; `None`: there was none yet.
    pub fn ready_time(&self, service: &ServiceId, image: ImageId) -> Option<Duration> {
        let lately = self.lately.get(service).filter(|lately| lately.image == image)?;
        // Whole hundredths of a second: a reader does not take it for more exact than it is.
        Some(Duration::from_millis((lately.said_ms / 10.0).round() as u64 * 10))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lifecycle::tests::instance;

    fn started(number: u128, ready_after_ms: Option<u64>) -> Instance {
        let vm = VmId(uuid::Uuid::from_u128(number));
        let requested_unix_ms = u64::try_from(number).unwrap();
        Instance { vm, requested_unix_ms, ready_after_ms, ..instance() }
    }

    fn ms(experience: &Experience) -> Option<u128> {
        let service = instance().service;
        experience.ready_time(&service.id, service.image).map(|time| time.as_millis())
    }

    #[test]
    fn small_differences_are_not_said_and_large_ones_are() {
        let mut experience = Experience::default();
        experience.learn(&[started(1, None)]);
        assert_eq!(ms(&experience), None, "it is not ready yet");
        experience.learn(&[started(1, Some(401))]);
        assert_eq!(ms(&experience), Some(400));
        let mut all = vec![started(1, Some(401))];
        for number in 2..10 {
            all.push(started(number, Some(if number % 2 == 0 { 470 } else { 350 })));
            experience.learn(&all);
            experience.learn(&all);
            assert_eq!(ms(&experience), Some(400), "noise is no news");
        }
        for number in 10..20 {
            all.push(started(number, Some(900)));
        }
        experience.learn(&all);
        assert!(ms(&experience).unwrap() > 700, "{experience:?}");
        experience.learn(&[]);
        assert!(ms(&experience).is_some(), "it is remembered when its instances are forgotten");
    }

    #[test]
    fn another_image_is_another_matter() {
        let mut experience = Experience::default();
        experience.learn(&[started(1, Some(400))]);
        let mut renewed = started(2, Some(4000));
        let image = ImageId(vm_images::Digest::of(b"another"));
        renewed.service = Arc::new(crate::lifecycle::Service { image, ..(*renewed.service).clone() });
        let service = renewed.service.id.clone();
        experience.learn(&[renewed]);
        assert_eq!(ms(&experience), None);
        assert_eq!(experience.ready_time(&service, image), Some(Duration::from_secs(4)));
    }
}
