//! What handoffs took that came to their end: the best forecast of the next.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh::NodeId;
use vm_images::ImageId;

use super::status::Measured;

/// What a handoff took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experience {
    /// What went over the link in all tries up to the end of the first pass, bytes: what the destination lacked.
    pub lacking_bytes: u64,
    /// What the guest added to that, bytes on the wire each second.
    pub dirty_bytes_s: f64,
    /// How long the VM stood still, without what the link took of that.
    pub fixed: Option<Duration>,
}

impl Experience {
    pub(super) fn of(sent_bytes: u64, downtime: Option<Duration>, measured: &Measured) -> Self {
        let (late_bytes, late_for) = measured.late;
        let on_link = measured.rate_bytes_s.map_or(0.0, |rate| measured.still_bytes as f64 / rate.max(1.0));
        let on_link = Duration::try_from_secs_f64(on_link).unwrap_or(Duration::MAX);
        Self {
            lacking_bytes: sent_bytes.saturating_sub(late_bytes),
            dirty_bytes_s: late_bytes as f64 / late_for.as_secs_f64().max(0.001),
            fixed: downtime.map(|downtime| downtime.saturating_sub(on_link)),
        }
    }
}

/// All that was learnt since the daemon's start; one entry for each image and cloudlet.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    images: BTreeMap<ImageId, Experience>,
    rates: BTreeMap<NodeId, f64>,
}

impl Learnt {
    /// A VM of this image is there. The rate is the link's own and not the handoff's: cuts and waiting are not in it.
    pub fn note(&mut self, image: ImageId, to: NodeId, experience: Experience, rate_bytes_s: Option<f64>) {
        self.images.insert(image, experience);
        if let Some(rate) = rate_bytes_s {
            self.rates.insert(to, rate);
        }
    }

    pub fn of(&self, image: ImageId) -> Option<Experience> {
        self.images.get(&image).copied()
    }

    pub fn rate_bytes_s(&self, to: NodeId) -> Option<f64> {
        self.rates.get(&to).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_added_and_what_the_link_took_are_told_apart() {
        let late = (600_000, Duration::from_secs(2));
        let measured = Measured { rate_bytes_s: Some(1e6), late, still_bytes: 200_000 };
        let found = Experience::of(1_600_000, Some(Duration::from_millis(900)), &measured);
        assert_eq!((found.lacking_bytes, found.dirty_bytes_s), (1_000_000, 300_000.0));
        assert_eq!(found.fixed, Some(Duration::from_millis(700)));
        // Nothing is negative, and a link that is not known took nothing.
        let measured = Measured { rate_bytes_s: None, late: (9, Duration::ZERO), ..measured };
        let found = Experience::of(7, Some(Duration::ZERO), &measured);
        assert_eq!((found.lacking_bytes, found.fixed), (0, Some(Duration::ZERO)));
        assert!(found.dirty_bytes_s.is_finite());
    }
}
