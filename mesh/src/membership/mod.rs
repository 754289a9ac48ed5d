//! Who is in the mesh, what each of them said last, and whom to be connected with. Pure.
//!
//! [`Core`] takes the time and an [`Input`] and returns [`Effect`]s. It opens no socket, reads no clock and owns only
//! a seeded generator, so the daemon, the simulator and the model checker run the same code.
//!
//! # How it works
//!
//! * **Adverts belong to their owner.** A state is signed by the key in the owner's certificate, whole, so nobody can
//!   lie about somebody else, and a delta is checked by what results from it. The newest [`Version`] wins; nobody's
//!   clock is asked. A node that came back with an old number hears of its newer advert and outbids it.
//! * **A few neighbours, everybody known.** A node keeps about three links, to nodes chosen at random, whatever the
//!   size of the mesh. A change goes over every link at most once each way, as a delta against what the neighbour is
//!   known to hold, when the link's byte budget allows; what waits is merged, and departures and newcomers go first.
//! * **Nothing is repeated.** Neighbours say in turns, every [`Config::beat`], "I live" and a digest of all that they
//!   know of their part of the mesh. Only if digests differ do they exchange versions, and then what differs.
//! * **Link state tells who is there.** Every advert names the owner's neighbours; who is reached along them is
//!   there, who is not is unreachable since then, and forgotten after [`Config::forget_after`]. So nobody has to
//!   refresh anything, and only the neighbours of a crashed node have to notice.
//!
//! # What it costs
//!
//! IP bytes over QUIC (captured in the lab, 30 nodes): a beat is 87 bytes and its acknowledgement 65. One side of each
//! link beats every 4 s; N nodes with three neighbours each have 1.5 N links: 152 B / 4 s × 1.5 = 57 B/s per node,
//! whatever N (57 to 59 measured by `make bench-mesh`, 5 to 50 nodes). A node that crashed right after its beat is given up
//! 2 × 4 s + 1.6 s = 9.6 s later at the latest.
//!
//! # What the driver owes
//!
//! Every link reports up once, after the certificate was checked by [`Core::prove`], and down once; frames of a link
//! arrive in order or the link goes down; [`Input::Tick`] comes no later than [`Core::next_wake`] (later is
//! harmless but slow, never is not).

mod accept;
mod beat;
mod bucket;
mod core;
mod graph;
mod link;
mod local;
mod overlay;
mod spread;
mod store;
mod verifier;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use self::core::Core;
pub use self::store::{sign, signed_bytes};
pub use self::verifier::{Learnt, Proof, Refused, Verifier};
use crate::NodeId;
use crate::advert::Advert;
pub use crate::wire::frame::{Bye, Frame, Signed, Version, Want};

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment, never going backwards.
    pub boot: Duration,
    /// Seconds since 1970 by this machine's clock. Only certificates are judged by it.
    pub unix_s: u64,
}

/// Who this node is.
pub struct Identity {
    /// Its name.
    pub node: NodeId,
    /// The secret half of the key in its certificate.
    pub key: ed25519_dalek::SigningKey,
    /// Its certificate chain, DER.
    pub certificate: Vec<u8>,
}

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct Config {
    /// Links that a node wants. Three make a random graph connected with high probability (Wormald, "Models of random
    /// regular graphs", 1999) and cost 57 B/s; each further one costs 19 B/s more.
    pub degree: usize,
    /// Links above which a node hangs up at once on neighbours that have enough. A guess: room for newcomers.
    pub max_degree: usize,
    /// How long a neighbour holds the turn to beat. 4 s keep the worst detection of a crash under 10 s, with 0.4 s for
    /// the news.
    pub beat: Duration,
    /// What a beat may be late. Covers two lost packets at 200 ms round trip; on slower links four round trips.
    pub grace: Duration,
    /// How long an unreachable node is remembered. A guess: a patrol out of contact comes back within the hour.
    pub forget_after: Duration,
    /// Bytes per second that a link may carry of adverts as long as its rate was not measured. A guess: a quarter of
    /// 64 kbit/s.
    pub link_budget: u64,
    /// Most nodes that are remembered. A guess: twenty times the largest mesh that was measured.
    pub max_nodes: usize,
    /// Most bytes of adverts that are remembered.
    pub max_bytes: usize,
    /// Whether this network carries multicast. Without it, neighbours that were lost are dialled again and again.
    pub multicast: bool,
    /// Addresses to dial when nobody else is known.
    pub rendezvous: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            degree: 3,
            max_degree: 8,
            beat: Duration::from_secs(4),
            grace: Duration::from_millis(1600),
            forget_after: Duration::from_secs(3600),
            link_budget: 2000,
            max_nodes: 1024,
            max_bytes: 8 << 20,
            multicast: true,
            rendezvous: Vec::new(),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A link to a proven node is up.
    LinkUp {
        /// To whom.
        node: NodeId,
        /// The rendezvous address, if that was dialled.
        rendezvous: Option<String>,
        /// Round trip that the proof took, if this side measured it.
        rtt: Option<Duration>,
    },
    /// A link is gone.
    LinkDown(NodeId),
    /// A neighbour said something.
    Frame {
        /// Who.
        from: NodeId,
        /// What.
        frame: Frame,
        /// How long it was on the wire.
        bytes: usize,
    },
    /// What this node says of itself from now on. Its node, sequence, addresses, links and presence `Left` are the
    /// core's business.
    Local(Box<Advert>),
    /// Where this node can be reached.
    Addresses(Vec<String>),
    /// There is another local network than before, or another address on it.
    NewNetwork,
    /// Somebody called out on the local network. Anybody can; it only says where to dial.
    Sighted {
        /// Public key of the caller.
        key: [u8; 32],
        /// Where it can be dialled.
        addresses: Vec<String>,
        /// Digest of what it knows.
        digest: u32,
    },
    /// A dial came to nothing.
    DialFailed(Target),
    /// How fast a transfer over a link was.
    Rate {
        /// With whom.
        node: NodeId,
        /// Bytes per second.
        bytes_per_s: u64,
    },
    /// Somebody wants to be connected with this node, for more than adverts.
    Connect(NodeId),
    /// Keep the link to this node, or need not any more.
    Hold {
        /// The node.
        node: NodeId,
        /// Whether it is to be kept.
        is_held: bool,
    },
    /// A neighbour broke the rules in a way that only the driver sees.
    Offence(NodeId),
    /// A signed revocation, from this node's operator or from the flood.
    Revoke(Vec<u8>),
    /// Say goodbye.
    Leave,
    /// Time passed.
    Tick,
}

/// Whom to dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A node whose key is known.
    Node {
        /// Its public key.
        key: [u8; 32],
        /// Where it may be.
        addresses: Vec<String>,
    },
    /// Whoever is at a rendezvous address.
    Rendezvous(String),
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Send a frame over a link.
    Send(NodeId, Frame),
    /// Close a link, after what was sent before. The driver answers with [`Input::LinkDown`].
    Close(NodeId, Why),
    /// Dial.
    Dial(Target),
    /// Call out on the local network.
    Hail {
        /// Digest of what this node knows.
        digest: u32,
    },
    /// Tell whoever watches.
    Event(Event),
}

/// Why a link is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// More links than needed.
    Crowded,
    /// Nothing was heard for too long.
    Silent,
    /// This node leaves.
    Leaving,
    /// The other hung up.
    TheyLeft,
    /// The certificate holds no more.
    Revoked,
    /// It broke the rules: more than its share, or forged. It should be kept out for a while.
    Offence,
}

/// What watchers are told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A node is there that was not.
    Joined(NodeId),
    /// A node said something new.
    Changed(NodeId),
    /// A node said goodbye.
    Left(NodeId),
    /// A node cannot be reached any more.
    Unreachable(NodeId),
    /// A node was away for so long that it is forgotten.
    Forgotten(NodeId),
    /// A node's certificate holds no more.
    Expelled(NodeId),
    /// A link came up.
    NeighbourUp(NodeId),
    /// A link went away.
    NeighbourDown(NodeId, Why),
    /// A revocation was learnt; pass it on.
    Revocation(Vec<u8>),
}

/// Whether a node can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It is this node.
    Own,
    /// There is a link.
    Neighbour {
        /// Measured round trip.
        rtt: Option<Duration>,
    },
    /// There is a way over so many links, by what nodes say of their links.
    Far {
        /// How many links.
        hops: u16,
    },
    /// There is no way that anybody knows.
    UnreachableSince(Duration),
}

/// A node and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// What it said last.
    pub advert: Arc<Advert>,
    /// Its public key.
    pub key: [u8; 32],
    /// Whether it can be reached.
    pub reach: Reach,
    /// When this was learnt.
    pub heard: Duration,
}

/// Everybody who is known.
pub type Members = BTreeMap<NodeId, Member>;
