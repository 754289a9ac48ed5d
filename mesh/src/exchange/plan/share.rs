//! Sharing the missing blocks out.

use std::time::Duration;

use super::peer::{Peer, State};
use super::{Effect, Plan, Slot};
use crate::NodeId;
use crate::exchange::wire;

/// A block that somebody has in flight is asked for once more if the other will have it this much sooner. A guess:
/// less is not worth sending a block twice.
const WORTH_TWICE: Duration = Duration::from_millis(200);
/// Taken for a peer whose rate is not known yet, bytes per second: 64 kbit/s, the slowest link that is planned for.
const UNKNOWN_RATE: u64 = 8 * 1024;

impl Plan {
    pub(super) fn share_work(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if !self.is_open {
            return;
        }
        // The fastest first: what is left for the end is then in good hands.
        let mut open: Vec<(u64, NodeId)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.state == State::Open)
            .map(|(node, peer)| (peer.rate.unwrap_or(0), *node))
            .collect();
        open.sort_by_key(|(rate, node)| (std::cmp::Reverse(*rate), *node));
        for (_, node) in open {
            let blocks = self.give(now, node);
            if !blocks.is_empty() {
                out.push(Effect::Ask { peer: node, blocks });
            }
        }
    }

    /// Gives a peer as much as keeps it busy.
    fn give(&mut self, now: Duration, node: NodeId) -> Vec<u32> {
        let Some(peer) = self.peers.get_mut(&node) else { return Vec::new() };
        if !peer.may_be_asked(now) {
            return Vec::new();
        }
        let window = self.window(node);
        let mut owed = self.owed(node);
        let mut given = Vec::new();
        while given.len() < wire::MAX_BLOCKS_ASKED as usize && (owed == 0 || owed < window) {
            let Some(block) = self.missing.pop_first().or_else(|| self.worth_twice(node, owed)) else {
                break;
            };
            let slot = &mut self.slots[block as usize];
            *slot = match slot {
                Slot::Flying(copies) => Slot::Flying(copies.saturating_add(1)),
                _ => Slot::Flying(1),
            };
            owed += self.on_wire(block);
            given.push(block);
            if let Some(peer) = self.peers.get_mut(&node) {
                if peer.flying.is_empty() {
                    // It owes something from now on, so its silence counts from now on.
                    peer.heard_at = now;
                }
                peer.flying.insert(block, now);
            }
        }
        given.sort_unstable();
        given
    }

    /// What a peer may owe, bytes on the wire.
    fn window(&self, node: NodeId) -> u64 {
        let Some(peer) = self.peers.get(&node) else { return 0 };
        let Some(rate) = peer.rate else { return self.config.first_window_bytes };
        let time = self.config.ahead + peer.round_trip;
        let bytes = u128::from(rate) * time.as_millis() / 1000;
        u64::try_from(bytes).unwrap_or(u64::MAX).min(self.config.most_window_bytes)
    }

    fn owed(&self, node: NodeId) -> u64 {
        self.peers.get(&node).map_or(0, |peer| peer.flying.keys().map(|block| self.on_wire(*block)).sum())
    }

    /// What a block will take on the wire, bytes; from what the others took.
    fn on_wire(&self, block: u32) -> u64 {
        (u64::from(self.lengths[block as usize]) * self.packed_permille / 1000).max(1)
    }

    /// A block that another peer was asked for, and that this one would have much sooner.
    fn worth_twice(&self, node: NodeId, owed: u64) -> Option<u32> {
        let me = self.peers.get(&node)?;
        let others = self.peers.iter().filter(|(other, peer)| **other != node && !peer.flying.is_empty());
        // Of the slowest the one it was asked for last: that comes last.
        let (slowest, theirs) = others
            .map(|(_, peer)| (self.end(peer), peer))
            .filter_map(|(end, peer)| {
                let single = |block: &&u32| self.slots[**block as usize] == Slot::Flying(1);
                let last = peer.flying.keys().rev().find(|block| single(block))?;
                Some(((end, *last), peer))
            })
            .max_by_key(|((end, last), _)| (*end, *last))?;
        let (end, block) = slowest;
        debug_assert!(theirs.flying.contains_key(&block));
        let mine = time(owed + self.on_wire(block), me.rate) + me.round_trip;
        (end > mine + mine + WORTH_TWICE).then_some(block)
    }

    /// When a peer will have sent what it owes.
    fn end(&self, peer: &Peer) -> Duration {
        let owed = peer.flying.keys().map(|block| self.on_wire(*block)).sum();
        time(owed, peer.rate)
    }
}

fn time(bytes: u64, rate: Option<u64>) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / rate.unwrap_or(UNKNOWN_RATE).max(1))
}
