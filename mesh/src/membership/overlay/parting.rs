//! Letting go of links that are more than enough, and having neighbours meet so that it can be done.

use std::time::Duration;

use rand::RngExt;

use super::{MEET_TIMEOUT, upto};
use crate::NodeId;
use crate::membership::Frame;
use crate::membership::core::Core;
use crate::membership::graph::has_detour;

impl Core {
    /// Lets go of links that nobody needs; `true` if there are still too many.
    pub(super) fn prune(&mut self) -> bool {
        let now = self.now.boot;
        self.overlay.parting.retain(|_, until| *until > now);
        self.finish_meetings();
        let degree = self.config.degree;
        if self.lasting_links() <= degree || now < self.overlay.prune_at {
            return self.links.len() > degree + 1;
        }
        let graph = self.graph();
        let mut spare: Vec<(Duration, NodeId)> = Vec::new();
        for (node, link) in &self.links {
            let said = self.entries.get(node).map_or(0, |entry| entry.advert.links.len());
            // Who needs the link says in its beats that it has no more than enough.
            let has_more = if link.degree > 0 { link.degree > degree } else { said > degree };
            let is_free = !self.overlay.is_held(*node) && !self.overlay.parting.contains_key(node);
            let has_more = has_more && is_free;
            // A young link has work to do: whoever came just now learns over it whom else to dial.
            let is_settled = now.saturating_sub(link.up) > Duration::from_secs(1);
            if has_more && is_settled && has_detour(&graph, self.identity.node, *node) {
                spare.push((link.rtt.unwrap_or_default(), *node));
            }
        }
        if spare.is_empty() {
            return self.arrange_meetings();
        }
        let (_, node) = spare.swap_remove(self.rng.random_range(0..spare.len()));
        self.propose_to_part(node);
        let is_hub = self.links.len() > self.config.max_degree;
        let pause = Duration::from_millis(if is_hub { 200 } else { 1500 });
        self.overlay.prune_at = now + pause + upto(&mut self.rng, pause);
        true
    }

    /// Asks pairs of neighbours to connect with each other.
    fn arrange_meetings(&mut self) -> bool {
        let now = self.now.boot;
        let mut excess = self.lasting_links().saturating_sub(self.config.degree) / 2;
        excess = excess.saturating_sub(self.overlay.meeting.len());
        let is_settled = |node: &&NodeId| {
            let link = self.links.get(*node);
            link.is_some_and(|link| now.saturating_sub(link.up) > Duration::from_secs(1))
        };
        let mut free: Vec<NodeId> = self.links.keys().filter(is_settled).copied().collect();
        free.retain(|node| !self.overlay.meeting.keys().any(|(a, b)| a == node || b == node));
        while excess > 0 && free.len() >= 2 {
            let one = free.swap_remove(self.rng.random_range(0..free.len()));
            let strangers: Vec<usize> = (0..free.len())
                .filter(|n| free.get(*n).is_some_and(|two| !self.are_linked(one, *two)))
                .collect();
            if strangers.is_empty() {
                continue;
            }
            let chosen =
                strangers.get(self.rng.random_range(0..strangers.len())).copied().unwrap_or_default();
            let two = free.swap_remove(chosen);
            self.overlay.meeting.insert((one, two), now + MEET_TIMEOUT);
            self.send(one, Frame::Meet(two));
            excess -= 1;
        }
        self.links.len() > self.config.degree + 1
    }

    fn are_linked(&self, one: NodeId, two: NodeId) -> bool {
        let lists = |a: &NodeId, b: &NodeId| {
            self.entries.get(a).is_some_and(|entry| entry.advert.links.contains_key(b))
        };
        lists(&one, &two) || lists(&two, &one)
    }

    /// Lets go of neighbours that have met.
    fn finish_meetings(&mut self) {
        let now = self.now.boot;
        let pairs: Vec<(NodeId, NodeId)> = self.overlay.meeting.keys().copied().collect();
        for (one, two) in pairs {
            if self.are_linked(one, two) {
                self.overlay.meeting.remove(&(one, two));
                for node in [one, two] {
                    let is_spare = self.lasting_links() > self.config.degree
                        && !self.overlay.is_held(node)
                        && self.links.contains_key(&node)
                        && has_detour(&self.graph(), self.identity.node, node);
                    if is_spare {
                        self.propose_to_part(node);
                    }
                }
            } else if self.overlay.meeting.get(&(one, two)).is_some_and(|until| *until <= now) {
                self.overlay.meeting.remove(&(one, two));
            }
        }
    }
}
