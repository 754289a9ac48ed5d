//! The mesh on real networks: libp2p drives [`crate::membership`].
//!
//! # Layers
//!
//! * Transports: QUIC, and TCP with Noise and yamux. Who is at the other end is proved by its key; the peer id *is*
//!   the key.
//! * Every connection has one long-lived stream, opened by the side that dialled (`link`). The first frame of both
//!   sides is the certificate. Until the certificate is found good and to hold the very key of the connection, no
//!   other protocol exists on it (`gate`); a connection on which the peer has not proved itself after
//!   [`Config::proof_timeout`] is cut, and a peer that showed something wrong is kept out for [`Config::block_for`].
//! * Over the link go the frames of [`crate::wire::frame`], from and to the core.
//! * Behind the gate: gossipsub (signed, strict, validated) for notices to everybody ([`Handle::announce`]), identify,
//!   and streams for anything else ([`Handle::open_stream`]).
//! * Nodes find each other by static addresses, by calling out on the local network (`hail`), or by libp2p's mDNS.
//!
//! # What is not used, and why
//!
//! * libp2p's ping: the core's beats measure the round trip and notice a crash, and a ping would cost four packets
//!   per link and interval beside them. QUIC's own keep-alive is off for the same reason.
//! * libp2p's mDNS is off by default: every node answers every node's question with a packet of about 300 bytes, so a
//!   round of questions costs N² packets, and there are nine rounds in the first five minutes; for 30 nodes that
//!   alone is more than the budget of a whole node. A hail is one packet, and only sent while somebody is missing.
//! * request-response: adverts and certificates are asked for over the link, which needs no negotiation each time.

mod behaviour;
mod door;
mod gate;
mod hail;
mod handle;
mod io;
mod link;
mod links;
mod mission;
mod notices;
mod pack;
mod peers;
mod reach;
mod task;

use std::net::SocketAddrV4;
use std::time::Duration;

pub use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
pub use libp2p_stream::{IncomingStreams, OpenStreamError};

pub use self::handle::{Counters, Handle, Notice, StreamError};
pub use self::mission::{MissionVerifier, identity, topic};
pub use self::peers::{key_of, peer_of};
pub use self::task::{Running, start};
use crate::crowd::Limits;
use crate::membership::{self, Identity};

/// How the mesh runs on this machine.
pub struct Config {
    /// Who this node is.
    pub identity: Identity,
    /// What the core may choose.
    pub core: membership::Config,
    /// Addresses to listen on, such as `/ip4/0.0.0.0/udp/4750/quic-v1` and `/ip4/0.0.0.0/tcp/4750`.
    pub listen: Vec<Multiaddr>,
    /// Name of the gossip topic; a keyed hash of the mission's name where strangers should not read it.
    pub topic: String,
    /// Calling out on the local network; `None`: quiet.
    pub hail: Option<Hail>,
    /// libp2p's mDNS, for networks with other libp2p programs that look for us.
    pub mdns: Mdns,
    /// Time that a peer has to prove itself. A guess: three round trips on a satellite link are 2 s.
    pub proof_timeout: Duration,
    /// How long a peer is kept out that showed a bad certificate or broke the rules. A guess. Not one that was slow.
    pub block_for: Duration,
    /// Room for connections from peers that have not proved themselves yet. Members are not counted.
    pub strangers: Limits,
    /// Seed of the core's generator; from the system for real nodes.
    pub seed: u64,
}

/// Whether libp2p's mDNS runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mdns {
    /// It does not.
    #[default]
    Off,
    /// It does. Mind what it costs (see the module).
    On,
}

/// How to call out on the local network.
#[derive(Debug, Clone, Copy)]
pub struct Hail {
    /// Multicast group and port.
    pub group: SocketAddrV4,
    /// Tells missions apart; the first bytes of a keyed hash, so that it says nothing to strangers.
    pub tag: [u8; 8],
}

impl Hail {
    /// The group of this project: in the block for local use (RFC 2365), the port from the dynamic range.
    pub const GROUP: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(239, 255, 71, 10), 47_510);
}

impl Config {
    /// A node with everybody's defaults on these addresses.
    pub fn new(identity: Identity, listen: Vec<Multiaddr>, topic: String, seed: u64) -> Self {
        Self {
            identity,
            core: membership::Config::default(),
            listen,
            topic,
            hail: None,
            mdns: Mdns::Off,
            proof_timeout: Duration::from_secs(3),
            block_for: Duration::from_secs(60),
            strangers: Limits::default(),
            seed,
        }
    }
}

/// Why the mesh could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is not one for libp2p.
    #[error("the device key cannot be used for libp2p")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Handhelds are no members of the mesh.
    #[error("this device was enrolled as a handheld; only cloudlets join the mesh")]
    NotACloudlet,
    /// A transport or behaviour could not be made.
    #[error("cannot set up {what}")]
    Setup {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}; is another program using the port?")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The mesh has ended.
    #[error("the mesh has ended")]
    Ended,
}
