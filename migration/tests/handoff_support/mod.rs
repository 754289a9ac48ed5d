//! Some nodes, one VM, a network of paper, and drivers that do what the core says unless they are killed in between.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "support of tests: a failure is a panic")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use mesh::NodeId;
use migration::handoff::{Copy, Core, Effect, Event, Grant, Input, Limits, Message, Offer, Place, Record};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use vm_images::manifest::Accelerator;
use vm_images::{Digest, Hardware, ImageId};

pub const LIMITS: Limits = Limits { freeze: Duration::from_secs(10), lease: Duration::from_secs(30) };

/// A VM on a node: what was written in it last, and whether it executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Vm {
    version: u64,
    runs: bool,
}

struct Node {
    /// `None`: killed.
    core: Option<Core>,
    /// Counts restarts: what a killed process had begun never answers.
    life: u64,
    disk: Option<Record>,
    vm: Option<Vm>,
    /// Loaded and waiting.
    loaded: Option<(Grant, Vm)>,
}

enum Transit {
    Word { from: usize, to: usize, message: Message },
    Answer { node: usize, life: u64, input: Input },
    Restart { node: usize },
    Heal { pair: (usize, usize) },
}

/// How bad the world is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Badness {
    pub loss: f64,
    pub twice: f64,
    pub kill: f64,
    pub fail: f64,
}

pub struct World {
    pub now: Duration,
    pub log: Vec<String>,
    pub badness: Badness,
    /// Ends the node that is about to do this effect (counted over all nodes).
    pub kill_at: Option<u64>,
    /// Cuts the link when this word (counted over all) is about to leave, for so long.
    pub cut_at: Option<(u64, Duration)>,
    pub effects: u64,
    pub words: u64,
    pub events: Vec<(usize, Event)>,
    /// He has declared a living node dead: two may run until they meet.
    pub trust_the_operator: bool,
    nodes: Vec<Node>,
    rng: ChaCha8Rng,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    transit: BTreeMap<u64, Transit>,
    next: u64,
    cut: BTreeSet<(usize, usize)>,
    /// The last write that a client was told of.
    acknowledged: u64,
    contents: BTreeMap<[u8; 32], u64>,
}

fn id(node: usize) -> NodeId {
    NodeId::from_bytes([node as u8 + 1; 16])
}

fn index(node: NodeId) -> usize {
    usize::from(node.as_bytes()[0]) - 1
}

fn offer() -> Box<Offer> {
    Box::new(Offer {
        epoch: 0,
        image: ImageId(Digest::of(b"image")),
        hardware: Hardware {
            machine: "pc-q35-10.0".to_owned(),
            cpu_model: "Nehalem".to_owned(),
            accelerator: Accelerator::Tcg,
            vcpus: 1,
            memory_bytes: 1 << 28,
            topology: 1,
            command_line: String::new(),
        },
        disk_bytes: 1 << 20,
        estimate_bytes: 200_000,
    })
}

impl World {
    /// The VM runs on node 0.
    pub fn new(seed: u64, count: usize) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            log: Vec::new(),
            badness: Badness::default(),
            kill_at: None,
            cut_at: None,
            effects: 0,
            words: 0,
            events: Vec::new(),
            trust_the_operator: false,
            nodes: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            transit: BTreeMap::new(),
            next: 0,
            cut: BTreeSet::new(),
            acknowledged: 0,
            contents: BTreeMap::new(),
        };
        for node in 0..count {
            let record = if node == 0 { Record::started() } else { Record::unknown() };
            let vm = (node == 0).then_some(Vm { version: 0, runs: true });
            let disk = (node == 0).then(|| record.clone());
            let core = Some(Core::new(id(node), LIMITS, record));
            world.nodes.push(Node { core, life: 0, disk, vm, loaded: None });
        }
        world
    }

    pub fn places(&self) -> Vec<Place> {
        let place = |node: &Node| node.disk.as_ref().map_or(Place::Unknown, |record| record.place);
        self.nodes.iter().map(place).collect()
    }

    pub fn running(&self) -> Vec<usize> {
        let runs = |node: &Node| node.vm.is_some_and(|vm| vm.runs);
        (0..self.nodes.len()).filter(|node| runs(&self.nodes[*node])).collect()
    }

    pub fn unreleased(&self) -> usize {
        self.nodes.iter().filter_map(|node| node.disk.as_ref()).map(|record| record.accepted.len()).sum()
    }

    /// Runs until `until`.
    pub fn run(&mut self, until: Duration) {
        loop {
            let wake = |node: &Node| node.core.as_ref().and_then(Core::next_wakeup);
            let tick = (0..self.nodes.len()).filter_map(|node| Some((wake(&self.nodes[node])?, node))).min();
            let arrival = self.queue.peek().map(|Reverse((at, _))| *at);
            let next = [tick.map(|(at, _)| at), arrival].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            self.write();
            if arrival == Some(next) {
                self.arrive();
            } else if let Some((_, node)) = tick {
                self.input(node, Input::Tick);
            }
        }
        self.now = until;
        self.write();
    }

    /// Clients write to whatever runs.
    fn write(&mut self) {
        for node in self.running() {
            let vm = self.nodes[node].vm.as_mut().unwrap();
            vm.version += 1;
            self.acknowledged = vm.version;
        }
    }

    fn arrive(&mut self) {
        let Reverse((_, key)) = self.queue.pop().unwrap();
        match self.transit.remove(&key).unwrap() {
            Transit::Word { from, to, message } if !self.is_cut(from, to) => {
                self.input(to, Input::Said(id(from), message));
            }
            Transit::Word { .. } => {}
            Transit::Answer { node, life, input } if self.nodes[node].life == life => self.input(node, input),
            Transit::Answer { .. } => {}
            Transit::Restart { node } => self.restart(node),
            Transit::Heal { pair } => {
                self.cut.remove(&pair);
            }
        }
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub fn cut(&mut self, a: usize, b: usize, length: Duration) {
        self.note(format!("cut {a}-{b} for {length:?}"));
        let pair = (a.min(b), a.max(b));
        self.cut.insert(pair);
        self.later(length, Transit::Heal { pair });
    }

    fn later(&mut self, after: Duration, what: Transit) {
        self.queue.push(Reverse((self.now + after, self.next)));
        self.transit.insert(self.next, what);
        self.next += 1;
    }

    fn note(&mut self, line: String) {
        self.log.push(format!("{:>9.3} {line}", self.now.as_secs_f64()));
    }

    pub fn start(&mut self, node: usize, to: usize) {
        let attempt = self.rng.random();
        self.input(node, Input::Start { to: id(to), attempt, offer: offer() });
    }

    /// Who owns it says so in its advert, and one node happens to read it.
    pub fn advert(&mut self, owner: usize, reader: usize) {
        let said = self.nodes[owner].core.as_ref().and_then(Core::advertised_epoch);
        if let Some(epoch) = said {
            self.input(reader, Input::OwnedBy { node: id(owner), epoch });
        }
    }

    pub fn input(&mut self, node: usize, input: Input) {
        let now = self.now;
        let Some(core) = &mut self.nodes[node].core else { return };
        let line = format!("{node} <- {input:?}");
        let effects = core.handle(now, input);
        if !line.ends_with("Tick") {
            self.note(line);
        }
        self.perform(node, effects);
    }

    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            let kill = self.rng.random_bool(self.badness.kill) || self.kill_at == Some(self.effects);
            self.effects += 1;
            if kill {
                return self.kill(node);
            }
            self.note(format!("{node} -> {effect:?}"));
            self.effect(node, effect);
            let running = self.running();
            assert!(running.len() <= 1 || self.trust_the_operator, "two copies run, on {running:?}");
        }
    }

    /// The process dies; its VMs live on.
    pub fn kill(&mut self, node: usize) {
        self.note(format!("{node} is killed"));
        self.nodes[node].core = None;
        self.nodes[node].life += 1;
        let after = Duration::from_millis(self.rng.random_range(10..8000));
        self.later(after, Transit::Restart { node });
    }

    /// The machine dies; its VMs with it.
    pub fn power_off(&mut self, node: usize) {
        self.nodes[node].vm = None;
        self.nodes[node].loaded = None;
        self.kill(node);
    }

    fn restart(&mut self, node: usize) {
        if self.nodes[node].core.is_some() {
            return;
        }
        let record = self.nodes[node].disk.clone().unwrap_or_else(Record::unknown);
        let place = record.place;
        let here = &mut self.nodes[node];
        // What was committed to us but not begun is the VM now; what was not committed goes.
        match (here.loaded.take(), place) {
            (Some((_, vm)), Place::Owner { .. }) if here.vm.is_none() => here.vm = Some(vm),
            _ => {}
        }
        let copy = match here.vm {
            None => Copy::None,
            Some(Vm { runs: false, .. }) => Copy::Paused,
            Some(Vm { runs: true, .. }) => Copy::Running,
        };
        let (core, effects) = Core::restore(id(node), LIMITS, record, copy, self.now);
        here.core = Some(core);
        self.note(format!("{node} restarts as {place:?} with {copy:?}"));
        self.perform(node, effects);
    }

    fn effect(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Persist(record) => self.nodes[node].disk = record,
            Effect::Send(to, message) => self.send(node, index(to), message),
            Effect::Reserve { attempt, .. } => {
                let grant = self.rng.random();
                let bad = Input::NotReserved { attempt, why: "no room".to_owned() };
                self.answer(node, Input::Reserved { attempt, grant }, bad);
            }
            Effect::Precopy { grant, .. } => {
                self.answer(node, Input::Freezable { grant }, not_sent(grant));
            }
            Effect::Freeze { grant } => {
                let vm = self.nodes[node].vm.as_mut().expect("an owner has the VM");
                vm.runs = false;
                let digest = Digest::of(&vm.version.to_be_bytes());
                self.contents.insert(*digest.as_bytes(), vm.version);
                self.answer(node, Input::Sent { grant, digest }, not_sent(grant));
            }
            Effect::Verify { grant, digest } => {
                let version = self.contents[digest.as_bytes()];
                self.nodes[node].loaded = Some((grant, Vm { version, runs: false }));
                let bad = Input::NotVerified { grant, why: "a page differs".to_owned() };
                self.answer(node, Input::Verified { grant }, bad);
            }
            Effect::Run => self.begin(node),
            Effect::Resume => {
                if self.nodes[node].vm.is_some() {
                    self.wake(node);
                }
            }
            Effect::Discard => self.nodes[node].vm = None,
            Effect::Fence => self.nodes[node].vm.as_mut().unwrap().runs = false,
            Effect::Drop { grant } => {
                self.nodes[node].loaded.take_if(|(loaded, _)| *loaded == grant);
            }
            Effect::Stop { .. } => {}
            Effect::Tell(event) => self.events.push((node, event)),
        }
    }

    fn begin(&mut self, node: usize) {
        if self.rng.random_bool(self.badness.fail) {
            let input = Input::NotRan { why: "QEMU says no".to_owned() };
            return self.answer(node, input.clone(), input);
        }
        assert!(self.nodes[node].vm.is_none(), "an old copy is in the way");
        self.nodes[node].vm = self.nodes[node].loaded.take().map(|(_, vm)| vm);
        assert!(self.nodes[node].vm.is_some(), "nothing is loaded");
        self.wake(node);
        self.answer(node, Input::Ran, Input::Ran);
    }

    fn wake(&mut self, node: usize) {
        let vm = self.nodes[node].vm.as_mut().unwrap();
        assert!(vm.version == self.acknowledged || self.trust_the_operator, "an acknowledged write is lost");
        vm.runs = true;
    }

    fn answer(&mut self, node: usize, good: Input, bad: Input) {
        let input = if self.rng.random_bool(self.badness.fail) { bad } else { good };
        let after = Duration::from_millis(self.rng.random_range(1..1500));
        let life = self.nodes[node].life;
        self.later(after, Transit::Answer { node, life, input });
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if let Some((_, length)) = self.cut_at.filter(|(at, _)| *at == self.words) {
            self.cut(from, to, length);
        }
        self.words += 1;
        let copies = match self.rng.random::<f64>() {
            dice if dice < self.badness.loss => 0,
            dice if dice < self.badness.loss + self.badness.twice => 2,
            _ => 1,
        };
        for _ in 0..copies {
            // Some stay on the way for longer than anything else lasts.
            let late = self.badness.twice > 0.0 && self.rng.random_bool(0.02);
            let most = if late { 100_000 } else { 400 };
            let after = Duration::from_millis(self.rng.random_range(1..most));
            self.later(after, Transit::Word { from, to, message: message.clone() });
        }
    }

    /// An evil minute: operators, cuts and kills by chance.
    pub fn disturb(&mut self) {
        let nodes = self.nodes.len();
        let (a, b) = (self.rng.random_range(0..nodes), self.rng.random_range(0..nodes));
        match self.rng.random_range(0..10) {
            0..=3 => self.start(a, b),
            4 => {
                self.start(a, b);
                self.start(a, (b + 1) % nodes);
            }
            5 => self.input(a, Input::Cancel),
            6 | 7 if a != b => {
                let length = Duration::from_millis(self.rng.random_range(100..60_000));
                self.cut(a, b, length);
            }
            8 => self.kill(a),
            _ => self.advert(a, b),
        }
        let pause = Duration::from_millis(self.rng.random_range(10..4000));
        self.run(self.now + pause);
    }

    /// From now on nothing bad happens.
    pub fn heal(&mut self) {
        self.note("all is well from here".to_owned());
        self.badness = Badness::default();
        self.cut.clear();
        for node in 0..self.nodes.len() {
            self.restart(node);
        }
    }
}

fn not_sent(grant: Grant) -> Input {
    Input::NotSent { grant, why: "the link is cut".to_owned() }
}
