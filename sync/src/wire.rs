//! Frames between nodes: one version byte, then a [`Frame`] in bincode 2.
//!
//! Core types are never written as they are: their private mirrors in this file are, so that a renamed field cannot
//! change what peers read. A receiver refuses frames over [`MAX_FRAME_BYTES`] before reading them, frames with anything
//! left over, and revisions that contradict themselves. Times travel whole (seconds and nanoseconds): a revision
//! that came back changed in its last digit would be another revision.

use std::time::Duration;

use bincode::config;
use mesh::NodeId;
use serde::{Deserialize, Serialize};

use crate::key::{ContentId, Key, ParseKeyError};
use crate::revision::{Body, Priority, Revision};
use crate::version::Version;

/// Version of the frames that this release writes; the only one that it reads.
pub const VERSION: u8 = 1;
/// Longest frame, bytes. On a 1 Mbit/s link it takes half a second, so an urgent frame never waits longer than that.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// Longest piece of content in one frame, bytes.
pub const MAX_PIECE_BYTES: usize = 32 * 1024;
/// Most items in the list of one frame.
pub const MAX_ITEMS: usize = 1024;

/// What one node says to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// "Tell me what is in your log after this place."
    Since(u64),
    /// Revisions from the sender's log.
    Revisions {
        /// Place in the sender's log up to which the receiver knows it then.
        up_to: u64,
        /// The revisions, at most [`MAX_ITEMS`].
        revisions: Vec<Revision>,
    },
    /// "I lack these contents, and have this many bytes of each from the beginning."
    Want(Vec<(ContentId, u64)>),
    /// A piece of content.
    Piece {
        /// Of which content.
        content: ContentId,
        /// Where the piece begins.
        offset: u64,
        /// The piece, at most [`MAX_PIECE_BYTES`].
        bytes: Vec<u8>,
    },
}

/// A frame that cannot be read or written. A reader drops the frame and keeps all that it knew.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too many bytes or items for one frame; the writer must split it.
    #[error("{what}: {size} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Not even a version byte.
    #[error("the frame is empty")]
    Empty,
    /// Another version.
    #[error("the peer speaks sync version {found}, this node speaks {VERSION}; update the older of the two")]
    Version {
        /// First byte of the frame.
        found: u8,
    },
    /// Bytes that are no frame.
    #[error("these bytes are no sync frame")]
    Decode(#[source] bincode::error::DecodeError),
    /// A frame that could not be put into bytes.
    #[error("the frame cannot be written")]
    Encode(#[source] bincode::error::EncodeError),
    /// More bytes than the frame has.
    #[error("{0} bytes follow the end of the frame")]
    Trailing(usize),
    /// A revision with a bad key.
    #[error("a revision in the frame names no object")]
    Key(#[source] ParseKeyError),
    /// A revision that contradicts itself.
    #[error("a revision of '{key}' in the frame is impossible: {problem}")]
    Revision {
        /// Key of the revision.
        key: Key,
        /// What is wrong.
        problem: &'static str,
    },
}

/// bincode's settings; the limit also bounds what a false length can make the reader allocate.
const CONFIG: config::Configuration<config::LittleEndian, config::Varint, config::Limit<MAX_FRAME_BYTES>> =
    config::standard().with_limit::<MAX_FRAME_BYTES>();

/// The bytes of `frame`.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, Error> {
    let written = match frame {
        Frame::Since(place) => Written::Since(*place),
        Frame::Revisions { up_to, revisions } => {
            capped("revisions", revisions.len(), MAX_ITEMS)?;
            Written::Revisions(*up_to, revisions.iter().map(WrittenRevision::from).collect())
        }
        Frame::Want(contents) => {
            capped("wanted contents", contents.len(), MAX_ITEMS)?;
            Written::Want(contents.iter().map(|(id, have)| (*id.as_bytes(), *have)).collect())
        }
        Frame::Piece { content, offset, bytes } => {
            capped("bytes of a piece", bytes.len(), MAX_PIECE_BYTES)?;
            Written::Piece(*content.as_bytes(), *offset, bytes.clone())
        }
    };
    let mut bytes = vec![VERSION];
    bytes.extend(bincode::serde::encode_to_vec(&written, CONFIG).map_err(Error::Encode)?);
    capped("bytes of a frame", bytes.len(), MAX_FRAME_BYTES)?;
    Ok(bytes)
}

/// The frame in `bytes`, which must be exactly one.
pub fn decode(bytes: &[u8]) -> Result<Frame, Error> {
    capped("bytes of a frame", bytes.len(), MAX_FRAME_BYTES)?;
    let (version, body) = bytes.split_first().ok_or(Error::Empty)?;
    if *version != VERSION {
        return Err(Error::Version { found: *version });
    }
    let (written, used): (Written, usize) =
        bincode::serde::decode_from_slice(body, CONFIG).map_err(Error::Decode)?;
    if used < body.len() {
        return Err(Error::Trailing(body.len() - used));
    }
    match written {
        Written::Since(place) => Ok(Frame::Since(place)),
        Written::Revisions(up_to, revisions) => {
            capped("revisions", revisions.len(), MAX_ITEMS)?;
            let revisions = revisions.into_iter().map(WrittenRevision::read).collect::<Result<_, _>>()?;
            Ok(Frame::Revisions { up_to, revisions })
        }
        Written::Want(contents) => {
            capped("wanted contents", contents.len(), MAX_ITEMS)?;
            Ok(Frame::Want(
                contents.into_iter().map(|(id, have)| (ContentId::from_bytes(id), have)).collect(),
            ))
        }
        Written::Piece(content, offset, bytes) => {
            capped("bytes of a piece", bytes.len(), MAX_PIECE_BYTES)?;
            Ok(Frame::Piece { content: ContentId::from_bytes(content), offset, bytes })
        }
    }
}

fn capped(what: &'static str, size: usize, limit: usize) -> Result<(), Error> {
    if size > limit { Err(Error::TooLarge { what, size, limit }) } else { Ok(()) }
}

/// [`Frame`] as it travels. Order of variants and fields is the format.
#[derive(Serialize, Deserialize)]
enum Written {
    Since(u64),
    Revisions(u64, Vec<WrittenRevision>),
    Want(Vec<([u8; ContentId::BYTES], u64)>),
    Piece([u8; ContentId::BYTES], u64, Vec<u8>),
}

/// [`Revision`] as it travels.
#[derive(Serialize, Deserialize)]
struct WrittenRevision {
    key: String,
    version: Vec<([u8; NodeId::BYTES], u64)>,
    written: (u64, u32),
    author: [u8; NodeId::BYTES],
    body: Option<([u8; ContentId::BYTES], u64)>,
    priority: u8,
    deadline: Option<(u64, u32)>,
}

impl From<&Revision> for WrittenRevision {
    fn from(revision: &Revision) -> Self {
        let time = |time: Duration| (time.as_secs(), time.subsec_nanos());
        Self {
            key: revision.key.as_str().to_owned(),
            version: revision.version.counts().map(|(node, count)| (*node.as_bytes(), count)).collect(),
            written: time(revision.written),
            author: *revision.author.as_bytes(),
            body: match revision.body {
                Body::Content { id, bytes } => Some((*id.as_bytes(), bytes)),
                Body::Deleted => None,
            },
            priority: revision.priority as u8,
            deadline: revision.deadline.map(time),
        }
    }
}

impl WrittenRevision {
    fn read(self) -> Result<Revision, Error> {
        let key: Key = self.key.parse().map_err(Error::Key)?;
        capped("nodes of a version", self.version.len(), Version::MAX_NODES)?;
        let wrong = |problem| Error::Revision { key: key.clone(), problem };
        let time = |(seconds, nanos): (u64, u32)| {
            (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos)).ok_or_else(|| wrong("bad time"))
        };
        let author = NodeId::from_bytes(self.author);
        let rising = self.version.is_sorted_by(|a, b| a.0 < b.0);
        if !rising || self.version.iter().any(|(_, count)| *count == 0) {
            return Err(wrong("its version is not in canonical form"));
        }
        let version =
            Version::from_counts(self.version.into_iter().map(|(id, n)| (NodeId::from_bytes(id), n)));
        if version.count(author) == 0 {
            return Err(wrong("its version lacks its author's change"));
        }
        let priority =
            *Priority::ALL.get(usize::from(self.priority)).ok_or_else(|| wrong("unknown priority"))?;
        Ok(Revision {
            version,
            written: time(self.written)?,
            author,
            body: self
                .body
                .map_or(Body::Deleted, |(id, bytes)| Body::Content { id: ContentId::from_bytes(id), bytes }),
            priority,
            deadline: self.deadline.map(time).transpose()?,
            key,
        })
    }
}
