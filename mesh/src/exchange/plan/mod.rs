//! Which blocks to ask whom for.
//!
//! One plan is for one image. Blocks have numbers from 0; what they are is the driver's business. The driver owes:
//!
//! * [`Input::Tick`] at least every [`TICK`], and one after every other input (late is fine, never is not);
//! * for every [`Effect::Connect`] one [`Input::Connected`] or [`Input::Lost`], sooner or later;
//! * for every [`Effect::Hang`] nothing: that peer's blocks are asked for elsewhere, and what still comes from it is
//!   ignored by [`Plan::step`], which answers [`Verdict::Unasked`];
//! * [`Input::Heard`] when bytes of an unfinished block came in, so that a slow link is not taken for a dead one.
//!
//! How the work is shared: every peer is kept busy for about [`Config::ahead`] and one round trip, so a peer that is
//! three times as fast gets three times as many blocks, and one that is slow holds up only what it was given. When
//! nothing is left to ask for, blocks that a slow peer has are asked for once more from one that will be faster.
//! The rate of a peer is measured while it has work waiting, so pauses made by [`super::pace`] do not count.

mod peer;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use peer::Rate;
use peer::{Peer, State};

use crate::NodeId;

/// How often the driver ticks. A guess: at 8 Mbit/s 20 KB pass meanwhile, less than a block.
pub const TICK: Duration = Duration::from_millis(20);

/// What may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Most peers at a time. A guess: on one radio channel more peers do not make more capacity.
    pub most_peers: usize,
    /// For how long a peer is given work ahead, beside a round trip. It is also how much of a link's time is taken
    /// when people suddenly want it. A guess: half of what people notice as a pause (Nielsen: 1 s is a delay that is
    /// noticed).
    pub ahead: Duration,
    /// What a peer is asked for at first, before its rate is known, bytes: two blocks.
    pub first_window_bytes: u64,
    /// Most that is in flight to a peer, bytes. Bounds memory; 4 MiB fill 130 Mbit/s for `ahead`.
    pub most_window_bytes: u64,
    /// A peer that owes something and sends nothing for this long is left. A guess: longer than a handover of a radio
    /// link, shorter than a contact.
    pub stall: Duration,
    /// After a failure a peer is left alone for this long, then twice as long, and so on.
    pub first_pause: Duration,
    /// The longest of these pauses: a peer that comes back in reach is found again within it.
    pub longest_pause: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            most_peers: 4,
            ahead: Duration::from_millis(250),
            first_window_bytes: 128 * 1024,
            most_window_bytes: 4 * 1024 * 1024,
            stall: Duration::from_secs(10),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
        }
    }
}

/// What the driver tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// These nodes hold the image, and no others.
    Holders(BTreeSet<NodeId>),
    /// A stream to the peer is open.
    Connected(NodeId),
    /// There is no stream to the peer (any more), for whatever reason.
    Lost(NodeId),
    /// Some bytes came from the peer.
    Heard(NodeId),
    /// A block came from the peer, and it is good. To be told of before anything else is asked from it.
    Arrived {
        /// Who sent it.
        peer: NodeId,
        /// Which.
        block: u32,
        /// What it took on the wire, bytes.
        wire_bytes: u64,
    },
    /// A block is here, wherever it came from: from a stream that has ended meanwhile.
    Here(u32),
    /// The peer sent something that is not true, or that it was not asked for.
    Lied(NodeId),
    /// What may be taken of each link, thousandths, and whether anything may be asked for at all now.
    Allowed {
        /// Thousandths of the measured rate.
        share_permille: u32,
        /// Whether the limit over all peers leaves room.
        is_open: bool,
    },
    /// Time has passed.
    Tick,
}

/// What the driver does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Open a stream to this node.
    Connect(NodeId),
    /// Ask for these blocks; at least one, in ascending order.
    Ask {
        /// Whom.
        peer: NodeId,
        /// For what.
        blocks: Vec<u32>,
    },
    /// Close the stream to this node.
    Hang(NodeId),
}

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was of use, or nothing had to be decided.
    Fine,
    /// The block was here already; another peer was faster.
    Twice,
    /// Nobody asked the peer for that.
    Unasked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Missing,
    /// Asked for from this many peers.
    Flying(u8),
    Here,
}

/// The plan of one fetch. See the module.
#[derive(Debug, Clone)]
pub struct Plan {
    config: Config,
    /// Length of each block, bytes.
    lengths: Vec<u32>,
    slots: Vec<Slot>,
    missing: BTreeSet<u32>,
    here: u32,
    peers: BTreeMap<NodeId, Peer>,
    share_permille: u32,
    is_open: bool,
    /// What blocks take on the wire, thousandths of their length; a running mean.
    packed_permille: u64,
}

impl Plan {
    /// A plan for blocks of these lengths (bytes), of which those in `here` are here already.
    pub fn new(config: Config, lengths: Vec<u32>, here: &BTreeSet<u32>) -> Self {
        let slots: Vec<Slot> = (0..lengths.len() as u32)
            .map(|block| if here.contains(&block) { Slot::Here } else { Slot::Missing })
            .collect();
        let missing: BTreeSet<u32> =
            (0..lengths.len() as u32).filter(|block| !here.contains(block)).collect();
        Self {
            config,
            here: lengths.len() as u32 - missing.len() as u32,
            lengths,
            slots,
            missing,
            peers: BTreeMap::new(),
            share_permille: super::pace::Courtesy::SHARE_PERMILLE,
            is_open: true,
            packed_permille: 1000,
        }
    }

    /// Whether every block is here.
    pub fn is_done(&self) -> bool {
        self.here as usize == self.slots.len()
    }

    /// How many blocks are not here yet.
    pub fn left(&self) -> u32 {
        self.slots.len() as u32 - self.here
    }

    /// Whether the block is here.
    pub fn has(&self, block: u32) -> bool {
        self.slots.get(block as usize) == Some(&Slot::Here)
    }

    /// Whether the peer was asked for the block and has not sent it: what else it sends need not even be unpacked.
    pub fn expects(&self, peer: NodeId, block: u32) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.flying.contains_key(&block))
    }

    /// The peers that blocks come from now, with their measured rates.
    pub fn rates(&self) -> BTreeMap<NodeId, Option<Rate>> {
        let connected = self.peers.iter().filter(|(_, peer)| peer.state == State::Open);
        connected.map(|(node, peer)| (*node, peer.rate)).collect()
    }

    /// Peers that sent what was not true. Never asked again by this plan.
    pub fn liars(&self) -> BTreeSet<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.state == State::Liar).map(|(node, _)| *node).collect()
    }

    /// Takes an input at `now` (time since some start, never going backwards) and adds what is to be done.
    pub fn step(&mut self, now: Duration, input: Input, out: &mut Vec<Effect>) -> Verdict {
        let mut verdict = Verdict::Fine;
        match input {
            Input::Holders(holders) => self.know(now, &holders, out),
            Input::Connected(node) => self.connected(now, node, out),
            Input::Lost(node) => self.lose(now, node),
            Input::Heard(node) => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.heard_at = now;
                }
            }
            Input::Arrived { peer, block, wire_bytes } => {
                verdict = self.arrived(now, peer, block, wire_bytes)
            }
            Input::Here(block) => self.note_here(block),
            Input::Lied(node) => self.shun(node, out),
            Input::Allowed { share_permille, is_open } => {
                self.share_permille = share_permille;
                self.is_open = is_open;
                self.peers.values_mut().for_each(|peer| peer.set_share(now, share_permille));
            }
            Input::Tick => {
                self.leave_stalled(now, out);
                self.connect(now, out);
                self.share_work(now, out);
            }
        }
        verdict
    }

    fn know(&mut self, now: Duration, holders: &BTreeSet<NodeId>, out: &mut Vec<Effect>) {
        for node in holders {
            self.peers.entry(*node).or_insert_with(|| Peer::new(now, self.config.first_pause)).is_holder =
                true;
        }
        let gone: Vec<NodeId> = self.peers.keys().filter(|node| !holders.contains(node)).copied().collect();
        for node in gone {
            // An advert may be late; a peer that answers is not cut off because of it. It is only not come back to.
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            peer.is_holder = false;
            if matches!(peer.state, State::Resting { .. }) {
                self.peers.remove(&node);
            }
        }
        self.connect(now, out);
    }

    fn connect(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if self.is_done() {
            return;
        }
        let busy = |peer: &&Peer| matches!(peer.state, State::Opening | State::Open);
        let mut room = self.config.most_peers.saturating_sub(self.peers.values().filter(busy).count());
        // Those that failed least come first, so that a dead one does not keep a place from a good one.
        let mut ready: Vec<(Duration, NodeId)> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.is_holder && matches!(peer.state, State::Resting { until } if until <= now)
            })
            .map(|(node, peer)| (peer.pause, *node))
            .collect();
        ready.sort();
        for (_, node) in ready {
            if room == 0 {
                break;
            }
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.state = State::Opening;
                out.push(Effect::Connect(node));
                room -= 1;
            }
        }
    }

    fn connected(&mut self, now: Duration, node: NodeId, out: &mut Vec<Effect>) {
        match self.peers.get_mut(&node) {
            Some(peer) if peer.state == State::Opening => peer.open(now, self.share_permille),
            _ => out.push(Effect::Hang(node)),
        }
    }

    fn lose(&mut self, now: Duration, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.state == State::Liar {
            return;
        }
        let asked = std::mem::take(&mut peer.flying);
        peer.rest(now, self.config.longest_pause);
        self.give_back(asked.into_keys());
    }

    fn shun(&mut self, node: NodeId, out: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.state == State::Liar {
            return;
        }
        let asked = std::mem::take(&mut peer.flying);
        peer.state = State::Liar;
        self.give_back(asked.into_keys());
        out.push(Effect::Hang(node));
    }

    fn give_back(&mut self, blocks: impl Iterator<Item = u32>) {
        for block in blocks {
            let slot = &mut self.slots[block as usize];
            match slot {
                Slot::Flying(1) => {
                    *slot = Slot::Missing;
                    self.missing.insert(block);
                }
                Slot::Flying(copies) => *copies -= 1,
                Slot::Missing | Slot::Here => {}
            }
        }
    }

    fn arrived(&mut self, now: Duration, node: NodeId, block: u32, wire_bytes: u64) -> Verdict {
        let Some(peer) = self.peers.get_mut(&node) else { return Verdict::Unasked };
        let Some(asked_at) = peer.flying.remove(&block) else { return Verdict::Unasked };
        peer.arrived(now, asked_at, wire_bytes, self.config.first_pause);
        let length = u64::from(self.lengths[block as usize]).max(1);
        self.packed_permille = (self.packed_permille * 15 + wire_bytes * 1000 / length) / 16;
        if self.has(block) {
            return Verdict::Twice;
        }
        self.note_here(block);
        Verdict::Fine
    }

    /// Who was asked for it besides still owes it: what they send takes time on their links.
    fn note_here(&mut self, block: u32) {
        let Some(slot) = self.slots.get_mut(block as usize).filter(|slot| **slot != Slot::Here) else {
            return;
        };
        *slot = Slot::Here;
        self.missing.remove(&block);
        self.here += 1;
    }

    fn leave_stalled(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let stalled = |peer: &Peer| {
            peer.state == State::Open
                && !peer.flying.is_empty()
                && now.saturating_sub(peer.heard_at) >= self.config.stall
        };
        let left: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| stalled(peer)).map(|(node, _)| *node).collect();
        for node in left {
            self.lose(now, node);
            out.push(Effect::Hang(node));
        }
    }
}
