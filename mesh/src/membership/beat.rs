//! Beats: who lives, and whether neighbours know the same.
//!
//! The two ends of a link take turns: whoever hears a beat holds the turn for [`Config::beat`](super::Config::beat)
//! and then beats. Each beat says how long the turn was held, so the other side learns the round trip.
//!
//! A beat that was lost is repeated by QUIC when it was not acknowledged in time; and how long that is, QUIC learns from
//! so few packets that after a crowded start on a slow link it believes for minutes in more than a second (captured: a
//! beat lost on 64 kbit/s was repeated after 1.3 s, another not within 1.6 s). So whoever waits asks when half of the
//! grace is over. The answer is a packet beside the beat; what its acknowledgement leaves out is repeated at once.

use std::time::Duration;

use super::core::{Core, is_there};
use super::link::Turn;
use super::{Frame, Why};
use crate::NodeId;

/// How long a difference may be due to news that is still on its way. Longer than a change takes to everybody (the
/// aim is 2 s).
const NEWS_TRAVELS: Duration = Duration::from_secs(2);
/// Shortest time between two summaries on one link.
const SUMMARY_EVERY: Duration = Duration::from_secs(2);

impl Core {
    pub(super) fn beats(&mut self) {
        let now = self.now.boot;
        for node in self.links.keys().copied().collect::<Vec<_>>() {
            let Some(link) = self.links.get(&node) else { continue };
            match link.turn {
                Turn::Ours(at) if now >= at => self.beat(node),
                Turn::Theirs if link.deadline(&self.config).is_some_and(|deadline| now >= deadline) => {
                    self.close(node, Why::Silent);
                }
                Turn::Theirs if link.asks_at(&self.config).is_some_and(|at| now >= at) => {
                    if let Some(link) = self.links.get_mut(&node) {
                        (link.is_asked, link.is_repeated) = (true, true);
                    }
                    self.send(node, Frame::Ask);
                }
                _ => {}
            }
        }
    }

    /// A neighbour has not heard of this node for too long: anything that is said shows it, and what was lost before.
    pub(super) fn on_ask(&mut self, from: NodeId) {
        let now = self.now.boot;
        let Some(link) = self.links.get_mut(&from) else { return };
        link.is_repeated = true;
        if link.may_question(now) {
            self.send(from, Frame::Here);
        }
    }

    fn beat(&mut self, node: NodeId) {
        let digest = self.digest();
        let mut degree = u8::try_from(self.links.len()).unwrap_or(u8::MAX);
        if self.overlay.is_held(node) {
            degree = degree.min(u8::try_from(self.config.degree).unwrap_or(u8::MAX));
        }
        let now = self.now.boot;
        let Some(link) = self.links.get_mut(&node) else { return };
        let held = link.beat_got.map_or(Duration::ZERO, |got| now.saturating_sub(got));
        link.turn = Turn::Theirs;
        link.beat_sent = Some(now);
        let held_us = u32::try_from(held.as_micros()).unwrap_or(u32::MAX);
        self.send(node, Frame::Beat { digest, held_us, degree });
    }

    pub(super) fn on_beat(&mut self, from: NodeId, digest: u32, held_us: u32, degree: u8) {
        let own = self.digest();
        let now = self.now.boot;
        let beat = self.config.beat;
        let Some(link) = self.links.get_mut(&from) else { return };
        let is_first = link.beat_got.is_none() && link.beat_sent.is_none();
        link.degree = degree.into();
        if link.turn == Turn::Theirs {
            let held = Duration::from_micros(held_us.into());
            let round = link.beat_sent.map(|sent| now.saturating_sub(sent));
            let is_repeated = std::mem::take(&mut link.is_repeated);
            if let Some(rtt) = round.and_then(|round| round.checked_sub(held)).filter(|_| !is_repeated) {
                link.measured(rtt);
            }
            link.turn = Turn::Ours(now + beat);
            link.beat_got = Some(now);
        }
        if own == digest {
            // They hold what we hold.
            link.is_synced = true;
            for (node, entry) in &self.entries {
                if is_there(entry.reach) {
                    link.known.insert(*node, entry.version);
                    link.dirty.remove(node);
                }
            }
            link.same_difference = (None, 0);
            return;
        }
        let is_settled = now.saturating_sub(self.changed_at) > NEWS_TRAVELS;
        let again = link.same_difference.0.is_some();
        let asked = link.summary_sent.is_some_and(|sent| now.saturating_sub(sent) < SUMMARY_EVERY);
        if (is_first || is_settled || again) && !asked && link.is_worth_asking((own, digest)) {
            self.send_summary(from);
        } else if !asked && let Some(link) = self.links.get_mut(&from) {
            // At the next beat it is asked even if news keeps coming.
            link.same_difference.0.get_or_insert((own, digest));
        }
    }
}
