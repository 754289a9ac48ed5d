//! The owner: one task that holds the core and the swarm.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use libp2p::gossipsub::IdentTopic;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::behaviour::{self, All};
use super::hail::Sockets;
use super::handle::{Ask, Counts, Handle, Notice};
use super::io::FromLink;
use super::links::Connection;
use super::{Config, Error};
use crate::NodeId;
use crate::advert::Advert;
use crate::membership::{Core, Effect, Event, Input, Members, Now, Target, Verifier};

/// Requests that wait for the owner. It answers in microseconds; more than this means that it hangs.
const ASKS: usize = 64;
/// Frames that wait for the owner. A neighbour that is faster waits on its stream, which slows it down.
const FROM_LINKS: usize = 256;
/// Events that a slow watcher may be behind.
const EVENTS: usize = 1024;
/// How often interfaces are looked at. A contact over a new one is to be used within 5 s.
const INTERFACES_EVERY: Duration = Duration::from_secs(2);

/// The running mesh.
pub struct Running {
    task: JoinHandle<()>,
}

impl Running {
    /// Waits until the mesh has ended; an error is a panic inside it.
    pub async fn ended(self) -> Result<(), tokio::task::JoinError> {
        self.task.await
    }

    /// Ends it at once and without a word, as a crash would.
    pub fn abort(&self) {
        self.task.abort();
    }
}

pub(super) struct Owner {
    pub(super) core: Core,
    pub(super) swarm: Swarm<All>,
    pub(super) topic: IdentTopic,
    pub(super) started: Instant,
    pub(super) proof_timeout: Duration,
    pub(super) block_for: Duration,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) from_links: mpsc::Receiver<FromLink>,
    pub(super) to_owner: mpsc::Sender<FromLink>,
    pub(super) members: watch::Sender<Arc<Members>>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) notices: broadcast::Sender<Notice>,
    pub(super) counts: Arc<Counts>,
    pub(super) sockets: Option<Sockets>,
    pub(super) connections: HashMap<ConnectionId, Connection>,
    pub(super) links: BTreeMap<NodeId, ConnectionId>,
    /// Peers that are kept out, and until when.
    pub(super) blocked: HashMap<PeerId, Duration>,
    pub(super) dials: HashMap<ConnectionId, Target>,
    pub(super) listening: Vec<Multiaddr>,
    pub(super) wait_for_addresses: Vec<oneshot::Sender<Vec<Multiaddr>>>,
    pub(super) notice_budget: HashMap<PeerId, (f64, Duration)>,
    pub(super) notice_strikes: HashMap<PeerId, u32>,
    pub(super) is_ending: Option<(Duration, Vec<oneshot::Sender<()>>)>,
    pub(super) members_changed: bool,
}

/// Starts the mesh. `local` is what the node says of itself at first. Must be called inside a tokio runtime.
pub fn start(config: Config, verifier: Box<dyn Verifier>, local: Advert) -> Result<(Handle, Running), Error> {
    let (mut swarm, topic) = behaviour::swarm(&config)?;
    for address in &config.listen {
        swarm
            .listen_on(address.clone())
            .map_err(|source| Error::Listen { address: address.clone(), source: Box::new(source) })?;
    }
    let sockets = match config.hail {
        None => None,
        Some(hail) => Some(Sockets::open(hail).map_err(|source| Error::Setup {
            what: "calling out on the local network",
            source: Box::new(source),
        })?),
    };
    let mut core_config = config.core;
    core_config.multicast = sockets.is_some();
    let started = clock();
    let node = config.identity.node;
    let now = Now { boot: Duration::ZERO, unix_s: unix_s() };
    let core = Core::new(core_config, config.identity, verifier, config.seed, local, now);
    let (asks_in, asks) = mpsc::channel(ASKS);
    let (to_owner, from_links) = mpsc::channel(FROM_LINKS);
    let (members, members_out) = watch::channel(Arc::new(Members::new()));
    let (events, _) = broadcast::channel(EVENTS);
    let (notices, _) = broadcast::channel(EVENTS);
    let counts = Arc::new(Counts::default());
    let handle = Handle {
        node,
        asks: asks_in,
        members: members_out,
        events: events.clone(),
        notices: notices.clone(),
        counts: Arc::clone(&counts),
        control: swarm.behaviour_mut().proven.inner().streams.new_control(),
    };
    let owner = Owner {
        core,
        swarm,
        topic,
        started,
        proof_timeout: config.proof_timeout,
        block_for: config.block_for,
        asks,
        from_links,
        to_owner,
        members,
        events,
        notices,
        counts,
        sockets,
        connections: HashMap::new(),
        links: BTreeMap::new(),
        blocked: HashMap::new(),
        dials: HashMap::new(),
        listening: Vec::new(),
        wait_for_addresses: Vec::new(),
        notice_budget: HashMap::new(),
        notice_strikes: HashMap::new(),
        is_ending: None,
        members_changed: true,
    };
    Ok((handle, Running { task: tokio::spawn(owner.run()) }))
}

#[expect(clippy::disallowed_methods, reason = "the driver hands the time to the core")]
fn clock() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the driver hands the time to the core")]
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Owner {
    pub(super) fn now(&self) -> Now {
        Now { boot: clock().duration_since(self.started), unix_s: unix_s() }
    }

    async fn run(mut self) {
        let mut interfaces = tokio::time::interval(INTERFACES_EVERY);
        interfaces.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.step(Input::Tick);
        loop {
            let now = self.now().boot;
            if let Some((until, _)) = &self.is_ending
                && (self.connections.is_empty() || *until <= now)
            {
                break;
            }
            let pause = self.core.next_wake().saturating_sub(now).max(Duration::from_millis(1));
            let pause = if self.is_ending.is_some() { Duration::from_millis(20) } else { pause };
            let hears = async {
                match &self.sockets {
                    Some(sockets) => sockets.hear().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    None => break,
                },
                Some(said) = self.from_links.recv() => self.link_said(said),
                event = self.swarm.select_next_some() => self.swarm_event(event),
                heard = hears => self.heard(heard),
                _ = interfaces.tick() => self.every_while(),
                () = tokio::time::sleep(pause) => self.step(Input::Tick),
            }
            if std::mem::take(&mut self.members_changed) {
                self.members.send_replace(Arc::new(self.core.members()));
            }
        }
        if let Some((_, replies)) = self.is_ending.take() {
            for reply in replies {
                // Nobody waits any more: fine.
                let _ = reply.send(());
            }
        }
    }

    /// Lets the core decide, and does what it says.
    pub(super) fn step(&mut self, input: Input) {
        let effects = self.core.step(self.now(), input);
        for effect in effects {
            match effect {
                Effect::Send(node, frame) => self.send(node, &frame),
                Effect::Close(node, why) => self.close(node, why),
                Effect::Dial(target) => self.dial(target),
                Effect::Hail { digest } => self.hail(digest),
                Effect::Event(event) => {
                    self.members_changed = true;
                    // Nobody listens: fine.
                    let _ = self.events.send(event);
                }
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Local(advert) => {
                self.step(Input::Local(advert));
                self.members_changed = true;
            }
            Ask::Rate { node, bytes_per_s } => self.step(Input::Rate { node, bytes_per_s }),
            Ask::Revoke { statement, reply } => {
                self.step(Input::Revoke(statement));
                let _ = reply.send(());
            }
            Ask::Announce { bytes, reply } => {
                let _ = reply.send(self.announce(bytes));
            }
            Ask::Connect { node } => self.step(Input::Connect(node)),
            Ask::Hold { node, is_held } => self.step(Input::Hold { node, is_held }),
            Ask::Neighbours(reply) => {
                let _ = reply.send(self.core.neighbours());
            }
            Ask::Listening(reply) if self.listening.is_empty() => self.wait_for_addresses.push(reply),
            Ask::Listening(reply) => {
                let _ = reply.send(self.listening.clone());
            }
            Ask::Leave(reply) => {
                if self.is_ending.is_none() {
                    self.step(Input::Leave);
                }
                // The neighbours answer a goodbye by closing; who does not is not waited for.
                let until = self.now().boot + Duration::from_secs(1);
                self.is_ending.get_or_insert((until, Vec::new())).1.push(reply);
            }
        }
    }
}
