//! What is known of one neighbour.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::bucket::Bucket;
use super::{Config, Version};
use crate::NodeId;

/// Bytes that a neighbour may send at once: a whole mesh of adverts.
const INBOUND_BURST_BYTES: u64 = 8 << 20;
/// Bytes per second that a neighbour may send on the average; a guess, far above what any mesh needs.
const INBOUND_BYTES_PER_S: u64 = 128 * 1024;
/// Frames that a neighbour may send at once, and per second: 30 nodes that all change at once are 30 frames.
const INBOUND_BURST_FRAMES: u64 = 2000;
const INBOUND_FRAMES_PER_S: u64 = 100;
/// Bytes of adverts that may go out at once: a change of a large advert, or the first exchange of a small mesh.
const OUTBOUND_BURST_BYTES: u64 = 64 * 1024;

/// Whose turn it is to beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Ours, at this time.
    Ours(Duration),
    /// Theirs.
    Theirs,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) up: Duration,
    /// When the last frame came.
    pub(super) heard: Duration,
    pub(super) turn: Turn,
    pub(super) beat_sent: Option<Duration>,
    pub(super) beat_got: Option<Duration>,
    pub(super) rtt: Option<Duration>,
    pub(super) rate: Option<u64>,
    /// Links that the neighbour has, as it says.
    pub(super) degree: usize,
    /// The newest state of each node that the neighbour is known to hold.
    pub(super) known: BTreeMap<NodeId, Version>,
    /// Nodes of which the neighbour should hear.
    pub(super) dirty: BTreeSet<NodeId>,
    pub(super) budget: Bucket,
    inbound_bytes: Bucket,
    inbound_frames: Bucket,
    /// When we asked with a summary last.
    pub(super) summary_sent: Option<Duration>,
    /// Two digests that differed, and at how many beats they did.
    pub(super) same_difference: (Option<(u32, u32)>, u32),
    /// Times that it sent something which its owner did not sign.
    pub(super) strikes: u32,
}

impl Link {
    pub(super) fn new(now: Duration, turn: Turn, config: &Config) -> Self {
        Self {
            up: now,
            heard: now,
            turn,
            beat_sent: None,
            beat_got: None,
            rtt: None,
            rate: None,
            degree: 0,
            known: BTreeMap::new(),
            dirty: BTreeSet::new(),
            budget: Bucket::new(config.link_budget, OUTBOUND_BURST_BYTES, now),
            inbound_bytes: Bucket::new(INBOUND_BYTES_PER_S, INBOUND_BURST_BYTES, now),
            inbound_frames: Bucket::new(INBOUND_FRAMES_PER_S, INBOUND_BURST_FRAMES, now),
            summary_sent: None,
            same_difference: (None, 0),
            strikes: 0,
        }
    }

    /// Whether a frame of so many bytes is still within the neighbour's share.
    pub(super) fn admits(&mut self, bytes: usize, now: Duration) -> bool {
        self.inbound_frames.try_take(1, now)
            && self.inbound_bytes.try_take(u64::try_from(bytes).unwrap_or(u64::MAX), now)
    }

    /// When the neighbour is given up unless it is heard of: it had its turn, and its grace.
    pub(super) fn deadline(&self, config: &Config) -> Option<Duration> {
        let grace = config.grace.max(self.rtt.unwrap_or_default() * 4);
        match self.turn {
            Turn::Ours(_) => None,
            Turn::Theirs => Some(self.heard.max(self.beat_sent.unwrap_or(self.up)) + config.beat + grace),
        }
    }

    /// Whether versions should be exchanged because of this difference: when it is new, and ever more rarely if that
    /// did not help (one side may refuse what the other holds).
    pub(super) fn is_worth_asking(&mut self, difference: (u32, u32)) -> bool {
        let (last, times) = self.same_difference;
        let times = if last == Some(difference) { times.saturating_add(1) } else { 0 };
        self.same_difference = (Some(difference), times);
        times < 2 || times.is_power_of_two()
    }

    /// The round trip of one more beat; smoothed as TCP does (RFC 6298, alpha 1/8), and quick to fall.
    pub(super) fn measured(&mut self, rtt: Duration) {
        self.rtt = Some(match self.rtt {
            Some(old) if old < rtt => (old * 7 + rtt) / 8,
            _ => rtt,
        });
    }
}
