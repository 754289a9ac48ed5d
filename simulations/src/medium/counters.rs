//! What was sent, what arrived, and what became of the rest.

use std::ops::{AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// A number of frames and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Ethernet frames.
    pub frames: u64,
    /// Bytes of the frames, Ethernet header included, without preamble and checksum.
    pub bytes: u64,
    /// Bytes of the IPv4 and IPv6 packets in them, IP header included. ARP and the like count 0.
    pub ip_bytes: u64,
}

impl Tally {
    pub(super) fn count(&mut self, bytes: u32, ip_bytes: u32) {
        self.frames += 1;
        self.bytes += u64::from(bytes);
        self.ip_bytes += u64::from(ip_bytes);
    }

    pub(super) fn uncount(&mut self, bytes: u32, ip_bytes: u32) {
        self.frames -= 1;
        self.bytes -= u64::from(bytes);
        self.ip_bytes -= u64::from(ip_bytes);
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.ip_bytes += other.ip_bytes;
    }
}

/// What was counted since `earlier`; 0 where `earlier` counted more, as after a restart.
impl Sub for Tally {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            frames: self.frames.saturating_sub(earlier.frames),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            ip_bytes: self.ip_bytes.saturating_sub(earlier.ip_bytes),
        }
    }
}

/// Frames that did not arrive, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Drops {
    /// Lost on the air, as asked.
    pub loss: u64,
    /// No room in the sender's queue.
    pub queue: u64,
    /// The link was cut, before the frame was sent or while it was on its way.
    pub cut: u64,
    /// The receiver did not take it: its interface was down or gone.
    pub refused: u64,
}

impl Drops {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.loss + self.queue + self.cut + self.refused
    }
}

impl Sub for Drops {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            loss: self.loss.saturating_sub(earlier.loss),
            queue: self.queue.saturating_sub(earlier.queue),
            cut: self.cut.saturating_sub(earlier.cut),
            refused: self.refused.saturating_sub(earlier.refused),
        }
    }
}

/// Counters of one ordered pair. `offered` is `delivered`, and what is in `dropped`, and what is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pair {
    /// Sent by the first host towards the second; a multicast frame counts once for each host in reach.
    pub offered: Tally,
    /// Arrived at the second host.
    pub delivered: Tally,
    /// Did not arrive.
    pub dropped: Drops,
}

impl Sub for Pair {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            offered: self.offered - earlier.offered,
            delivered: self.delivered - earlier.delivered,
            dropped: self.dropped - earlier.dropped,
        }
    }
}

/// Counters of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Host {
    /// What the host put on the air. Every frame counts once, however many hear it, also if nobody does.
    pub sent: Tally,
    /// The part of `sent` that went to a multicast or broadcast address.
    pub sent_group: Tally,
    /// What arrived at the host.
    pub received: Tally,
    /// Frames sent to an address that no host in reach has.
    pub unreachable: u64,
}

impl Sub for Host {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            sent_group: self.sent_group - earlier.sent_group,
            received: self.received - earlier.received,
            unreachable: self.unreachable.saturating_sub(earlier.unreachable),
        }
    }
}
