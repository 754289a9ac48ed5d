//! The blocks of one image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use mesh::NodeId;
use mesh::exchange::Plan;
use mesh::exchange::plan::{Effect, Input, TICK, Verdict};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use vm_images::ImageId;
use vm_images::store::{self, Incoming};

use super::super::error::Error;
use super::super::layout::Layout;
use super::super::link::{Event, Link, What};
use super::super::progress::Phase;
use super::super::{Shared, keeper};
use super::{Fetch, blocking};

/// What must stay free beside the image, bytes: instances that run need some. A guess.
const MARGIN_BYTES: u64 = 64 * 1024 * 1024;
/// Blocks between the links and the keeper, and news on the way back: a few for each peer, so that a link is read
/// while another block is checked. 64 blocks are 4 MiB, the most that one peer has in flight.
const QUEUE: usize = 64;
/// How often people are told, in ticks: ten times a second.
const TELL_EVERY: u32 = 5;

/// What was found when a fetch began.
struct Found {
    incoming: Incoming,
    layout: Layout,
    here: BTreeSet<u32>,
    reused_bytes: u64,
}

impl Fetch {
    /// Gets every block that is not here.
    pub(super) async fn blocks(&mut self, incoming: Incoming) -> Result<Incoming, Error> {
        let Found { incoming, layout, here, reused_bytes } =
            blocking(move || find(incoming)).await?.map_err(Error::Store)?;
        let lengths = layout.lengths();
        let here_bytes: u64 = here.iter().map(|block| u64::from(lengths[*block as usize])).sum();
        self.say(|progress| {
            progress.here_bytes = here_bytes;
            progress.reused_bytes += reused_bytes;
        });
        let plan = Plan::new(self.shared.config.plan, lengths.clone(), &here);
        if plan.is_done() {
            return Ok(incoming);
        }
        let missing_bytes = lengths.iter().map(|length| u64::from(*length)).sum::<u64>() - here_bytes;
        incoming.require_space(missing_bytes + MARGIN_BYTES).map_err(Error::Store)?;
        self.say(|progress| progress.phase = Phase::Fetching);

        let layout = Arc::new(layout);
        let image = incoming.id();
        let (parcels, inbox) = mpsc::channel(QUEUE);
        let (events, news) = mpsc::channel(QUEUE);
        let keeping = {
            let (layout, events) = (Arc::clone(&layout), events.clone());
            tokio::task::spawn_blocking(move || keeper::run(incoming, &layout, inbox, &events))
        };
        let spawner = Spawner { shared: Arc::clone(&self.shared), image, layout, parcels, events };
        let mut session = Session {
            plan,
            lengths,
            spawner,
            links: BTreeMap::new(),
            tasks: JoinSet::new(),
            count: 0,
            at: Duration::ZERO,
            out: Vec::new(),
        };
        let ended = session.run(self, news).await;
        // Without senders the keeper ends, and gives back what it kept.
        drop(session);
        let incoming = keeping.await.map_err(Error::Panicked)?;
        ended?;
        incoming.map_err(|source| {
            Error::Store(store::Error::File {
                action: "unpack",
                path: self.shared.store.root().into(),
                source,
            })
        })
    }
}

/// Looks what is here: in the files of an earlier try, and in other images of the store.
fn find(mut incoming: Incoming) -> Result<Found, store::Error> {
    let mut layout = Layout::default();
    let mut here = BTreeSet::new();
    let mut reused_bytes = 0;
    for part in incoming.manifest().parts.clone() {
        let Some(tree) = incoming.tree(part.role).cloned() else { continue };
        let cut = tree.cut();
        let source = vm_images::blocks::Error::TooLong { bytes: part.bytes };
        let too_long = store::Error::Blocks { image: incoming.label(), role: part.role, source };
        layout.push(part.role, cut).ok_or(too_long)?;
        let flat = |block| layout.flat(part.role, block);
        let mut blocks = incoming.scan(part.role)?;
        if blocks.contains(&false) {
            for (image, other) in incoming.relatives(part.role)? {
                let Ok(file) = image.path(part.role).map(File::open) else { continue };
                let Ok(file) = file else { continue };
                for (block, is_here) in blocks.iter_mut().enumerate() {
                    let block = block as u32;
                    if !*is_here && other.value(block) == tree.value(block) {
                        *is_here = incoming.copy_block(part.role, block, &file)?;
                        reused_bytes += if *is_here { u64::from(cut.len(block)) } else { 0 };
                    }
                }
            }
        }
        let found = (0..cut.count()).filter(|block| blocks[*block as usize]);
        here.extend(found.filter_map(flat));
    }
    Ok(Found { incoming, layout, here, reused_bytes })
}

/// Makes links.
struct Spawner {
    shared: Arc<Shared>,
    image: ImageId,
    layout: Arc<Layout>,
    parcels: mpsc::Sender<super::super::link::Parcel>,
    events: mpsc::Sender<Event>,
}

struct Session {
    plan: Plan,
    lengths: Vec<u32>,
    spawner: Spawner,
    links: BTreeMap<NodeId, Attached>,
    /// Ends them all when dropped.
    tasks: JoinSet<()>,
    count: u64,
    /// The plan's time.
    at: Duration,
    out: Vec<Effect>,
}

struct Attached {
    link: u64,
    orders: mpsc::Sender<Vec<u32>>,
    task: AbortHandle,
}

impl Session {
    async fn run(&mut self, fetch: &mut Fetch, mut news: mpsc::Receiver<Event>) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count = 0_u32;
        let mut holders = BTreeSet::new();
        while !self.plan.is_done() {
            tokio::select! {
                _ = ticks.tick() => {
                    if count.is_multiple_of(TELL_EVERY) {
                        let now = fetch.holders();
                        if now != holders {
                            holders = now.clone();
                            self.step(fetch, Input::Holders(now));
                        }
                        self.tell(fetch);
                        fetch.check_patience()?;
                    }
                    count = count.wrapping_add(1);
                    while self.tasks.try_join_next().is_some() {}
                    let (share_permille, is_open) = fetch.shared.throttle.fetching();
                    self.step(fetch, Input::Allowed { share_permille, is_open });
                    self.step(fetch, Input::Tick);
                }
                Some(event) = news.recv() => {
                    self.take(fetch, event)?;
                    // Several may be waiting; sharing out once for all of them is enough.
                    for _ in 0..QUEUE {
                        let Ok(event) = news.try_recv() else { break };
                        self.take(fetch, event)?;
                    }
                    let (share_permille, is_open) = fetch.shared.throttle.fetching();
                    self.step(fetch, Input::Allowed { share_permille, is_open });
                    self.step(fetch, Input::Tick);
                }
            }
        }
        self.tell(fetch);
        for (node, rate) in self.plan.rates() {
            if let Some(bytes_per_s) = rate {
                fetch.shared.peers.measured(node, bytes_per_s);
            }
        }
        Ok(())
    }

    fn take(&mut self, fetch: &mut Fetch, event: Event) -> Result<(), Error> {
        let Event { node, link, what } = event;
        let is_current = self.links.get(&node).is_some_and(|attached| attached.link == link);
        match what {
            What::Store(error) => return Err(Error::Store(error)),
            // Of use whoever sent it, and whenever; but only what comes from the stream of now says how fast it is.
            What::Kept { flat, wire_bytes, at } => {
                fetch.fed(node, wire_bytes);
                let length = u64::from(self.lengths[flat as usize]);
                let is_new = !self.plan.has(flat);
                if is_current {
                    self.step_at(fetch, at, Input::Arrived { peer: node, block: flat, wire_bytes });
                }
                // Its stream may have ended meanwhile.
                self.step_at(fetch, at, Input::Here(flat));
                if is_new {
                    fetch.say(|progress| progress.here_bytes += length);
                }
            }
            _ if !is_current => {}
            What::Connected => drop(self.step(fetch, Input::Connected(node))),
            What::Heard => {
                fetch.fed_at = fetch.clock.now();
                self.step(fetch, Input::Heard(node));
            }
            What::Wrong => {
                fetch.shared.mark_liar(node, &"a block that is not that of the image");
                self.step(fetch, Input::Lied(node));
            }
            What::Lost(error) => {
                fetch.note(node, &error);
                self.links.remove(&node);
                let input = if error.is_lie() { Input::Lied(node) } else { Input::Lost(node) };
                self.step(fetch, input);
            }
        }
        Ok(())
    }

    fn step(&mut self, fetch: &Fetch, input: Input) -> Verdict {
        let now = fetch.clock.now();
        self.step_at(fetch, now, input)
    }

    fn step_at(&mut self, fetch: &Fetch, at: Duration, input: Input) -> Verdict {
        // A block is told of after it was written, but with the time at which it came.
        self.at = self.at.max(at);
        let verdict = self.plan.step(self.at, input, &mut self.out);
        while !self.out.is_empty() {
            for effect in std::mem::take(&mut self.out) {
                self.perform(fetch, effect);
            }
        }
        verdict
    }

    fn perform(&mut self, fetch: &Fetch, effect: Effect) {
        match effect {
            Effect::Connect(node) => {
                self.count += 1;
                // The plan asks for at most `MAX_BLOCKS_ASKED` at a time and only for what has room in the window.
                let (orders, inbox) = mpsc::channel(QUEUE);
                let spawner = &self.spawner;
                let link = Link {
                    node,
                    link: self.count,
                    image: spawner.image,
                    layout: Arc::clone(&spawner.layout),
                    clock: fetch.clock,
                    events: spawner.events.clone(),
                    parcels: spawner.parcels.clone(),
                };
                let task = self.tasks.spawn(link.run(Arc::clone(&spawner.shared), inbox));
                self.links.insert(node, Attached { link: self.count, orders, task });
            }
            Effect::Ask { peer, blocks } => {
                let sent = self.links.get(&peer).is_some_and(|link| link.orders.try_send(blocks).is_ok());
                if !sent {
                    // It takes no orders: as good as gone.
                    self.detach(peer);
                    self.plan.step(fetch.clock.now(), Input::Lost(peer), &mut self.out);
                }
            }
            Effect::Hang(peer) => self.detach(peer),
        }
    }

    fn detach(&mut self, node: NodeId) {
        if let Some(attached) = self.links.remove(&node) {
            attached.task.abort();
        }
    }

    fn tell(&self, fetch: &Fetch) {
        let peers = self.plan.rates().len();
        let phase = if peers == 0 { Phase::Waiting } else { Phase::Fetching };
        fetch.progress.send_if_modified(|progress| {
            let is_new = progress.peers != peers || progress.phase != phase;
            (progress.peers, progress.phase) = (peers, phase);
            is_new
        });
    }
}
