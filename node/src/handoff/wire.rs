//! Frames on the streams of a handoff.
//!
//! ```text
//! u32 length of what follows, little endian | u8 kind | body
//! 0 words   u8 version                                   first on a stream: words of `migration::handoff::wire` follow
//! 1 pages   u8 version | 16 bytes VM | 16 bytes grant    first on a stream: a VM's pages follow
//! 2 word    a word
//! 3 have    16 bytes each: hashes of pages that are here; the last such frame is empty
//! 4 piece   a frame of `migration::reduce`
//! 5 alive   nothing: the link stands, and there is nothing to send
//! 6 all     record of the instance: all was sent, and the VM stands still
//! 7 stored  nothing: all has come, and is on disk
//! 8 refused why, for people
//! 9 taken   u64 how many of the frames 4 to 6 have come so far, little endian
//! ```

use migration::VmId;
use migration::handoff::Grant;
use migration::reduce::{self, PageHash};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use uuid::Uuid;

use crate::instances::record;

/// Version of the streams that this release speaks; also in the protocol's name.
pub const VERSION: u8 = 2;
/// The name under which the protocol is spoken on a libp2p stream; ends in the version.
pub const PROTOCOL: &str = "/cloudlet/handoff/2";
/// Longest frame, bytes after the length: a piece, which is at most incompressible device state.
pub const MAX_BYTES: usize = reduce::MAX_FRAME_BYTES + 16;
/// Hashes in one frame: 64 KiB.
pub const MAX_HASHES: usize = 4096;
/// Longest reason, bytes.
pub const MAX_WHY_BYTES: usize = 1024;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Words follow.
    Words,
    /// Pages follow.
    Pages {
        /// Of this VM.
        vm: VmId,
        /// For this reservation.
        grant: Grant,
    },
    /// A word, encoded.
    Word(Vec<u8>),
    /// Pages that are here.
    Have(Vec<PageHash>),
    /// A piece of the VM, encoded.
    Piece(Vec<u8>),
    /// The link stands.
    Alive,
    /// All was sent; with the record of the instance.
    All(Vec<u8>),
    /// All has come.
    Stored,
    /// Nothing comes of it.
    Refused(String),
    /// So many pieces, signs of life and ends have come so far.
    Taken(u64),
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than allowed; it was not read.
    #[error("a frame of {found} bytes (at most {most})")]
    TooLong {
        /// Its stated length, bytes.
        found: usize,
        /// The most that is read, bytes.
        most: usize,
    },
    /// Written by a release that this one cannot read.
    #[error(
        "handoff streams of version {0}, this release reads {VERSION}: bring both cloudlets to the same release"
    )]
    Version(u8),
    /// Not a frame of this version.
    #[error("a frame with a bad {0}")]
    Damaged(&'static str),
}

impl Frame {
    /// The frame's bytes, with its length.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        match self {
            Self::Words => out.extend([0, VERSION]),
            Self::Pages { vm, grant } => {
                out.extend([1, VERSION]);
                out.extend(vm.0.as_bytes());
                out.extend(grant.0.to_be_bytes());
            }
            Self::Word(word) => put(&mut out, 2, word),
            Self::Have(hashes) => put(&mut out, 3, hashes.as_flattened()),
            Self::Piece(piece) => put(&mut out, 4, piece),
            Self::Alive => out.push(5),
            Self::All(record) => put(&mut out, 6, record),
            Self::Stored => out.push(7),
            Self::Taken(frames) => put(&mut out, 9, &frames.to_le_bytes()),
            Self::Refused(why) => put(&mut out, 8, &why.as_bytes()[..why.floor_char_boundary(MAX_WHY_BYTES)]),
        }
        let length = (out.len() - 4) as u32;
        out[..4].copy_from_slice(&length.to_le_bytes());
        out
    }

    /// The frame whose bytes after the length these are.
    ///
    /// # Errors
    ///
    /// Whatever is not exactly one frame of this version.
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        let (kind, rest) = body.split_first().ok_or(Error::Damaged("length"))?;
        Ok(match kind {
            0 if version(rest)?.is_empty() => Self::Words,
            1 => {
                let (vm, grant) = version(rest)?.split_first_chunk().ok_or(Error::Damaged("length"))?;
                let grant = grant.try_into().map_err(|_| Error::Damaged("length"))?;
                Self::Pages { vm: VmId(Uuid::from_bytes(*vm)), grant: Grant(u128::from_be_bytes(grant)) }
            }
            2 => Self::Word(capped(rest, migration::handoff::wire::MAX_BYTES)?.to_vec()),
            3 => match capped(rest, MAX_HASHES * size_of::<PageHash>())?.as_chunks() {
                (hashes, []) => Self::Have(hashes.to_vec()),
                _ => return Err(Error::Damaged("list of pages")),
            },
            4 => Self::Piece(rest.to_vec()),
            5 if rest.is_empty() => Self::Alive,
            6 => Self::All(capped(rest, record::MAX_BYTES)?.to_vec()),
            7 if rest.is_empty() => Self::Stored,
            8 => {
                let why =
                    str::from_utf8(capped(rest, MAX_WHY_BYTES)?).map_err(|_| Error::Damaged("reason"))?;
                // Printed on terminals and in logs of the other side.
                Self::Refused(why.replace(char::is_control, " "))
            }
            9 => Self::Taken(u64::from_le_bytes(rest.try_into().map_err(|_| Error::Damaged("length"))?)),
            _ => return Err(Error::Damaged("kind")),
        })
    }
}

fn put(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    out.extend(body);
}

fn version(body: &[u8]) -> Result<&[u8], Error> {
    match body.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((other, _)) => Err(Error::Version(*other)),
        None => Err(Error::Damaged("length")),
    }
}

fn capped(body: &[u8], most: usize) -> Result<&[u8], Error> {
    if body.len() <= most { Ok(body) } else { Err(Error::TooLong { found: body.len(), most }) }
}

/// Reads the next frame; an error at the end of the stream.
///
/// # Errors
///
/// The stream's, and those of bytes that are no frame (as `InvalidData`).
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Frame> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let found = u32::from_le_bytes(header) as usize;
    if found > MAX_BYTES {
        return Err(invalid(Error::TooLong { found, most: MAX_BYTES }));
    }
    let mut body = Vec::new();
    // Grows with what really comes.
    stream.take(found as u64).read_to_end(&mut body).await?;
    if body.len() < found {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Frame::decode(&body).map_err(invalid)
}

fn invalid(error: Error) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Words,
            Frame::Pages { vm: VmId(Uuid::from_u128(1)), grant: Grant(2) },
            Frame::Word(vec![1, 2]),
            Frame::Have(vec![[3; 16], [4; 16]]),
            Frame::Piece(vec![5]),
            Frame::Alive,
            Frame::All(vec![6]),
            Frame::Stored,
            Frame::Refused("no".to_owned()),
            Frame::Taken(7),
        ]
    }

    #[test]
    fn golden_bytes_of_version_2() {
        let all: Vec<String> = frames().iter().map(|frame| hex::encode(frame.encode())).collect();
        let wanted = [
            "020000000002",
            "2200000001020000000000000000000000000000000100000000000000000000000000000002",
            "03000000020102",
            "21000000030303030303030303030303030303030304040404040404040404040404040404",
            "020000000405",
            "0100000005",
            "020000000606",
            "0100000007",
            "03000000086e6f",
            "09000000090700000000000000",
        ];
        assert_eq!(all, wanted);
    }

    #[tokio::test]
    async fn frames_come_back_and_cut_ones_do_not() {
        for frame in frames() {
            let bytes = frame.encode();
            assert_eq!(read(&mut &bytes[..]).await.unwrap(), frame);
            for end in 0..bytes.len() {
                assert!(read(&mut &bytes[..end]).await.is_err(), "{frame:?} cut to {end}");
            }
        }
        let mut long = Vec::from(u32::MAX.to_le_bytes());
        long.extend([4; 10]);
        let error = read(&mut &long[..]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_a_frame_or_refused(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Ok(frame) = Frame::decode(&body) {
                proptest::prop_assert_eq!(Frame::decode(&frame.encode()[4..]), Ok(frame));
            }
        }
    }
}
