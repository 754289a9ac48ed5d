//! Missions, members and strangers on loopback.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "support of tests: a failure is a panic, and real nodes run on the real clock"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use libp2p::futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, identify};
use mesh::NodeId;
use mesh::advert::{Advert, Capabilities, Gpu};
use mesh::membership::{self, Reach};
use mesh::swarm::{self, Config, Handle, MissionVerifier, Running};
use mesh::trust::{
    Authority, Device, Grant, Identity, Permissions, Reason, Request, Role, Trust, Window, revocation,
};
use vm_images::manifest::Accelerator;

pub struct Mission {
    authority: Authority,
}

#[derive(Clone, Copy)]
pub enum Net {
    Quic,
    Tcp,
}

pub struct Peer {
    pub handle: Handle,
    pub running: Running,
    address: Multiaddr,
}

pub async fn wait_until(most: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < most, "not within {most:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn is_there(handle: &Handle, node: NodeId) -> bool {
    let members = handle.members();
    let members = members.borrow();
    members.get(&node).is_some_and(|member| !matches!(member.reach, Reach::UnreachableSince(_)))
}

pub fn advert(node: NodeId, name: &str) -> Advert {
    let capabilities = Capabilities {
        accelerator: Accelerator::Tcg,
        gpu: Gpu::None,
        architecture: "x86_64".to_owned(),
        cpu_models: BTreeSet::new(),
        machines: BTreeSet::new(),
        guest_systems: BTreeSet::new(),
        guest_speed_permille: None,
    };
    Advert::new(node, name.to_owned(), capabilities)
}

impl Mission {
    pub fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let window = Window { not_before_unix_s: now - 3600, not_after_unix_s: now + 3600 };
        Self { authority: Authority::create("test", window).unwrap() }
    }

    /// A new member that has not started yet.
    pub fn enroll(&self) -> Trust {
        let device = Device::generate().unwrap();
        let node = NodeId::generate(&mut rand::rng());
        let request = device.request(Role::Cloudlet(node), "member").unwrap();
        let grant = Grant { permissions: Permissions::NONE, may_enroll: None, not_after_unix_s: None };
        let bundle = self.authority.enroll(&Request::from_der(&request).unwrap(), grant).unwrap();
        let mission = bundle.mission().unwrap();
        Trust::new(Identity::new(device, &bundle, &mission).unwrap(), mission)
    }

    /// Words about so many certificates that nobody here has.
    pub fn revoke_many(&mut self, count: u32) -> Vec<u8> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let words: Vec<_> = (0..count)
            .map(|n| {
                let serial = format!("{:032x}", u128::from(n) + (1 << 124)).parse().unwrap();
                self.authority.revoke(serial, Reason::KeyCompromise, now).unwrap()
            })
            .collect();
        revocation::encode(&words)
    }

    /// The certificate of a handheld, as it would be shown on a link.
    pub fn enroll_handheld(&self) -> Vec<u8> {
        let device = Device::generate().unwrap();
        let request = device.request(Role::Handheld, "hand").unwrap();
        let grant =
            Grant { permissions: Permissions::USE_SERVICES, may_enroll: None, not_after_unix_s: None };
        let bundle = self.authority.enroll(&Request::from_der(&request).unwrap(), grant).unwrap();
        let one = |der: &[u8]| [&u16::try_from(der.len()).unwrap().to_be_bytes()[..], der].concat();
        bundle.chain.iter().flat_map(|der| one(der)).collect()
    }

    pub async fn start(&self, net: Net, known: &[String]) -> Peer {
        self.start_as(&self.enroll(), net, known).await
    }

    pub async fn start_as(&self, trust: &Trust, net: Net, known: &[String]) -> Peer {
        self.start_with(trust, swarm::identity(trust).unwrap(), net, known).await
    }

    async fn start_with(
        &self,
        trust: &Trust,
        identity: membership::Identity,
        net: Net,
        known: &[String],
    ) -> Peer {
        let listen = match net {
            Net::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
            Net::Tcp => "/ip4/127.0.0.1/tcp/0",
        };
        let mut config = config_of(identity, trust, listen);
        config.core.rendezvous = known.to_vec();
        let (handle, running) = start(trust, config);
        let address = handle.listening().await.unwrap().remove(0);
        Peer { handle, running, address }
    }
}

pub fn config(trust: &Trust, listen: &str) -> Config {
    config_of(swarm::identity(trust).unwrap(), trust, listen)
}

fn config_of(identity: membership::Identity, trust: &Trust, listen: &str) -> Config {
    Config::new(identity, vec![listen.parse().unwrap()], swarm::topic(trust), rand::random())
}

pub fn start(trust: &Trust, config: Config) -> (Handle, Running) {
    let node = config.identity.node;
    let verifier = Box::new(MissionVerifier::new(trust.clone()));
    swarm::start(config, verifier, advert(node, "new")).unwrap()
}

impl Peer {
    pub fn node(&self) -> NodeId {
        self.handle.node()
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many it sees, itself included.
    pub fn there(&self) -> usize {
        let members = self.handle.members();
        let members = members.borrow();
        members.values().filter(|member| !matches!(member.reach, Reach::UnreachableSince(_))).count()
    }

    pub fn name_of(&self, node: NodeId) -> Option<String> {
        self.handle.members().borrow().get(&node).map(|member| member.advert.name.clone())
    }

    pub async fn rename(&self, name: &str) {
        self.handle.set_local(advert(self.node(), name)).await.unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// What a stranger speaks.
#[derive(NetworkBehaviour)]
pub struct Speaks {
    gossip: gossipsub::Behaviour,
    identify: identify::Behaviour,
}

/// A libp2p program without a certificate.
pub struct Stranger {
    pub swarm: Swarm<Speaks>,
}

/// A member's key in a program that opens the link and then says nothing, as one does that is killed just then.
pub struct Silent {
    pub swarm: Swarm<libp2p_stream::Behaviour>,
}

impl Silent {
    pub fn new(trust: &Trust) -> Self {
        let mut seed = *trust.identity().device().secret_seed();
        let keypair = libp2p::identity::Keypair::ed25519_from_bytes(&mut seed).unwrap();
        let swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_quic()
            .with_behaviour(|_| libp2p_stream::Behaviour::new())
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
            .build();
        Self { swarm }
    }

    /// Dials and keeps still until it is cut.
    pub async fn stay_until_cut(&mut self, address: Multiaddr) {
        use libp2p::futures::StreamExt;
        use libp2p::swarm::SwarmEvent;
        self.swarm.dial(address).unwrap();
        let mut streams = Vec::new();
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                    let mut control = self.swarm.behaviour().new_control();
                    let protocol = libp2p::StreamProtocol::new("/cloudlet/link/2");
                    streams.push(tokio::spawn(async move { control.open_stream(peer_id, protocol).await }));
                }
                SwarmEvent::ConnectionClosed { .. } => break,
                _ => {}
            }
        }
        assert!(!streams.is_empty());
    }
}

impl Stranger {
    pub fn new() -> Self {
        let swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_quic()
            .with_behaviour(|keypair| {
                let authenticity = MessageAuthenticity::Signed(keypair.clone());
                let mut gossip = gossipsub::Behaviour::new(authenticity, gossipsub::Config::default())?;
                gossip.subscribe(&IdentTopic::new("notices"))?;
                let identify = identify::Config::new("/stranger/1".to_owned(), keypair.public());
                Ok(Speaks { gossip, identify: identify::Behaviour::new(identify) })
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
            .build();
        Self { swarm }
    }

    /// Listens there; what it dials from then on, it dials from there.
    pub async fn listen(&mut self, address: Multiaddr) {
        self.swarm.listen_on(address).unwrap();
        while !matches!(self.swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
    }

    pub fn dial(&mut self, address: Multiaddr) {
        self.swarm.dial(address).unwrap();
    }

    /// Whether a member told it anything.
    pub fn tells_something(&self, event: &SpeaksEvent) -> bool {
        match event {
            SpeaksEvent::Gossip(gossipsub::Event::GossipsubNotSupported { .. }) => false,
            SpeaksEvent::Gossip(_) => true,
            SpeaksEvent::Identify(identify::Event::Error { .. }) => false,
            SpeaksEvent::Identify(_) => true,
        }
    }
}
