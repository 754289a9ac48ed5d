//! The core itself: its state, what each input does, and what is due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::graph::{Graph, distances};
use super::link::{Link, Turn};
use super::overlay::Overlay;
use super::store::{Certificate, Entry, first_bytes};
use super::{
    Config, Effect, Event, Frame, Identity, Input, Learnt, Member, Members, Now, Proof, Reach, Refused,
    Verifier, Version, Want, Why,
};
use crate::NodeId;
use crate::advert::{Advert, Presence};

/// How often certificates are looked at again: one may have expired, or the clock been set. A guess.
const RECHECK_EVERY: Duration = Duration::from_secs(60);

/// Membership as one node sees it. See the module.
pub struct Core {
    pub(super) config: Config,
    pub(super) identity: Identity,
    pub(super) verifier: Box<dyn Verifier>,
    pub(super) rng: StdRng,
    pub(super) now: Now,
    pub(super) out: Vec<Effect>,
    pub(super) certificates: BTreeMap<NodeId, Certificate>,
    pub(super) entries: BTreeMap<NodeId, Entry>,
    /// Nodes that were away too long: the state that was forgotten, and until when that is remembered.
    pub(super) forgotten: BTreeMap<NodeId, (Version, Duration)>,
    pub(super) links: BTreeMap<NodeId, Link>,
    /// What this node says of itself as soon as it is due.
    pub(super) local: Advert,
    pub(super) sequence: u64,
    pub(super) publish_at: Option<Duration>,
    pub(super) published_at: Duration,
    /// Neighbours that fell silent, of which nothing was said yet.
    pub(super) silent: BTreeSet<NodeId>,
    /// Nodes of whom a state was asked for: of whom, and until when nobody else is asked.
    pub(super) wanted: BTreeMap<NodeId, (NodeId, Duration)>,
    pub(super) wants: BTreeMap<NodeId, Vec<Want>>,
    pub(super) overlay: Overlay,
    pub(super) graph_is_stale: bool,
    pub(super) changed_at: Duration,
    digest: Option<u64>,
    revocations: u64,
    recheck_at: Duration,
    pub(super) is_leaving: bool,
}

impl Core {
    /// A node alone. `seed` feeds its only generator; `local` is what it says of itself at first.
    pub fn new(
        config: Config,
        identity: Identity,
        verifier: Box<dyn Verifier>,
        seed: u64,
        local: Advert,
        now: Now,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let overlay = Overlay::new(&config, now.boot, &mut rng);
        let revocations = digest_of(&verifier.revocations());
        Self {
            overlay,
            rng,
            now,
            out: Vec::new(),
            certificates: BTreeMap::new(),
            entries: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            links: BTreeMap::new(),
            // The clock makes it likely that the number grows over restarts; nothing depends on it.
            sequence: now.unix_s,
            local,
            publish_at: Some(now.boot),
            published_at: now.boot,
            silent: BTreeSet::new(),
            wanted: BTreeMap::new(),
            wants: BTreeMap::new(),
            graph_is_stale: true,
            changed_at: now.boot,
            digest: None,
            revocations,
            recheck_at: now.boot + RECHECK_EVERY,
            is_leaving: false,
            config,
            identity,
            verifier,
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// The certificate to show to others.
    pub fn certificate(&self) -> &[u8] {
        &self.identity.certificate
    }

    /// Whether a peer that holds the secret of `key` may take part. The driver asks before it reports the link.
    pub fn prove(&mut self, now: Now, key: [u8; 32], certificate: &[u8]) -> Result<Proof, Refused> {
        let proof = self.verifier.verify(certificate, now.unix_s)?;
        if proof.key != key {
            return Err(Refused("the certificate belongs to another key".to_owned()));
        }
        if proof.node == self.identity.node {
            return Err(Refused("the certificate names this node itself".to_owned()));
        }
        self.learn_certificate(certificate, proof);
        Ok(proof)
    }

    /// Takes an input and returns what is to be done.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.now = Now { boot: now.boot.max(self.now.boot), ..now };
        match input {
            Input::LinkUp { node, rendezvous, rtt } => self.link_up(node, rendezvous, rtt),
            Input::LinkDown(node) => self.link_down(node, Why::Silent),
            Input::Frame { from, frame, bytes } => self.frame(from, frame, bytes),
            Input::Local(advert) => self.local = *advert,
            Input::Addresses(addresses) => self.overlay.own_addresses = addresses,
            Input::NewNetwork => self.overlay.call_out(self.now.boot),
            Input::Sighted { key, addresses, digest } => self.sighted(key, addresses, digest),
            Input::DialFailed(target) => self.dial_failed(&target),
            Input::Rate { node, bytes_per_s } => self.rate(node, bytes_per_s),
            Input::Connect(node) => self.connect(node),
            Input::Hold { node, is_held } => self.overlay.hold(node, is_held),
            Input::Offence(node) => {
                if self.links.contains_key(&node) {
                    self.close(node, Why::Offence);
                }
            }
            Input::Revoke(statement) => {
                self.revoke(&statement);
            }
            Input::Leave => self.leave(),
            Input::Tick => {}
        }
        self.settle();
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_wake(&self) -> Duration {
        let mut wake = self.recheck_at.min(self.overlay.check_at);
        let mut sooner = |at: Option<Duration>| wake = at.map_or(wake, |at| wake.min(at));
        sooner(self.publish_at);
        for link in self.links.values() {
            sooner(match link.turn {
                Turn::Ours(at) => Some(at),
                Turn::Theirs => link.asks_at(&self.config).or_else(|| link.deadline(&self.config)),
            });
            sooner(link.flushes_at());
        }
        for asked in self.wants.keys() {
            sooner(self.links.get(asked).map(Link::questions_at));
        }
        wake
    }

    /// Everybody who is known, this node included.
    pub fn members(&self) -> Members {
        let member = |(node, entry): (&NodeId, &Entry)| {
            let key = match self.certificates.get(node) {
                Some(certificate) => certificate.proof.key,
                None => self.identity.key.verifying_key().to_bytes(),
            };
            let advert = Arc::clone(&entry.advert);
            (*node, Member { advert, key, reach: self.reach(*node, entry), heard: entry.heard })
        };
        self.entries.iter().map(member).collect()
    }

    /// The neighbours, with the measured round trip.
    pub fn neighbours(&self) -> BTreeMap<NodeId, Option<Duration>> {
        self.links.iter().map(|(node, link)| (*node, link.rtt)).collect()
    }

    /// The digest that neighbours compare.
    pub fn digest(&mut self) -> u32 {
        self.refresh();
        let (entries, revocations) = (&self.entries, self.revocations);
        let sum = *self.digest.get_or_insert_with(|| {
            let there = entries.iter().filter(|(_, entry)| is_there(entry.reach));
            there.fold(revocations, |sum, (node, entry)| sum.wrapping_add(entry.term(*node)))
        });
        u32::try_from(sum >> 32).unwrap_or_default()
    }

    pub(super) fn revocation_digest(&self) -> u64 {
        self.revocations
    }

    fn reach(&self, node: NodeId, entry: &Entry) -> Reach {
        match (entry.reach, self.links.get(&node)) {
            (Reach::Far { .. } | Reach::Neighbour { .. }, Some(link)) => Reach::Neighbour { rtt: link.rtt },
            (reach, _) => reach,
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.out.push(Effect::Event(event));
    }

    pub(super) fn send(&mut self, to: NodeId, frame: Frame) {
        self.out.push(Effect::Send(to, frame));
    }

    /// Marks that something which the digest covers is different now.
    pub(super) fn changed(&mut self) {
        self.graph_is_stale = true;
        self.digest = None;
        self.changed_at = self.now.boot;
    }

    fn link_up(&mut self, node: NodeId, rendezvous: Option<String>, rtt: Option<Duration>) {
        if self.is_leaving || !self.certificates.contains_key(&node) {
            self.out.push(Effect::Close(node, Why::Leaving));
            return;
        }
        self.links.remove(&node);
        // The smaller id speaks first; so there is one beat at a time on every link.
        let turn = if self.identity.node < node { Turn::Ours(self.now.boot) } else { Turn::Theirs };
        let mut link = Link::new(self.now.boot, turn, &self.config);
        link.rtt = rtt;
        self.links.insert(node, link);
        self.overlay.linked(node, rendezvous, self.certificates.get(&node).map(|known| known.proof.key));
        self.neighbours_changed();
        self.event(Event::NeighbourUp(node));
    }

    pub(super) fn link_down(&mut self, node: NodeId, why: Why) {
        if self.links.remove(&node).is_none() {
            return;
        }
        if why == Why::Silent {
            self.overlay.lost(node, self.now.boot);
            self.silent.insert(node);
        }
        self.wants.remove(&node);
        self.ask_others(node);
        self.neighbours_changed();
        self.event(Event::NeighbourDown(node, why));
    }

    /// Closes a link from this side.
    pub(super) fn close(&mut self, node: NodeId, why: Why) {
        match why {
            Why::Crowded => self.send(node, Frame::Bye(super::Bye::Crowded)),
            Why::Leaving => self.send(node, Frame::Bye(super::Bye::Leaving)),
            Why::Silent | Why::TheyLeft | Why::Revoked | Why::Offence => {}
        }
        self.out.push(Effect::Close(node, why));
        self.link_down(node, why);
    }

    fn neighbours_changed(&mut self) {
        self.changed();
        self.overlay.check_soon(self.now.boot);
    }

    fn rate(&mut self, node: NodeId, bytes_per_s: u64) {
        if let Some(link) = self.links.get_mut(&node) {
            link.rate = Some(bytes_per_s);
            // A quarter for adverts; the rest is the users'. A guess.
            link.budget.set_rate(bytes_per_s / 4, self.now.boot);
        }
    }

    /// Takes a revocation; `true` if it is good.
    pub(super) fn revoke(&mut self, statement: &[u8]) -> bool {
        match self.verifier.revoke(statement, self.now.unix_s) {
            Err(_) => false,
            Ok(Learnt::Known) => true,
            Ok(Learnt::New) => {
                self.revocations = digest_of(&self.verifier.revocations());
                self.changed();
                for node in self.links.keys().copied().collect::<Vec<_>>() {
                    self.send(node, Frame::Revocations(vec![statement.to_vec()]));
                }
                self.event(Event::Revocation(statement.to_vec()));
                self.recheck();
                true
            }
        }
    }

    /// Expels everybody whose certificate holds no more.
    fn recheck(&mut self) {
        self.recheck_at = self.now.boot + RECHECK_EVERY;
        let unix_s = self.now.unix_s;
        let bad = |(node, known): (&NodeId, &Certificate)| {
            self.verifier.verify(&known.chain, unix_s).is_err().then_some(*node)
        };
        for node in self.certificates.iter().filter_map(bad).collect::<Vec<_>>() {
            if self.links.contains_key(&node) {
                self.close(node, Why::Revoked);
            }
            self.certificates.remove(&node);
            self.entries.remove(&node);
            self.changed();
            self.event(Event::Expelled(node));
        }
    }

    pub(super) fn learn_certificate(&mut self, chain: &[u8], proof: Proof) {
        let rank = |proof: &Proof| (proof.expires_unix_s, proof.key);
        let older = |known: &Certificate| rank(&known.proof) <= rank(&proof);
        if !self.certificates.get(&proof.node).is_none_or(older) {
            return;
        }
        let certificate = Certificate { chain: chain.to_vec(), proof };
        let old = self.certificates.insert(proof.node, certificate);
        if old.is_some_and(|old| old.proof.key != proof.key) {
            // What the old key signed is no advert of this node any more.
            self.entries.remove(&proof.node);
            self.changed();
        }
    }

    fn leave(&mut self) {
        self.is_leaving = true;
        self.publish();
        let own = self.identity.node;
        for node in self.links.keys().copied().collect::<Vec<_>>() {
            if let Some(link) = self.links.get_mut(&node).filter(|link| !link.is_synced) {
                // What it knows of others nobody can tell; they tell it themselves.
                link.dirty.retain(|other| *other == own);
            }
            self.flush_link(node, true);
            self.close(node, Why::Leaving);
        }
    }

    /// Does whatever is due.
    fn settle(&mut self) {
        self.refresh();
        if self.now.boot >= self.recheck_at {
            self.recheck();
            self.forget();
        }
        self.beats();
        if !self.is_leaving {
            self.check_overlay();
            self.publish_if_due();
        }
        self.refresh();
        self.send_wants();
        self.flush();
    }

    fn forget(&mut self) {
        let now = self.now.boot;
        self.forgotten.retain(|_, (_, until)| *until > now);
        self.wanted.retain(|_, (_, at)| *at + RECHECK_EVERY > now);
        let forget_after = self.config.forget_after;
        let is_old = |(node, entry): (&NodeId, &Entry)| match entry.reach {
            Reach::UnreachableSince(since) if now.saturating_sub(since) >= forget_after => Some(*node),
            _ => None,
        };
        for node in self.entries.iter().filter_map(is_old).collect::<Vec<_>>() {
            self.forget_node(node);
        }
    }

    pub(super) fn forget_node(&mut self, node: NodeId) {
        if let Some(entry) = self.entries.remove(&node) {
            // Longer than anybody else remembers the node, so that it does not come back from them as news.
            self.forgotten.insert(node, (entry.version, self.now.boot + self.config.forget_after * 2));
            if self.forgotten.len() > self.config.max_nodes {
                self.forgotten.pop_first();
            }
            self.certificates.remove(&node);
            self.overlay.forget(node);
            self.event(Event::Forgotten(node));
        }
    }

    pub(super) fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for (node, entry) in &self.entries {
            if entry.advert.presence != Presence::Left {
                graph.insert(*node, entry.advert.links.keys().copied().collect());
            }
        }
        graph.insert(self.identity.node, self.links.keys().copied().collect());
        graph
    }

    /// Finds out anew who can be reached.
    fn refresh(&mut self) {
        if !std::mem::take(&mut self.graph_is_stale) {
            return;
        }
        let distance = distances(&self.graph(), self.identity.node);
        let (own, now) = (self.identity.node, self.now.boot);
        let mut events = Vec::new();
        for (node, entry) in &mut self.entries {
            let reach = match (distance.get(node), entry.reach) {
                (Some(_), _) if *node == own => Reach::Own,
                (Some(hops), _) => Reach::Far { hops: *hops },
                (None, Reach::UnreachableSince(since)) => Reach::UnreachableSince(since),
                (None, _) => Reach::UnreachableSince(now),
            };
            match (is_there(entry.reach), is_there(reach)) {
                (false, true) if *node != own => events.push(Event::Joined(*node)),
                // One that said goodbye was reported when it did.
                (true, false) if entry.advert.presence != Presence::Left => {
                    events.push(Event::Unreachable(*node));
                }
                _ => {}
            }
            entry.reach = reach;
        }
        if !events.is_empty() {
            self.overlay.check_soon(now);
        }
        if events.iter().any(|event| matches!(event, Event::Joined(_))) {
            self.overlay.joined_at = now;
        }
        self.digest = None;
        for event in events {
            self.event(event);
        }
    }
}

pub(super) fn is_there(reach: Reach) -> bool {
    !matches!(reach, Reach::UnreachableSince(_))
}

fn digest_of(statements: &[Vec<u8>]) -> u64 {
    statements.iter().fold(0, |sum: u64, statement| sum.wrapping_add(first_bytes(statement)))
}
