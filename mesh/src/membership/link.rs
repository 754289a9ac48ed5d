//! What is known of one neighbour.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::bucket::Bucket;
use super::{Config, Version};
use crate::NodeId;
use crate::wire::frame::MAX_ENTRIES;

/// Bytes that a neighbour may send at once: a whole mesh of adverts.
const INBOUND_BURST_BYTES: u64 = 8 << 20;
/// Bytes per second that a neighbour may send on the average; a guess, far above what any mesh needs.
const INBOUND_BYTES_PER_S: u64 = 128 * 1024;
/// Frames that a neighbour may send at once, and per second: 30 nodes that all change at once are 30 frames.
const INBOUND_BURST_FRAMES: u64 = 2000;
const INBOUND_FRAMES_PER_S: u64 = 100;
/// Bytes of adverts that may go out at once: a change of a large advert, or the first exchange of a small mesh.
const OUTBOUND_BURST_BYTES: u64 = 64 * 1024;

/// Bytes of certificates and revocations that a neighbour may ask for at once, and per second. Guess: a mesh of a
/// thousand, and what a link of 64 kbit/s carries; somebody who asks again and again for all of it gets no more.
const ANSWERS_BURST_BYTES: u64 = 1 << 20;
const ANSWERS_BYTES_PER_S: u64 = 8 * 1024;
/// Questions to a neighbour that may go out at once, and per second; more go together in one frame. Whoever makes this node ask
/// by every frame could otherwise fill the link's queue before its share of frames is used up. Guess: a join asks some ten times.
const QUESTIONS_BURST: u64 = 32;
const QUESTIONS_PER_S: u64 = 8;
/// Most nodes of which it is remembered what a neighbour holds. Guess: twice the nodes that a node remembers itself.
const MAX_KNOWN: usize = 2 * MAX_ENTRIES;

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
    /// Whether it was asked, since then, why nothing is heard.
    pub(super) is_asked: bool,
    /// Whether a beat of this round was lost: how long the round took then says nothing of the round trip (Karn).
    pub(super) is_repeated: bool,
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
    /// Whether `known` says what the neighbour holds. Before that nothing is pushed: it would go whole, and twice.
    pub(super) is_synced: bool,
    /// What we said that we hold when we asked; what the neighbour then does not ask for, it holds too.
    pub(super) offered: BTreeMap<NodeId, Version>,
    /// No news before this: what comes close together goes together.
    pub(super) flush_at: Duration,
    pub(super) budget: Bucket,
    inbound_bytes: Bucket,
    inbound_frames: Bucket,
    answers: Bucket,
    questions: Bucket,
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
            is_asked: false,
            is_repeated: false,
            turn,
            beat_sent: None,
            beat_got: None,
            rtt: None,
            rate: None,
            degree: 0,
            known: BTreeMap::new(),
            dirty: BTreeSet::new(),
            is_synced: false,
            offered: BTreeMap::new(),
            flush_at: now,
            budget: Bucket::new(config.link_budget, OUTBOUND_BURST_BYTES, now),
            inbound_bytes: Bucket::new(INBOUND_BYTES_PER_S, INBOUND_BURST_BYTES, now),
            inbound_frames: Bucket::new(INBOUND_FRAMES_PER_S, INBOUND_BURST_FRAMES, now),
            answers: Bucket::new(ANSWERS_BYTES_PER_S, ANSWERS_BURST_BYTES, now),
            questions: Bucket::new(QUESTIONS_PER_S, QUESTIONS_BURST, now),
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

    /// Whether the neighbour may have more of what it asks for, which are so many bytes.
    pub(super) fn may_ask(&mut self, bytes: usize, now: Duration) -> bool {
        let is_open = self.answers.is_open(now);
        if is_open {
            self.answers.take(u64::try_from(bytes).unwrap_or(u64::MAX), now);
        }
        is_open
    }

    /// Whether a frame of questions may go out now; if so, it does.
    pub(super) fn may_question(&mut self, now: Duration) -> bool {
        self.questions.try_take(1, now)
    }

    /// When a frame of questions may go out.
    pub(super) fn questions_at(&self) -> Duration {
        self.questions.reaches_at(1)
    }

    /// The neighbour holds this state or a newer one. It says so itself, so there is an end to what is noted.
    pub(super) fn holds(&mut self, node: NodeId, version: Version) {
        if self.known.len() < MAX_KNOWN || self.known.contains_key(&node) {
            let known = self.known.entry(node).or_default();
            *known = (*known).max(version);
        }
    }

    /// When news may go out, if there is any to go.
    pub(super) fn flushes_at(&self) -> Option<Duration> {
        (self.is_synced && !self.dirty.is_empty()).then(|| self.budget.opens_at().max(self.flush_at))
    }

    /// When the neighbour is given up unless it is heard of: it had its turn, and its grace.
    pub(super) fn deadline(&self, config: &Config) -> Option<Duration> {
        let grace = self.grace(config);
        match self.turn {
            Turn::Ours(_) => None,
            Turn::Theirs => Some(self.heard.max(self.beat_sent.unwrap_or(self.up)) + config.beat + grace),
        }
    }

    fn grace(&self, config: &Config) -> Duration {
        config.grace.max(self.rtt.unwrap_or_default() * 4)
    }

    /// When a neighbour is asked that had its turn and is late: half of its grace is left for the answer.
    pub(super) fn asks_at(&self, config: &Config) -> Option<Duration> {
        let deadline = self.deadline(config).filter(|_| !self.is_asked)?;
        Some(deadline.saturating_sub(self.grace(config) / 2))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link::new(Duration::ZERO, Turn::Theirs, &Config::default())
    }

    #[test]
    fn a_neighbour_that_names_nodes_without_end_takes_no_memory_without_end() {
        let mut link = link();
        let node = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            NodeId::from_bytes([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        };
        for n in 0..100_000 {
            link.holds(node(n), Version { sequence: 1, mark: 0 });
        }
        assert_eq!(link.known.len(), MAX_KNOWN);
        link.holds(node(0), Version { sequence: 2, mark: 0 });
        assert_eq!(link.known[&node(0)].sequence, 2, "those who are noted go on");
    }

    #[test]
    fn who_makes_this_node_ask_by_every_frame_is_asked_a_few_times_a_second() {
        let mut link = link();
        let ms = Duration::from_millis;
        let asked = (0..10_000).filter(|n| link.may_question(ms(*n))).count();
        assert!((111..=113).contains(&asked), "{asked} in ten seconds");
        let next = link.questions_at();
        assert!(
            !link.may_question(next - ms(2)) && link.may_question(next),
            "the time that it names is right"
        );
    }

    #[test]
    fn who_asks_for_everything_again_and_again_gets_the_share_of_one() {
        let mut link = link();
        let second = Duration::from_secs(1);
        let got = (0..1000).filter(|_| link.may_ask(48 * 1024, second)).count();
        assert_eq!(got, 22, "what a mesh of a thousand has, once");
        let more = (0..60).filter(|n| link.may_ask(48 * 1024, second * (n + 2))).count();
        assert!((9..=11).contains(&more), "{more}");
    }
}
