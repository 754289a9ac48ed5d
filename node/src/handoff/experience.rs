//! What handoffs took that came to their end: the best forecast of the next.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh::NodeId;
use vm_images::ImageId;

/// Below this many bytes a rate is not believed: they went into buffers.
const TELLING_BYTES: u64 = 256 * 1024;

/// What a handoff took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experience {
    /// What went over the link in all tries, bytes.
    pub sent_bytes: u64,
    /// How long the VM stood still, the link's part included.
    pub downtime: Option<Duration>,
}

/// All that was learnt since the daemon's start; one entry for each image and cloudlet.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    images: BTreeMap<ImageId, Experience>,
    rates: BTreeMap<NodeId, f64>,
}

impl Learnt {
    /// A VM of this image is there.
    pub fn note(&mut self, image: ImageId, to: NodeId, experience: Experience, took: Duration) {
        self.images.insert(image, experience);
        if experience.sent_bytes >= TELLING_BYTES {
            // Less than the link carries: work and waiting are in it.
            self.rates.insert(to, experience.sent_bytes as f64 / took.as_secs_f64().max(0.001));
        }
    }

    pub fn of(&self, image: ImageId) -> Option<Experience> {
        self.images.get(&image).copied()
    }

    pub fn rate_bytes_s(&self, to: NodeId) -> Option<f64> {
        self.rates.get(&to).copied()
    }
}
