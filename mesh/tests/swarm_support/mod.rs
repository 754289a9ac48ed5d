//! Missions, members and strangers on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "support of tests: a failure is a panic, and real nodes run on the real clock"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Multiaddr, Swarm, SwarmBuilder, identify};
use mesh::NodeId;
use mesh::advert::{Advert, Capabilities, Gpu};
use mesh::membership::Reach;
use mesh::swarm::{self, Config, Handle, MissionVerifier, Running};
use mesh::trust::{Authority, Device, Grant, Identity, Permissions, Request, Role, Trust, Window};
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

fn advert(node: NodeId, name: &str) -> Advert {
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

    pub async fn start(&self, net: Net, known: &[String]) -> Peer {
        self.start_as(&self.enroll(), net, known).await
    }

    pub async fn start_as(&self, trust: &Trust, net: Net, known: &[String]) -> Peer {
        let identity = swarm::identity(trust).unwrap();
        let node = identity.node;
        let listen = match net {
            Net::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
            Net::Tcp => "/ip4/127.0.0.1/tcp/0",
        };
        let listen = vec![listen.parse().unwrap()];
        let mut config = Config::new(identity, listen, swarm::topic(trust), rand::random());
        config.core.rendezvous = known.to_vec();
        let verifier = Box::new(MissionVerifier::new(trust.clone()));
        let (handle, running) = swarm::start(config, verifier, advert(node, "new")).unwrap();
        let address = handle.listening().await.unwrap().remove(0);
        Peer { handle, running, address }
    }
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
