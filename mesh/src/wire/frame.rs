//! What two neighbours say to each other over their link.

use serde::{Deserialize, Serialize};

use super::cells::Delta;
use super::{Error, VERSION, versioned};
use crate::NodeId;

/// Longest frame, bytes, without its length prefix. An advert has at most 32 KiB; the rest is room.
pub const MAX_BYTES: usize = 64 * 1024;
/// Longest certificate chain, bytes. A leaf and one intermediate of Ed25519 have about 1 KiB; a guess with room.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;
/// Most entries of a list in a frame.
pub const MAX_ENTRIES: usize = 2048;

/// Which state of an advert.
///
/// The mark comes from the owner's signature, so two states that a restarted node gave one number are told apart, and
/// everybody agrees which of them holds: the one with the higher mark.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The advert's sequence number; 0: no state at all.
    pub sequence: u64,
    /// The first four bytes of the owner's signature, big-endian.
    pub mark: u32,
}

/// A state of an advert, or the way from an older state to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The owner.
    pub node: NodeId,
    /// Number of the state.
    pub sequence: u64,
    /// The state that `delta` starts from; the zero version: from nothing, so it is the whole.
    pub base: Version,
    /// The way.
    pub delta: Delta,
    /// The owner's Ed25519 signature over the state that results (see [`crate::membership::sign`]).
    pub signature: [u8; 64],
}

impl Signed {
    /// The version of the state that results.
    pub fn version(&self) -> Version {
        let [a, b, c, d, ..] = self.signature;
        Version { sequence: self.sequence, mark: u32::from_be_bytes([a, b, c, d]) }
    }
}

/// A question about one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The node.
    pub node: NodeId,
    /// What the asker holds.
    pub have: Version,
    /// Whether the asker lacks the certificate.
    pub certificate: bool,
}

/// Why a neighbour hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bye {
    /// It has more neighbours than it needs, and so have you.
    Crowded,
    /// It leaves the mesh.
    Leaving,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// "I am": the first frame of both sides. Nothing else counts before it.
    Hello {
        /// The certificate chain, DER, leaf first.
        certificate: Vec<u8>,
    },
    /// "I live, and this is what I know": taken in turns.
    Beat {
        /// Digest of everything that the sender knows of its part of the mesh.
        digest: u32,
        /// How long the sender has held the turn, microseconds; gives the round trip without a clock in common.
        held_us: u32,
        /// Links that the sender has.
        degree: u8,
    },
    /// What the sender holds.
    Summary {
        /// Newest version by node.
        versions: Vec<(NodeId, Version)>,
        /// Digest of its revocations.
        revocations: u64,
    },
    /// Questions.
    Want(Vec<Want>),
    /// States.
    Adverts(Vec<Signed>),
    /// Certificate chains that were asked for.
    Certificates(Vec<Vec<u8>>),
    /// Signed revocations.
    Revocations(Vec<Vec<u8>>),
    /// The sender hangs up.
    Bye(Bye),
    /// The sender has too many links: connect with this node instead, then it lets go of both.
    Meet(NodeId),
    /// The sender has more links than it needs; hang up if you have too.
    Part,
    /// The sender now answers everything on this connection.
    Ready,
    /// The sender holds states of nodes that the other has not named yet: it may ask for them.
    Have(Vec<(NodeId, Version)>),
    /// The sender should have heard a beat by now: answer at once.
    Ask,
    /// The answer.
    Here,
}

type IdCell = [u8; NodeId::BYTES];

#[derive(Serialize, Deserialize)]
enum Body {
    Hello { certificate: Bytes },
    Beat { digest: [u8; 4], held_us: u32, degree: u8 },
    Summary { versions: Vec<VersionCell>, revocations: [u8; 8] },
    Want(Vec<(IdCell, u64, [u8; 4], bool)>),
    Adverts(Vec<SignedCell>),
    Certificates(Vec<Bytes>),
    Revocations(Vec<Bytes>),
    Bye(u8),
    Meet(IdCell),
    Part,
    Ready,
    Have(Vec<VersionCell>),
    Ask,
    Here,
}

type VersionCell = (IdCell, u64, [u8; 4]);
type Bytes = Vec<u8>;

#[derive(Serialize, Deserialize)]
struct SignedCell {
    node: IdCell,
    sequence: u64,
    base: (u64, [u8; 4]),
    set: Vec<(Bytes, Bytes)>,
    removed: Vec<Bytes>,
    signature: (IdCell, IdCell, IdCell, IdCell),
}

/// The bytes of a frame.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, Error> {
    versioned::encode::<_, MAX_BYTES>(VERSION, &Body::from(frame))
}

/// The frame in bytes that somebody sent.
pub fn decode(bytes: &[u8]) -> Result<Frame, Error> {
    Frame::try_from(versioned::decode::<Body, MAX_BYTES>(VERSION, bytes)?)
}

fn few<T>(list: &[T], what: &'static str) -> Result<(), Error> {
    if list.len() <= MAX_ENTRIES { Ok(()) } else { Err(Error::Value(what)) }
}

fn short(list: &[Bytes], what: &'static str) -> Result<(), Error> {
    few(list, what)?;
    let fits = list.iter().all(|one| one.len() <= MAX_CERTIFICATE_BYTES);
    if fits { Ok(()) } else { Err(Error::Value(what)) }
}

fn version(sequence: u64, mark: [u8; 4]) -> Version {
    Version { sequence, mark: u32::from_be_bytes(mark) }
}

fn held((node, sequence, mark): VersionCell) -> (NodeId, Version) {
    (NodeId::from_bytes(node), version(sequence, mark))
}

fn cell((node, version): &(NodeId, Version)) -> VersionCell {
    (*node.as_bytes(), version.sequence, version.mark.to_be_bytes())
}

impl TryFrom<Body> for Frame {
    type Error = Error;

    fn try_from(body: Body) -> Result<Self, Error> {
        Ok(match body {
            Body::Hello { certificate } => {
                if certificate.len() > MAX_CERTIFICATE_BYTES {
                    return Err(Error::Value("certificate"));
                }
                Self::Hello { certificate }
            }
            Body::Beat { digest, held_us, degree } => {
                Self::Beat { digest: u32::from_be_bytes(digest), held_us, degree }
            }
            Body::Summary { versions, revocations } => {
                few(&versions, "summary")?;
                let versions = versions.into_iter().map(held).collect();
                Self::Summary { versions, revocations: u64::from_be_bytes(revocations) }
            }
            Body::Want(wants) => {
                few(&wants, "list of questions")?;
                let one = |(node, number, mark, certificate)| Want {
                    node: NodeId::from_bytes(node),
                    have: version(number, mark),
                    certificate,
                };
                Self::Want(wants.into_iter().map(one).collect())
            }
            Body::Adverts(adverts) => {
                few(&adverts, "list of adverts")?;
                Self::Adverts(adverts.into_iter().map(Signed::from).collect())
            }
            Body::Certificates(list) => {
                short(&list, "certificate")?;
                Self::Certificates(list)
            }
            Body::Revocations(list) => {
                short(&list, "revocation")?;
                Self::Revocations(list)
            }
            Body::Bye(0) => Self::Bye(Bye::Crowded),
            Body::Bye(1) => Self::Bye(Bye::Leaving),
            Body::Meet(node) => Self::Meet(NodeId::from_bytes(node)),
            Body::Part => Self::Part,
            Body::Ready => Self::Ready,
            Body::Have(versions) => {
                few(&versions, "list of states")?;
                Self::Have(versions.into_iter().map(held).collect())
            }
            Body::Ask => Self::Ask,
            Body::Here => Self::Here,
            Body::Bye(_) => return Err(Error::Value("reason")),
        })
    }
}

impl From<&Frame> for Body {
    fn from(frame: &Frame) -> Self {
        match frame {
            Frame::Hello { certificate } => Self::Hello { certificate: certificate.clone() },
            Frame::Beat { digest, held_us, degree } => {
                Self::Beat { digest: digest.to_be_bytes(), held_us: *held_us, degree: *degree }
            }
            Frame::Summary { versions, revocations } => {
                let versions = versions.iter().map(cell).collect();
                Self::Summary { versions, revocations: revocations.to_be_bytes() }
            }
            Frame::Want(wants) => {
                let one = |want: &Want| {
                    let Want { node, have, certificate } = want;
                    (*node.as_bytes(), have.sequence, have.mark.to_be_bytes(), *certificate)
                };
                Self::Want(wants.iter().map(one).collect())
            }
            Frame::Adverts(adverts) => Self::Adverts(adverts.iter().map(SignedCell::from).collect()),
            Frame::Certificates(list) => Self::Certificates(list.clone()),
            Frame::Revocations(list) => Self::Revocations(list.clone()),
            Frame::Bye(Bye::Crowded) => Self::Bye(0),
            Frame::Bye(Bye::Leaving) => Self::Bye(1),
            Frame::Meet(node) => Self::Meet(*node.as_bytes()),
            Frame::Part => Self::Part,
            Frame::Ready => Self::Ready,
            Frame::Have(versions) => Self::Have(versions.iter().map(cell).collect()),
            Frame::Ask => Self::Ask,
            Frame::Here => Self::Here,
        }
    }
}

impl From<SignedCell> for Signed {
    fn from(cell: SignedCell) -> Self {
        let (a, b, c, d) = cell.signature;
        let mut signature = [0; 64];
        for (part, bytes) in signature.chunks_exact_mut(NodeId::BYTES).zip([a, b, c, d]) {
            part.copy_from_slice(&bytes);
        }
        Self {
            node: NodeId::from_bytes(cell.node),
            sequence: cell.sequence,
            base: version(cell.base.0, cell.base.1),
            delta: Delta { set: cell.set, removed: cell.removed },
            signature,
        }
    }
}

impl From<&Signed> for SignedCell {
    fn from(signed: &Signed) -> Self {
        let part = |n: usize| {
            let mut bytes = [0; NodeId::BYTES];
            bytes.copy_from_slice(&signed.signature[n * NodeId::BYTES..(n + 1) * NodeId::BYTES]);
            bytes
        };
        Self {
            node: *signed.node.as_bytes(),
            sequence: signed.sequence,
            base: (signed.base.sequence, signed.base.mark.to_be_bytes()),
            set: signed.delta.set.clone(),
            removed: signed.delta.removed.clone(),
            signature: (part(0), part(1), part(2), part(3)),
        }
    }
}
