//! Cores of several nodes on a clock and a network of paper.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "support of tests: a failure is a panic, and real nodes run on the real clock"
)]

pub mod air;
pub mod count;
pub mod paper;
pub mod trouble;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use air::Air;
use count::Count;
use mesh::advert::{Advert, Capabilities, Gpu};
use mesh::membership::{
    Config, Core, Effect, Event, Frame, Identity, Input, Now, Reach, Target, Verifier, Why,
};
use mesh::{NodeId, wire};
use paper::Paper;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use vm_images::manifest::Accelerator;

/// What is on its way.
enum Transit {
    Frame { from: usize, to: usize, session: u64, bytes: Vec<u8> },
    Up { node: usize, peer: usize, session: u64, rendezvous: Option<String> },
    Down { node: usize, peer: usize, session: u64 },
    DialFailed { node: usize, target: Target },
    Start { node: usize },
    Hail { node: usize, from: usize, digest: u32 },
}

pub struct Node {
    core: Option<Core>,
    name: u32,
    clock_skew_s: i64,
    has_left: bool,
    /// Sessions by peer.
    links: BTreeMap<usize, u64>,
}

pub struct World {
    pub now: Duration,
    pub log: Vec<String>,
    pub count: Count,
    nodes: Vec<Node>,
    /// Name and public key of each node: making them takes longer than all the rest of a step.
    known: Vec<(NodeId, [u8; 32])>,
    rng: ChaCha8Rng,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    transit: BTreeMap<u64, Transit>,
    next: u64,
    side: Vec<usize>,
    loss: f64,
    sequences: BTreeMap<(usize, NodeId), u64>,
    multicast: bool,
    has_rendezvous: bool,
    one_way: Duration,
    /// Bytes per second of each pair, each way; and when a pair has carried what it was given.
    rate: Option<u64>,
    busy_until: BTreeMap<(usize, usize), Duration>,
    /// Packets that are lost below the streams, which repeat them.
    air: Option<Air>,
    /// Whether every beat is lost, and is repeated only when something that followed it is acknowledged.
    pub loses_beats: bool,
    lost_beats: BTreeMap<(usize, usize), (u64, Vec<u8>)>,
    /// Events of nodes that were told [`Event::Unreachable`], and links that were given up in silence.
    pub alarms: usize,
    pub links_given_up: usize,
}

/// IP bytes that the side which dials, and the one which is dialled, send until both certificates are shown and the link
/// is up. Captured with tcpdump between two `mesh_node` in the lab over QUIC (12 and 10 packets; two thirds are the padding
/// that QUIC prescribes and the key shares of X25519MLKEM768); over TCP, Noise and yamux it is 1,860 and 1,940.
const HANDSHAKE_BYTES: [usize; 2] = [4900, 4000];
/// Round trips that takes, from the same capture: QUIC's own, the choice of the protocol, the certificates. TCP takes four.
const HANDSHAKE_ROUND_TRIPS: u32 = 3;
const UNIX_S: u64 = 1_800_000_000;

pub fn id(node: usize) -> NodeId {
    let mut bytes = *blake3::hash(&node.to_be_bytes()).as_bytes();
    bytes[15] = node as u8;
    NodeId::from_bytes(bytes[..16].try_into().unwrap())
}

fn index(node: NodeId) -> usize {
    node.as_bytes()[15].into()
}

fn address(node: usize) -> String {
    format!("/ip4/10.77.0.{node}/udp/49152/quic-v1/{node}")
}

fn advert(node: usize, name: u32) -> Advert {
    let capabilities = Capabilities {
        accelerator: Accelerator::Tcg,
        gpu: Gpu::None,
        architecture: "x86_64".to_owned(),
        cpu_models: ["Nehalem".to_owned()].into(),
        machines: ["pc-q35-10.0".to_owned()].into(),
        guest_systems: ["debian-12".to_owned()].into(),
        guest_speed_permille: Some(83),
    };
    Advert::new(id(node), format!("{node}-{name}"), capabilities)
}

impl World {
    /// Three to eight nodes on a network that loses frames.
    pub fn new(seed: u64) -> Self {
        let mut world = Self::empty(seed);
        let count = world.rng.random_range(3..=8);
        world.multicast = world.rng.random_bool(0.5);
        world.loss = 0.02;
        world.populate(count);
        world
    }

    /// A network without trouble.
    pub fn quiet(seed: u64, count: usize) -> Self {
        let mut world = Self::empty(seed);
        world.populate(count);
        world
    }

    fn empty(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            log: Vec::new(),
            count: Count::default(),
            nodes: Vec::new(),
            known: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            transit: BTreeMap::new(),
            next: 0,
            side: Vec::new(),
            loss: 0.0,
            sequences: BTreeMap::new(),
            multicast: true,
            has_rendezvous: true,
            one_way: Duration::from_millis(20),
            rate: None,
            busy_until: BTreeMap::new(),
            air: None,
            loses_beats: false,
            lost_beats: BTreeMap::new(),
            alarms: 0,
            links_given_up: 0,
        }
    }

    /// Links of one kind that lose packets: this share of them, so many in a row on the average.
    pub fn lossy(seed: u64, count: usize, one_way: Duration, share: f64, in_a_row: f64) -> Self {
        let mut world = Self::joining(seed, count, one_way, Some(8_000));
        world.air = Some(Air::new(share, in_a_row));
        world
    }

    /// Nodes that all start within a second and have nothing but multicast, on links of one kind.
    pub fn joining(seed: u64, count: usize, one_way: Duration, rate: Option<u64>) -> Self {
        let mut world = Self::empty(seed);
        (world.has_rendezvous, world.one_way, world.rate) = (false, one_way, rate);
        world.add(count);
        for node in 0..count {
            let after = Duration::from_millis(world.rng.random_range(0..1000));
            world.later(after, Transit::Start { node });
        }
        world
    }

    fn populate(&mut self, count: usize) {
        self.add(count);
        for node in 0..count {
            self.start(node);
        }
    }

    fn add(&mut self, count: usize) {
        for _ in 0..count {
            self.nodes.push(Node {
                core: None,
                name: 0,
                clock_skew_s: 0,
                has_left: false,
                links: BTreeMap::new(),
            });
            let node = self.known.len();
            self.known.push((id(node), paper::key(node).verifying_key().to_bytes()));
            self.side.push(0);
        }
    }

    pub fn start(&mut self, node: usize) {
        self.nodes[node].has_left = false;
        self.nodes[node].name += 1;
        let config = Config {
            multicast: self.multicast,
            rendezvous: if self.has_rendezvous { vec![address(0), address(1)] } else { Vec::new() },
            forget_after: Duration::from_secs(900),
            ..Config::default()
        };
        let identity =
            Identity { node: id(node), key: paper::key(node), certificate: paper::certificate(node) };
        let seed = self.rng.random();
        let advert = advert(node, self.nodes[node].name);
        let mut core = Core::new(config, identity, Box::new(Paper::default()), seed, advert, self.time(node));
        let effects = core.step(self.time(node), Input::Addresses(vec![address(node)]));
        self.nodes[node].core = Some(core);
        self.sequences.retain(|(watcher, _), _| *watcher != node);
        self.perform(node, effects);
    }

    fn time(&self, node: usize) -> Now {
        let unix_s = (UNIX_S + self.now.as_secs()).saturating_add_signed(self.nodes[node].clock_skew_s);
        Now { boot: self.now, unix_s }
    }

    fn later(&mut self, after: Duration, what: Transit) {
        self.next += 1;
        self.transit.insert(self.next, what);
        self.queue.push(Reverse((self.now + after, self.next)));
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(1..40))
    }

    fn can_talk(&self, one: usize, two: usize) -> bool {
        self.side[one] == self.side[two]
    }

    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, frame) => self.send(node, index(to), &frame),
                Effect::Close(peer, why) => self.close(node, index(peer), why),
                Effect::Dial(target) => self.dial(node, target),
                Effect::Hail { digest } => {
                    self.count.hails += 1;
                    for other in 0..self.nodes.len() {
                        if other != node && self.can_talk(node, other) {
                            let delay = self.delay();
                            self.later(delay, Transit::Hail { node: other, from: node, digest });
                        }
                    }
                }
                Effect::Event(Event::NeighbourDown(_, Why::Silent)) => self.links_given_up += 1,
                Effect::Event(Event::Unreachable(other)) => {
                    self.alarms += 1;
                    self.log.push(format!("{:?} {node} lost sight of {}", self.now, index(other)));
                }
                Effect::Event(_) => {}
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, frame: &Frame) {
        // The real codec on every frame.
        let bytes = wire::frame::encode(frame).unwrap();
        assert_eq!(&wire::frame::decode(&bytes).unwrap(), frame);
        self.count.frame(frame, bytes.len());
        let Some(session) = self.nodes[from].links.get(&to).copied() else { return };
        if self.rng.random_bool(self.loss) {
            return;
        }
        if self.loses_beats && matches!(frame, Frame::Beat { .. }) {
            self.lost_beats.insert((from, to), (session, bytes));
            return;
        }
        if let Some((lost, beat)) = self.lost_beats.remove(&(from, to)).filter(|(lost, _)| *lost == session) {
            // There, the acknowledgement back, and the beat; what followed waits for it.
            let after = self.one_way * 3;
            self.later(after, Transit::Frame { from, to, session: lost, bytes: beat });
            self.later(after, Transit::Frame { from, to, session, bytes });
            return;
        }
        let copies = if self.rng.random_bool(self.loss) { 2 } else { 1 };
        for _ in 0..copies {
            // Without loss frames stay in order, as on a stream.
            let delay = if self.loss > 0.0 { self.delay() } else { self.carry(from, to, bytes.len()) };
            self.later(delay, Transit::Frame { from, to, session, bytes: bytes.clone() });
        }
    }

    /// How long so many bytes are on their way, behind what the pair was given before.
    fn carry(&mut self, from: usize, to: usize, bytes: usize) -> Duration {
        let Some(rate) = self.rate else { return self.one_way };
        let repeats = match &mut self.air {
            Some(air) => air.repeats((from, to), self.one_way * 2, &mut self.rng),
            None => Duration::ZERO,
        };
        let busy_until = self.busy_until.entry((from, to)).or_default();
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        // A stream is in order: what comes after a lost packet waits for it.
        *busy_until = (*busy_until).max(self.now) + takes + repeats;
        *busy_until - self.now + self.one_way
    }

    fn close(&mut self, node: usize, peer: usize, _: Why) {
        if let Some(session) = self.nodes[node].links.remove(&peer) {
            self.later(Duration::from_millis(60), Transit::Down { node: peer, peer: node, session });
        }
    }

    fn dial(&mut self, node: usize, target: Target) {
        let (peer, rendezvous) = match &target {
            Target::Rendezvous(address) => (address.clone(), Some(address.clone())),
            Target::Node { addresses, .. } => (addresses[0].clone(), None),
        };
        let peer: usize = peer.rsplit('/').next().unwrap().parse().unwrap();
        let answers = peer != node && self.nodes[peer].core.is_some() && self.can_talk(node, peer);
        if !answers || self.nodes[node].links.contains_key(&peer) {
            self.later(Duration::from_secs(3), Transit::DialFailed { node, target });
            return;
        }
        self.next += 1;
        self.count.handshakes += 1;
        let session = self.next;
        let there = self.carry(node, peer, HANDSHAKE_BYTES[0]);
        let back = self.carry(peer, node, HANDSHAKE_BYTES[1]);
        let more = self.one_way * 2 * (HANDSHAKE_ROUND_TRIPS - 1);
        // A dead session at the other end ends when the new one comes.
        self.later(there + back + more, Transit::Up { node, peer, session, rendezvous });
    }

    fn up(&mut self, node: usize, peer: usize, session: u64, rendezvous: Option<String>) {
        let alive = self.nodes[node].core.is_some() && self.nodes[peer].core.is_some();
        if !alive || !self.can_talk(node, peer) || self.nodes[node].links.contains_key(&peer) {
            return;
        }
        for (own, other, rendezvous) in [(node, peer, rendezvous), (peer, node, None)] {
            let now = self.time(own);
            let (key, certificate) =
                (paper::key(other).verifying_key().to_bytes(), paper::certificate(other));
            let core = self.nodes[own].core.as_mut().unwrap();
            if core.prove(now, key, &certificate).is_err() {
                continue;
            }
            self.nodes[own].links.insert(other, session);
            // As in the driver: the side that dialled has measured the round trip.
            let rtt = (own == node && self.rate.is_some()).then(|| self.one_way * 2);
            let input = Input::LinkUp { node: id(other), rendezvous, rtt };
            self.step(own, input);
        }
    }

    fn step(&mut self, node: usize, input: Input) {
        let now = self.time(node);
        let Some(core) = self.nodes[node].core.as_mut() else { return };
        let effects = core.step(now, input);
        self.perform(node, effects);
        self.check(node);
    }

    fn deliver(&mut self, what: Transit) {
        match what {
            Transit::Frame { from, to, session, bytes } => {
                let is_current = self.nodes[to].links.get(&from) == Some(&session);
                if is_current && self.can_talk(from, to) {
                    let frame = wire::frame::decode(&bytes).unwrap();
                    self.step(to, Input::Frame { from: id(from), frame, bytes: bytes.len() });
                }
            }
            Transit::Up { node, peer, session, rendezvous } => self.up(node, peer, session, rendezvous),
            Transit::Down { node, peer, session } => {
                if self.nodes[node].links.get(&peer) == Some(&session) {
                    self.nodes[node].links.remove(&peer);
                    self.step(node, Input::LinkDown(id(peer)));
                }
            }
            Transit::Start { node } => self.start(node),
            Transit::DialFailed { node, target } => self.step(node, Input::DialFailed(target)),
            Transit::Hail { node, from, digest } => {
                let key = paper::key(from).verifying_key().to_bytes();
                if self.multicast {
                    self.step(node, Input::Sighted { key, addresses: vec![address(from)], digest });
                }
            }
        }
    }

    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let wake = (0..self.nodes.len()).filter_map(|node| {
                let core = self.nodes[node].core.as_ref()?;
                Some((core.next_wake().max(self.now + Duration::from_millis(1)), node))
            });
            let wake = wake.min();
            let due = self.queue.peek().map(|Reverse((at, _))| *at);
            let next = [wake.map(|(at, _)| at), due].into_iter().flatten().min();
            match next {
                Some(at) if at <= end => {
                    self.now = at;
                    if due == Some(at) {
                        let Reverse((_, number)) = self.queue.pop().unwrap();
                        let what = self.transit.remove(&number).unwrap();
                        self.deliver(what);
                    } else if let Some((_, node)) = wake {
                        self.step(node, Input::Tick);
                    }
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Invariants that hold after every event.
    fn check(&mut self, node: usize) {
        let Some(core) = &self.nodes[node].core else { return };
        let members = core.members();
        assert!(members.len() <= 1024);
        for (other, member) in &members {
            // Nobody is known who is not of the mission, and everybody by its own words.
            let who = index(*other);
            let Some((name, key)) = self.known.get(who) else { panic!("a node that never was") };
            assert_eq!(other, name);
            let says = member.advert.name.split_once('-').and_then(|(node, _)| node.parse().ok());
            assert_eq!(says, Some(who), "{}", member.advert.name);
            assert_eq!(member.key, *key);
            // The newest advert of a node never gives way to an older one.
            let last = self.sequences.entry((node, *other)).or_default();
            assert!(*last <= member.advert.sequence, "{node} went back on {who}");
            *last = member.advert.sequence;
            if who == node {
                assert_eq!(member.reach, Reach::Own);
            }
        }
        for neighbour in core.neighbours().keys() {
            let known = self.nodes[node].links.contains_key(&index(*neighbour));
            assert!(known, "{node} believes in a link to {} that is gone", index(*neighbour));
        }
    }

    pub fn crash(&mut self, node: usize) {
        self.log.push(format!("{:?} crash {node}", self.now));
        self.nodes[node].core = None;
        self.nodes[node].links.clear();
    }

    pub fn change(&mut self, node: usize) {
        self.nodes[node].name += 1;
        let advert = advert(node, self.nodes[node].name);
        self.log.push(format!("{:?} change {node}", self.now));
        self.step(node, Input::Local(Box::new(advert)));
    }

    pub fn split(&mut self, side: impl Fn(usize) -> usize) {
        self.side = (0..self.nodes.len()).map(side).collect();
        self.log.push(format!("{:?} split {:?}", self.now, self.side));
    }

    pub fn heal(&mut self) {
        self.log.push(format!("{:?} heal", self.now));
        self.side.fill(0);
    }

    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].core.is_some()
    }

    pub fn there(&self, node: usize) -> usize {
        let members = self.nodes[node].core.as_ref().unwrap().members();
        members.values().filter(|member| !matches!(member.reach, Reach::UnreachableSince(_))).count()
    }

    /// How many still hold `node` to be there.
    pub fn knows_of(&self, node: usize) -> usize {
        let cores = self.nodes.iter().filter_map(|other| other.core.as_ref());
        let sees = |core: &Core| {
            core.members()
                .get(&id(node))
                .is_some_and(|member| !matches!(member.reach, Reach::UnreachableSince(_)))
        };
        cores.filter(|core| sees(core)).count()
    }

    pub fn link_count(&self) -> usize {
        self.nodes.iter().map(|node| node.links.len()).sum::<usize>() / 2
    }
}

/// Only to show that the trait is object safe outside the crate.
#[allow(dead_code, reason = "used by one of the tests that share this module")]
pub fn verifier() -> Box<dyn Verifier> {
    Box::new(Paper::default())
}
