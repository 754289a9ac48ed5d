//! The owner: one task that holds the core and the swarm.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, mdns};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::behaviour::{self, All, AllEvent, MAX_NOTICE_BYTES, ProvenEvent};
use super::gate::Told;
use super::hail::{Call, Sockets};
use super::handle::{Ask, Counts, Handle, Notice};
use super::io::{FromLink, Link};
use super::link::Opened;
use super::peers::{is_quic, key_of, peer_of, port, worth_telling};
use super::{Config, Error};
use crate::NodeId;
use crate::advert::Advert;
use crate::membership::{Core, Effect, Event, Frame, Input, Members, Now, Target, Verifier, Why};
use crate::wire::frame;

/// Requests that wait for the owner. It answers in microseconds; more than this means that it hangs.
const ASKS: usize = 64;
/// Frames that wait for the owner. A neighbour that is faster waits on its stream, which slows it down.
const FROM_LINKS: usize = 256;
/// Frames that wait for one link. A first exchange of a large mesh is about a hundred frames; a link that is this far
/// behind is dead and is closed.
const TO_LINK: usize = 512;
/// Events that a slow watcher may be behind.
const EVENTS: usize = 1024;
/// How often interfaces are looked at. A contact over a new one is to be used within 5 s.
const INTERFACES_EVERY: Duration = Duration::from_secs(2);
/// Notices that one node may send at once, and per second. A guess.
const NOTICES_AT_ONCE: f64 = 50.0;
const NOTICES_PER_S: f64 = 10.0;
/// Notices beyond that after which a neighbour is cut that keeps bringing them.
const MAX_NOTICE_STRIKES: u32 = 200;

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

/// One connection with its link.
struct Connection {
    peer: PeerId,
    node: Option<NodeId>,
    is_dialer: bool,
    up_since: Option<Duration>,
    to_peer: mpsc::Sender<Vec<u8>>,
}

struct Owner {
    core: Core,
    swarm: Swarm<All>,
    topic: IdentTopic,
    started: Instant,
    proof_timeout: Duration,
    block_for: Duration,
    asks: mpsc::Receiver<Ask>,
    from_links: mpsc::Receiver<FromLink>,
    to_owner: mpsc::Sender<FromLink>,
    members: watch::Sender<Arc<Members>>,
    events: broadcast::Sender<Event>,
    notices: broadcast::Sender<Notice>,
    counts: Arc<Counts>,
    sockets: Option<Sockets>,
    connections: HashMap<ConnectionId, Connection>,
    links: BTreeMap<NodeId, ConnectionId>,
    /// Peers that are kept out, and until when.
    blocked: HashMap<PeerId, Duration>,
    dials: HashMap<ConnectionId, Target>,
    listening: Vec<Multiaddr>,
    wait_for_addresses: Vec<oneshot::Sender<Vec<Multiaddr>>>,
    notice_budget: HashMap<PeerId, (f64, Duration)>,
    notice_strikes: HashMap<PeerId, u32>,
    is_ending: Option<(Duration, Vec<oneshot::Sender<()>>)>,
    members_changed: bool,
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
    fn now(&self) -> Now {
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
    fn step(&mut self, input: Input) {
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

    fn announce(&mut self, bytes: Vec<u8>) -> bool {
        if bytes.len() > MAX_NOTICE_BYTES {
            return false;
        }
        let gossip = &mut self.swarm.behaviour_mut().proven.inner().gossip;
        gossip.publish(self.topic.clone(), bytes).is_ok()
    }

    fn link_said(&mut self, said: FromLink) {
        match said {
            FromLink::Hello { connection, peer, certificate, is_good } => {
                let now = self.now();
                let proof = match key_of(&peer) {
                    Some(key) => {
                        self.core.prove(now, key, &certificate).map_err(|refused| refused.to_string())
                    }
                    None => Err("its key is not Ed25519".to_owned()),
                };
                match &proof {
                    Ok(proof) => {
                        if let Some(known) = self.connections.get_mut(&connection) {
                            known.node = Some(proof.node);
                        }
                        self.swarm.behaviour_mut().limits.bypass_peer_id(&peer);
                    }
                    Err(reason) => tracing::info!(%peer, reason, "a peer was refused"),
                }
                // The link has ended meanwhile: fine.
                let _ = is_good.send(proof.is_ok());
            }
            FromLink::Up { connection, peer, is_dialer, rtt } => {
                self.link_up(connection, peer, is_dialer, rtt)
            }
            FromLink::Frame { connection, frame, bytes } => {
                self.counts.frames_received.fetch_add(1, Ordering::Relaxed);
                self.counts.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
                if frame == Frame::Ready {
                    self.swarm.behaviour_mut().proven.go(connection);
                    return;
                }
                let node = self.connections.get(&connection).and_then(|known| known.node);
                if let Some(from) = node.filter(|node| self.links.get(node) == Some(&connection)) {
                    // Whatever else changes members is told by an event.
                    self.members_changed |= matches!(frame, Frame::Adverts(_) | Frame::Beat { .. });
                    self.step(Input::Frame { from, frame, bytes });
                }
            }
            FromLink::Down { connection, is_offence } => {
                if let Some(peer) = self.connections.get(&connection).map(|known| known.peer)
                    && is_offence
                {
                    self.block(peer);
                }
                self.gone(connection);
                self.swarm.close_connection(connection);
            }
        }
    }

    fn link_up(&mut self, connection: ConnectionId, peer: PeerId, is_dialer: bool, rtt: Option<Duration>) {
        let now = self.now().boot;
        let Some(node) = self.connections.get(&connection).and_then(|known| known.node) else { return };
        if let Some(old) = self.links.get(&node).copied()
            && let Some(known) = self.connections.get(&old)
        {
            // Both sides dialled at once: the connection of the smaller id stays. A link that had been up for a while
            // is dead at the other end, or the peer would not have dialled.
            let is_fresh = known.up_since.is_some_and(|up| now.saturating_sub(up) < Duration::from_secs(2));
            let own = *self.swarm.local_peer_id();
            let old_stays = is_fresh && known.is_dialer != is_dialer && known.is_dialer == (own < peer);
            let loser = if old_stays { connection } else { old };
            self.hang_up(loser);
            if old_stays {
                return;
            }
        }
        if !self.swarm.behaviour_mut().proven.open(connection) {
            self.swarm.close_connection(connection);
            return;
        }
        self.swarm.behaviour_mut().proven.inner().gossip.add_explicit_peer(&peer);
        if let Some(known) = self.connections.get_mut(&connection) {
            known.up_since = Some(now);
        }
        self.links.insert(node, connection);
        let rendezvous = match self.dials.remove(&connection) {
            Some(Target::Rendezvous(address)) => Some(address),
            _ => None,
        };
        self.step(Input::LinkUp { node, rendezvous, rtt });
    }

    /// Ends a link after what was sent; the task then reports that it is down.
    fn hang_up(&mut self, connection: ConnectionId) {
        if let Some(known) = self.connections.get_mut(&connection) {
            let (closed, _) = mpsc::channel(1);
            known.to_peer = closed;
        }
    }

    /// A connection has no link any more.
    fn gone(&mut self, connection: ConnectionId) {
        let Some(known) = self.connections.remove(&connection) else { return };
        let Some(node) = known.node else { return };
        if self.links.get(&node) == Some(&connection) {
            self.links.remove(&node);
            self.swarm.behaviour_mut().proven.inner().gossip.remove_explicit_peer(&known.peer);
            self.step(Input::LinkDown(node));
        }
    }

    fn send(&mut self, node: NodeId, frame: &Frame) {
        if let Some(connection) = self.links.get(&node).copied() {
            self.write(connection, frame);
        }
    }

    fn write(&mut self, connection: ConnectionId, frame: &Frame) {
        let bytes = match frame::encode(frame) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "a frame cannot be sent");
                return;
            }
        };
        self.counts.frames_sent.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes_sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let Some(known) = self.connections.get(&connection) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = known.to_peer.try_send(bytes) {
            tracing::debug!(peer = %known.peer, "a link is too far behind");
            self.swarm.close_connection(connection);
        }
    }

    fn close(&mut self, node: NodeId, why: Why) {
        let Some(connection) = self.links.remove(&node) else { return };
        let Some(peer) = self.connections.get(&connection).map(|known| known.peer) else { return };
        self.swarm.behaviour_mut().proven.inner().gossip.remove_explicit_peer(&peer);
        match why {
            Why::Crowded | Why::Leaving | Why::TheyLeft => self.hang_up(connection),
            Why::Silent => {
                self.swarm.close_connection(connection);
            }
            Why::Revoked | Why::Offence => {
                self.block(peer);
                self.swarm.close_connection(connection);
            }
        }
    }

    /// Cuts a peer and keeps it out for a while.
    fn block(&mut self, peer: PeerId) {
        self.counts.peers_cut.fetch_add(1, Ordering::Relaxed);
        self.blocked.insert(peer, self.now().boot + self.block_for);
        self.swarm.behaviour_mut().blocked.block_peer(peer);
        self.swarm.behaviour_mut().limits.remove_peer_id(&peer);
    }

    fn dial(&mut self, target: Target) {
        let opts = match &target {
            Target::Node { key, addresses } => {
                let mut addresses: Vec<Multiaddr> =
                    addresses.iter().filter_map(|address| address.parse().ok()).collect();
                addresses.sort_by_key(|address| !is_quic(address));
                let quic = addresses.iter().filter(|address| is_quic(address)).count().clamp(1, 4);
                let at_once = u8::try_from(quic).ok().and_then(std::num::NonZeroU8::new);
                peer_of(key).map(|peer| {
                    let opts = DialOpts::peer_id(peer).addresses(addresses);
                    // TCP is tried when QUIC has failed, not beside it.
                    opts.override_dial_concurrency_factor(at_once.unwrap_or(std::num::NonZeroU8::MIN)).build()
                })
            }
            Target::Rendezvous(address) => address
                .parse::<Multiaddr>()
                .ok()
                .map(|address| DialOpts::unknown_peer_id().address(address).build()),
        };
        let Some(opts) = opts else { return self.step(Input::DialFailed(target)) };
        let connection = opts.connection_id();
        self.dials.insert(connection, target.clone());
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%error, "cannot dial");
            if self.dials.remove(&connection).is_some() {
                self.step(Input::DialFailed(target));
            }
        }
    }

    fn hail(&mut self, digest: u32) {
        let Some(key) = key_of(self.swarm.local_peer_id()) else { return };
        let call = Call {
            key,
            digest,
            quic_port: port(&self.listening, true),
            tcp_port: port(&self.listening, false),
        };
        if let Some(sockets) = &self.sockets
            && !self.listening.is_empty()
        {
            sockets.call(&call);
        }
    }

    fn heard(&mut self, heard: std::io::Result<(Call, std::net::IpAddr)>) {
        match heard {
            Ok((call, from)) => {
                let addresses = call.addresses(from);
                self.step(Input::Sighted { key: call.key, addresses, digest: call.digest });
            }
            Err(error) => tracing::debug!(%error, "cannot hear the local network"),
        }
    }

    /// Looks at interfaces and lets peers in again whose time is up.
    fn every_while(&mut self) {
        let now = self.now().boot;
        if let Some(sockets) = &mut self.sockets
            && sockets.follow_interfaces()
        {
            tracing::debug!("interfaces changed");
        }
        let over: Vec<PeerId> =
            self.blocked.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        for peer in over {
            self.blocked.remove(&peer);
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
        self.notice_budget.retain(|_, (_, at)| now.saturating_sub(*at) < Duration::from_secs(60));
        if self.notice_budget.is_empty() {
            self.notice_strikes.clear();
        }
    }

    fn swarm_event(&mut self, event: SwarmEvent<AllEvent>) {
        match event {
            SwarmEvent::Behaviour(AllEvent::Link(opened)) => self.opened(opened),
            SwarmEvent::Behaviour(AllEvent::Proven(Told::Answering(connection))) => {
                self.write(connection, &Frame::Ready);
            }
            SwarmEvent::Behaviour(AllEvent::Proven(Told::Inner(ProvenEvent::Gossip(
                gossipsub::Event::Message { propagation_source, message_id, message },
            )))) => {
                let acceptance = self.notice(propagation_source, &message);
                let gossip = &mut self.swarm.behaviour_mut().proven.inner().gossip;
                gossip.report_message_validation_result(&message_id, &propagation_source, acceptance);
            }
            SwarmEvent::Behaviour(AllEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, address) in found {
                    if let Some(key) = key_of(&peer) {
                        self.step(Input::Sighted { key, addresses: vec![address.to_string()], digest: 0 });
                    }
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.dials.remove(&connection_id);
                self.gone(connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                tracing::debug!(%error, "a dial failed");
                if let Some(target) = self.dials.remove(&connection_id) {
                    self.step(Input::DialFailed(target));
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.listening.push(address);
                self.addresses_changed();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.retain(|other| *other != address);
                self.addresses_changed();
            }
            _ => {}
        }
    }

    fn addresses_changed(&mut self) {
        for waiting in self.wait_for_addresses.drain(..) {
            let _ = waiting.send(self.listening.clone());
        }
        self.step(Input::Addresses(worth_telling(&self.listening)));
    }

    fn opened(&mut self, opened: Opened) {
        let Opened { peer, connection, is_dialer, stream } = opened;
        let Some(stream) = stream else {
            self.swarm.close_connection(connection);
            return;
        };
        let (to_peer, from_owner) = mpsc::channel(TO_LINK);
        let known = Connection { peer, node: None, is_dialer, up_since: None, to_peer };
        self.connections.insert(connection, known);
        let link = Link {
            connection,
            peer,
            is_dialer,
            certificate: self.core.certificate().to_vec(),
            proof_timeout: self.proof_timeout,
            to_owner: self.to_owner.clone(),
            to_peer: from_owner,
        };
        tokio::spawn(link.run(stream));
    }

    /// Judges a notice.
    fn notice(&mut self, from: PeerId, message: &gossipsub::Message) -> MessageAcceptance {
        let Some(author) = message.source else { return MessageAcceptance::Reject };
        let key = key_of(&author);
        let known = self.core.members().into_iter().find(|(_, member)| Some(member.key) == key);
        let Some((node, _)) = known else { return MessageAcceptance::Ignore };
        if !self.may_notice(author) {
            let strikes = self.notice_strikes.entry(from).or_default();
            *strikes += 1;
            if *strikes > MAX_NOTICE_STRIKES && from == author {
                let node = self.links.iter().find(|(_, connection)| {
                    self.connections.get(*connection).is_some_and(|known| known.peer == from)
                });
                if let Some(node) = node.map(|(node, _)| *node) {
                    self.step(Input::Offence(node));
                }
            }
            return MessageAcceptance::Ignore;
        }
        self.counts.notices.fetch_add(1, Ordering::Relaxed);
        // Nobody listens: fine.
        let _ = self.notices.send(Notice { from: node, bytes: Arc::from(message.data.as_slice()) });
        MessageAcceptance::Accept
    }

    fn may_notice(&mut self, author: PeerId) -> bool {
        let now = self.now().boot;
        let (tokens, at) = self.notice_budget.entry(author).or_insert((NOTICES_AT_ONCE, now));
        *tokens = (*tokens + now.saturating_sub(*at).as_secs_f64() * NOTICES_PER_S).min(NOTICES_AT_ONCE);
        *at = now;
        let is_within = *tokens >= 1.0;
        if is_within {
            *tokens -= 1.0;
        }
        is_within
    }
}
