//! The libp2p behaviours and their settings.

use std::time::Duration;

use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{Swarm, SwarmBuilder, identify, mdns, noise, tcp, yamux};
use libp2p_allow_block_list as block_list;

use super::gate::Gated;
use super::{Config, Error, Mdns, door, link};

/// Longest notice, bytes.
pub(super) const MAX_NOTICE_BYTES: usize = 8 * 1024;
/// What gossipsub puts around a notice: topic, author, number, signature.
const GOSSIP_ENVELOPE_BYTES: usize = 1024;
/// libp2p-gossipsub 0.50.1 compares its limit with all that it has read, not with one message, and closes the stream if
/// it is more; after five such it never sends again. It reads at most so many bytes (asynchronous-codec) beyond a
/// message that is not whole yet. How long a notice may be is checked when it is judged.
const GOSSIP_READ_BYTES: usize = 8 * 1024;
/// A connection with no stream on it is closed after this.
const IDLE: Duration = Duration::from_secs(5);
/// QUIC gives up after silence of this length. The core knows sooner; this is for connections without a link.
const QUIC_IDLE_MS: u32 = 20_000;
/// A dial that got no answer is given up after this. A guess: two retransmissions of QUIC's first packet.
const HANDSHAKE: Duration = Duration::from_secs(4);

/// What only proven peers reach.
#[derive(NetworkBehaviour)]
pub(super) struct Proven {
    pub(super) gossip: gossipsub::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) streams: libp2p_stream::Behaviour,
}

/// All of it.
#[derive(NetworkBehaviour)]
pub(super) struct All {
    pub(super) limits: door::Behaviour,
    pub(super) blocked: block_list::Behaviour<block_list::BlockedPeers>,
    pub(super) link: link::Behaviour,
    pub(super) proven: Gated<Proven>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn setup<E: Into<Cause>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Setup { what, source: source.into() }
}

pub(super) fn swarm(config: &Config) -> Result<(Swarm<All>, IdentTopic), Error> {
    let keypair = Keypair::ed25519_from_bytes(config.identity.key.to_bytes())
        .map_err(|error| Error::Key(error.into()))?;
    let topic = IdentTopic::new(&config.topic);
    let behaviour = behaviour(config, &keypair, &topic)?;
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(setup("TCP"))?
        .with_quic_config(|mut quic| {
            quic.max_idle_timeout = QUIC_IDLE_MS;
            quic.handshake_timeout = HANDSHAKE;
            // The core's beats keep the connection alive; this would double them.
            quic.keep_alive_interval = Duration::from_secs(24 * 3600);
            // Looking for larger packets costs 11 kB each way on every new connection (captured), more than all the
            // rest of it, for headers that are 2 % smaller.
            quic.disable_path_mtu_discovery()
        })
        .with_behaviour(|_| behaviour)
        .map_err(setup("behaviours"))?
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE))
        .with_connection_timeout(HANDSHAKE)
        .build();
    Ok((swarm, topic))
}

fn behaviour(config: &Config, keypair: &Keypair, topic: &IdentTopic) -> Result<All, Error> {
    let gossip = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .max_transmit_size(MAX_NOTICE_BYTES + GOSSIP_ENVELOPE_BYTES + GOSSIP_READ_BYTES)
        // Neighbours are explicit peers: nothing is grafted, and a beat of gossipsub finds nothing to send.
        .heartbeat_interval(Duration::from_secs(5))
        .build()
        .map_err(setup("gossipsub"))?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), gossip)
        .map_err(setup("gossipsub"))?;
    gossip.subscribe(topic).map_err(setup("the gossip topic"))?;
    // Adverts carry addresses and are signed; pushing them again by identify would only cost.
    let identify = identify::Config::new("/cloudlet/1".to_owned(), keypair.public())
        .with_agent_version(format!("cloudlet/{}", env!("CARGO_PKG_VERSION")))
        .with_interval(Duration::from_secs(24 * 3600))
        .with_push_listen_addr_updates(false)
        .with_cache_size(0);
    let mdns = match config.mdns {
        Mdns::Off => None,
        Mdns::On => {
            let quiet = mdns::Config {
                ttl: Duration::from_secs(2 * 3600),
                query_interval: Duration::from_secs(3600),
                enable_ipv6: false,
            };
            let own = keypair.public().to_peer_id();
            Some(mdns::tokio::Behaviour::new(quiet, own).map_err(setup("mDNS"))?)
        }
    };
    Ok(All {
        // The proof itself has its own, shorter limit; this one is for those who never begin with it.
        limits: door::Behaviour::new(config.strangers, config.proof_timeout * 2),
        blocked: block_list::Behaviour::default(),
        link: link::Behaviour::default(),
        proven: Gated::new(Proven {
            gossip,
            identify: identify::Behaviour::new(identify),
            streams: libp2p_stream::Behaviour::new(),
        }),
        mdns: Toggle::from(mdns),
    })
}
