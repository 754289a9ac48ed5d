//! What this node says of itself, and when a change is worth saying.

use std::time::Duration;

use super::core::Core;
use super::graph::distances;
use super::store::{Entry, sign};
use super::{Reach, Signed, Version};
use crate::advert::{Advert, LinkQuality, Load, Position, Power, Presence};
use crate::wire;
use crate::wire::cells::Cells;

/// Connecting and hanging up come in groups; they are said once. A guess, short beside the 2 s that news may take.
const LINKS_SETTLE: Duration = Duration::from_millis(400);
/// A link more between nodes that reach each other anyway is said at most so late: nobody comes or goes by it, and
/// where many start at once there are three for every node. A guess: by then a node has the links that it wants.
const MORE_LINKS_SETTLE: Duration = Duration::from_secs(4);
/// Load is said at most so often. A guess: clients that ask every few seconds see no older load than this.
const LOAD_EVERY: Duration = Duration::from_secs(2);
/// Place and charge are said at most so often. A guess.
const PLACE_EVERY: Duration = Duration::from_secs(10);
/// Measured link quality is said at most so often: one advert to 30 nodes is 14 kB in all (measured), so 30 nodes that
/// said it every minute would cost each of them 230 B/s.
const QUALITY_EVERY: Duration = Duration::from_secs(300);
/// Round trips below this are all the same to a user: faster than anybody reacts. A busy node alone makes 30 ms.
const SAME_RTT_MS: u32 = 50;
/// Share of the whole by which CPU or memory must differ, thousandths. A guess: less does not change a choice.
const LOAD_STEP_PERMILLE: u64 = 100;
/// Movement that is worth saying, metres. A guess: half the range of the shortest radio that was simulated (100 m).
const MOVED_M: f64 = 50.0;

impl Core {
    /// The advert as it would be said now.
    fn desired(&self) -> Advert {
        let mut advert = self.local.clone();
        advert.node = self.identity.node;
        advert.addresses.clone_from(&self.overlay.own_addresses);
        let quality = |link: &super::link::Link| LinkQuality {
            rtt_ms: link.rtt.map(|rtt| u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX)),
            rate_bytes_per_s: link.rate,
            loss_permille: None,
        };
        advert.links = self.links.iter().map(|(node, link)| (*node, quality(link))).collect();
        if self.is_leaving {
            advert.presence = Presence::Left;
            advert.links.clear();
        } else if advert.presence == Presence::Left {
            advert.presence = Presence::Draining;
        }
        advert
    }

    pub(super) fn publish_if_due(&mut self) {
        let desired = self.desired();
        let now = self.now.boot;
        let due = match self.entries.get(&self.identity.node) {
            None => Some(now),
            Some(entry) => waits(&entry.advert, &desired).map(|wait| match wait {
                Wait::ForLinks => {
                    let settled = now + self.links_settle(&entry.advert);
                    // Something that may wait for longer may be noted already.
                    self.publish_at.map_or(settled, |at| at.min(settled))
                }
                Wait::Since(interval) => (self.published_at + interval).max(now),
            }),
        };
        match due {
            Some(at) if at <= now => self.publish(),
            due => self.publish_at = due,
        }
    }

    /// How long links that are new or gone since `said` may wait.
    fn links_settle(&self, said: &Advert) -> Duration {
        let mut gone = said.links.keys().filter(|node| !self.links.contains_key(*node)).peekable();
        if gone.peek().is_some() {
            // Somebody who may have crashed is waited for by everybody. As for the rest, others may be about to hang up
            // because they count on a link that is gone.
            return if gone.any(|node| self.silent.contains(node)) { Duration::ZERO } else { LINKS_SETTLE };
        }
        if self.new_links_matter(said) { LINKS_SETTLE } else { MORE_LINKS_SETTLE }
    }

    /// Whether others reach somebody by links that are new since `said`, as far as they know.
    fn new_links_matter(&self, said: &Advert) -> bool {
        let mut new = self.links.keys().filter(|node| !said.links.contains_key(*node));
        let mut graph = self.graph();
        // As they see it: without the new links.
        graph.insert(self.identity.node, said.links.keys().copied().collect());
        let reached = distances(&graph, self.identity.node);
        new.any(|node| !reached.contains_key(node))
    }

    /// Says it now, whatever changed.
    pub(super) fn publish(&mut self) {
        let now = self.now.boot;
        self.publish_at = None;
        self.silent.clear();
        self.published_at = now;
        let mut advert = self.desired();
        self.sequence += 1;
        advert.sequence = self.sequence;
        let cells = match wire::advert::encode(&advert) {
            Ok(cells) => cells,
            Err(error) => {
                tracing::error!(%error, "this node's advert cannot be sent; shorten its names and lists");
                return;
            }
        };
        let node = self.identity.node;
        let signature = sign(&self.identity.key, node, self.sequence, &cells);
        let delta = cells.since(&Cells::default());
        let signed = Signed { node, sequence: self.sequence, base: Version::default(), delta, signature };
        match self.entries.get_mut(&node) {
            Some(entry) => entry.renew(&signed, cells, advert, now),
            None => {
                let mut entry = Entry::new(&signed, cells, advert, now);
                entry.reach = Reach::Own;
                self.entries.insert(node, entry);
            }
        }
        self.changed();
        self.spread(node);
    }
}

enum Wait {
    /// Until links have settled.
    ForLinks,
    /// Until so long after the last advert.
    Since(Duration),
}

/// How long a change may wait; `None`: nothing changed that is worth saying.
fn waits(said: &Advert, now: &Advert) -> Option<Wait> {
    let mut other = now.clone();
    other.sequence = said.sequence;
    other.links.clone_from(&said.links);
    other.load = said.load;
    other.position = said.position;
    other.motion = said.motion;
    other.power = said.power;
    if other != *said {
        return Some(Wait::Since(Duration::ZERO));
    }
    if !said.links.keys().eq(now.links.keys()) {
        return Some(Wait::ForLinks);
    }
    if load_differs(&said.load, &now.load) {
        return Some(Wait::Since(LOAD_EVERY));
    }
    if place_differs(said, now) || power_differs(said.power, now.power) {
        return Some(Wait::Since(PLACE_EVERY));
    }
    let quality = said.links.values().zip(now.links.values());
    let differs = quality.into_iter().any(|(said, now)| quality_differs(said, now));
    differs.then_some(Wait::Since(QUALITY_EVERY))
}

fn load_differs(said: &Load, now: &Load) -> bool {
    let step = |a: u64, b: u64, of: u64| a.abs_diff(b).saturating_mul(1000) >= of.max(1) * LOAD_STEP_PERMILLE;
    said.cpu_total_millis != now.cpu_total_millis
        || said.memory_total_bytes != now.memory_total_bytes
        || said.instances != now.instances
        || (said.queue_length == 0) != (now.queue_length == 0)
        || said.queue_length.abs_diff(now.queue_length) > said.queue_length / 2
        || step(said.cpu_used_millis.into(), now.cpu_used_millis.into(), now.cpu_total_millis.into())
        || step(said.memory_free_bytes, now.memory_free_bytes, now.memory_total_bytes)
}

fn place_differs(said: &Advert, now: &Advert) -> bool {
    let moved = match (said.position, now.position) {
        (Some(old), Some(new)) => metres(old, new) >= MOVED_M,
        (old, new) => old.is_some() != new.is_some(),
    };
    let turned = match (said.motion, now.motion) {
        (Some(old), Some(new)) => {
            let turn = (old.heading_deg() - new.heading_deg()).abs();
            turn.min(360.0 - turn) >= 30.0 || (old.speed_m_s() - new.speed_m_s()).abs() >= 3.0
        }
        (old, new) => old.is_some() != new.is_some(),
    };
    moved || turned
}

/// Distance on a plane that touches the earth there: good to a per cent over the few kilometres that matter.
fn metres(a: Position, b: Position) -> f64 {
    const METRES_PER_DEGREE: f64 = 111_195.0;
    let north = a.latitude_deg() - b.latitude_deg();
    let east = (a.longitude_deg() - b.longitude_deg()) * a.latitude_deg().to_radians().cos();
    north.hypot(east) * METRES_PER_DEGREE
}

fn power_differs(said: Power, now: Power) -> bool {
    match (said, now) {
        (Power::Battery { percent: old, .. }, Power::Battery { percent: new, .. }) => old.abs_diff(new) >= 5,
        (said, now) => said != now,
    }
}

/// A factor of three in the round trip, of two in the rate.
fn quality_differs(said: &LinkQuality, now: &LinkQuality) -> bool {
    let differs = |a: u64, b: u64, factor: u64| a.max(b) >= factor * a.min(b);
    let rtt = match (said.rtt_ms, now.rtt_ms) {
        (Some(old), Some(new)) => differs(old.max(SAME_RTT_MS).into(), new.max(SAME_RTT_MS).into(), 3),
        // The first measurement goes along with the next change; alone it would cost one advert for every new link.
        (_, _) => false,
    };
    let rate = match (said.rate_bytes_per_s, now.rate_bytes_per_s) {
        (Some(old), Some(new)) => differs(old.max(1), new.max(1), 2),
        (old, new) => old.is_some() != new.is_some(),
    };
    rtt || rate
}
