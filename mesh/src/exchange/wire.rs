//! Frames between a fetcher and a holder of an image.
//!
//! A frame is its length (4 bytes, little-endian, of what follows), one version byte, one byte of kind, and the
//! fields. Written by hand and not with bincode: content of blocks goes through without being copied element by
//! element, and every length is checked at the place where it is read.

use vm_images::blocks;
use vm_images::manifest::{self, Role};
use vm_images::{Digest, ImageId, signature};

/// Version of the frames that this release writes and reads.
pub const VERSION: u8 = 1;
/// The name under which the protocol is spoken on a libp2p stream; ends in the version.
pub const PROTOCOL: &str = "/cloudlet/images/1";
/// Longest request, bytes after the length.
pub const MAX_REQUEST_BYTES: usize = 512;
/// Longest answer, bytes after the length: a block of the longest kind and its fields.
pub const MAX_ANSWER_BYTES: usize = blocks::MAX_BLOCK_BYTES as usize + 64;
/// Most runs of blocks in one request.
pub const MAX_RUNS: usize = 32;
/// Most blocks in one request. A guess: 4 MiB of the usual ones, all that is ever in flight to one peer.
pub const MAX_BLOCKS_ASKED: u32 = 64;
/// Most entries of a list in one answer: 128 KiB.
pub const MAX_LIST_ENTRIES: u32 = 4096;

/// Bytes that are not a frame of this protocol.
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
    #[error("frame version {0}, this release reads {VERSION}")]
    Version(u8),
    /// No frame of this kind is known.
    #[error("frame kind {0}, which is unknown")]
    Kind(u8),
    /// It ends too early.
    #[error("a frame that ends too early")]
    Short,
    /// A whole frame and then something more.
    #[error("{0} bytes after the end of a frame")]
    Rest(usize),
    /// A value outside its range.
    #[error("a frame with a bad {0}")]
    Value(&'static str),
}

/// What a fetcher asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The manifest and its signature.
    Manifest {
        /// Of this image.
        image: ImageId,
    },
    /// Values of a part's blocks.
    List {
        /// The image.
        image: ImageId,
        /// Which part.
        role: Role,
        /// The first block.
        first: u32,
        /// How many; at most [`MAX_LIST_ENTRIES`].
        count: u32,
    },
    /// Blocks of a part.
    Blocks {
        /// The image.
        image: ImageId,
        /// Which part.
        role: Role,
        /// First block and number of blocks of each run; at most [`MAX_RUNS`] with [`MAX_BLOCKS_ASKED`] in all.
        runs: Vec<(u32, u32)>,
    },
}

/// What a holder answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Request::Manifest`].
    Manifest {
        /// The exact bytes of the manifest.
        manifest: Vec<u8>,
        /// The exact bytes of its signature file.
        signature: Vec<u8>,
    },
    /// To [`Request::List`].
    List {
        /// Which part.
        role: Role,
        /// The first block.
        first: u32,
        /// [`blocks::ENTRY_BYTES`] for each block.
        values: Vec<u8>,
    },
    /// To [`Request::Blocks`], one for each block, in the order of the request.
    Block {
        /// Which part.
        role: Role,
        /// Which block.
        block: u32,
        /// How the content is written.
        packing: Packing,
        /// At most [`blocks::MAX_BLOCK_BYTES`].
        content: Vec<u8>,
    },
    /// Nothing more comes for this request.
    Refused(Refusal),
}

/// How the content of a block is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// A zstd frame.
    Zstd,
}

/// Why a holder does not give what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It does not hold the image (any more).
    NotHeld,
    /// It serves as many as it can.
    Busy,
    /// It does not understand the request.
    Nonsense,
    /// It cannot read its own image.
    Failed,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotHeld => "it does not hold the image",
            Self::Busy => "it is busy",
            Self::Nonsense => "it did not understand the request",
            Self::Failed => "it cannot read its image",
        })
    }
}

/// Checks the stated length of a frame before anything of it is read.
pub fn length(header: [u8; 4], most: usize) -> Result<usize, Error> {
    let found = u32::from_le_bytes(header) as usize;
    match found {
        0 | 1 => Err(Error::Short),
        _ if found > most => Err(Error::TooLong { found, most }),
        _ => Ok(found),
    }
}

impl Request {
    /// The whole frame, with its length.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Manifest { image } => frame(1, |out| out.extend(image.0.as_bytes())),
            Self::List { image, role, first, count } => frame(2, |out| {
                out.extend(image.0.as_bytes());
                out.push(role_number(*role));
                out.extend(first.to_le_bytes());
                out.extend(count.to_le_bytes());
            }),
            Self::Blocks { image, role, runs } => frame(3, |out| {
                out.extend(image.0.as_bytes());
                out.push(role_number(*role));
                out.push(runs.len() as u8);
                for (first, count) in runs {
                    out.extend(first.to_le_bytes());
                    out.extend(count.to_le_bytes());
                }
            }),
        }
    }

    /// Reads what follows the length.
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        let (kind, mut rest) = opened(body, MAX_REQUEST_BYTES)?;
        let image = |rest: &mut &[u8]| Ok(ImageId(Digest::from_bytes(take(rest)?)));
        let request = match kind {
            1 => Self::Manifest { image: image(&mut rest)? },
            2 => Self::List {
                image: image(&mut rest)?,
                role: role(&mut rest)?,
                first: number(&mut rest)?,
                count: number(&mut rest)?,
            },
            3 => {
                let (image, role) = (image(&mut rest)?, role(&mut rest)?);
                let [count] = take(&mut rest)?;
                if usize::from(count) > MAX_RUNS {
                    return Err(Error::Value("number of runs"));
                }
                let runs = (0..count).map(|_| Ok((number(&mut rest)?, number(&mut rest)?)));
                Self::Blocks { image, role, runs: runs.collect::<Result<_, Error>>()? }
            }
            other => return Err(Error::Kind(other)),
        };
        ended(rest)?;
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Manifest { .. } => Ok(()),
            Self::List { first, count, .. } => {
                let fits = (1..=MAX_LIST_ENTRIES).contains(count)
                    && first.checked_add(*count).is_some_and(|end| end <= blocks::MAX_BLOCKS);
                if fits { Ok(()) } else { Err(Error::Value("range of a list")) }
            }
            Self::Blocks { runs, .. } => {
                let mut asked = 0_u32;
                for (first, count) in runs {
                    let inside = first.checked_add(*count).is_some_and(|end| end <= blocks::MAX_BLOCKS);
                    if *count == 0 || !inside {
                        return Err(Error::Value("run of blocks"));
                    }
                    // Each run is within `MAX_BLOCKS` and there are few, so the sum is far from overflowing.
                    asked += count;
                }
                let fits = (1..=MAX_BLOCKS_ASKED).contains(&asked);
                if fits { Ok(()) } else { Err(Error::Value("number of blocks")) }
            }
        }
    }
}

impl Answer {
    /// The whole frame, with its length.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Manifest { manifest, signature } => frame(1, |out| {
                out.extend((manifest.len() as u32).to_le_bytes());
                out.extend(manifest);
                out.extend(signature);
            }),
            Self::List { role, first, values } => frame(2, |out| {
                out.push(role_number(*role));
                out.extend(first.to_le_bytes());
                out.extend(values);
            }),
            Self::Block { role, block, packing, content } => frame(3, |out| {
                out.push(role_number(*role));
                out.extend(block.to_le_bytes());
                out.push(match packing {
                    Packing::Plain => 0,
                    Packing::Zstd => 1,
                });
                out.extend(content);
            }),
            Self::Refused(refusal) => frame(4, |out| {
                out.push(match refusal {
                    Refusal::NotHeld => 1,
                    Refusal::Busy => 2,
                    Refusal::Nonsense => 3,
                    Refusal::Failed => 4,
                });
            }),
        }
    }

    /// Reads what follows the length.
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        let (kind, mut rest) = opened(body, MAX_ANSWER_BYTES)?;
        match kind {
            1 => {
                let length = number(&mut rest)? as usize;
                let (manifest, signature) = rest.split_at_checked(length).ok_or(Error::Short)?;
                if manifest.len() as u64 > manifest::MAX_BYTES {
                    return Err(Error::Value("length of a manifest"));
                }
                if signature.len() as u64 > signature::MAX_BYTES {
                    return Err(Error::Value("length of a signature"));
                }
                Ok(Self::Manifest { manifest: manifest.to_vec(), signature: signature.to_vec() })
            }
            2 => {
                let (role, first) = (role(&mut rest)?, number(&mut rest)?);
                let entries = rest.len() / blocks::ENTRY_BYTES;
                let whole = rest.len().is_multiple_of(blocks::ENTRY_BYTES);
                if !whole || entries == 0 || entries > MAX_LIST_ENTRIES as usize {
                    return Err(Error::Value("length of a list"));
                }
                Ok(Self::List { role, first, values: rest.to_vec() })
            }
            3 => {
                let (role, block) = (role(&mut rest)?, number(&mut rest)?);
                let packing = match take(&mut rest)? {
                    [0] => Packing::Plain,
                    [1] => Packing::Zstd,
                    _ => return Err(Error::Value("packing")),
                };
                if rest.is_empty() || rest.len() > blocks::MAX_BLOCK_BYTES as usize {
                    return Err(Error::Value("length of a block"));
                }
                Ok(Self::Block { role, block, packing, content: rest.to_vec() })
            }
            4 => {
                let refusal = match take(&mut rest)? {
                    [1] => Refusal::NotHeld,
                    [2] => Refusal::Busy,
                    [3] => Refusal::Nonsense,
                    [4] => Refusal::Failed,
                    _ => return Err(Error::Value("refusal")),
                };
                ended(rest)?;
                Ok(Self::Refused(refusal))
            }
            other => Err(Error::Kind(other)),
        }
    }
}

fn frame(kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, VERSION, kind];
    fill(&mut out);
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_le_bytes());
    out
}

fn opened(body: &[u8], most: usize) -> Result<(u8, &[u8]), Error> {
    if body.len() > most {
        return Err(Error::TooLong { found: body.len(), most });
    }
    match body {
        [VERSION, kind, rest @ ..] => Ok((*kind, rest)),
        [version, _, ..] => Err(Error::Version(*version)),
        _ => Err(Error::Short),
    }
}

fn ended(rest: &[u8]) -> Result<(), Error> {
    if rest.is_empty() { Ok(()) } else { Err(Error::Rest(rest.len())) }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Error> {
    let (taken, left) = rest.split_first_chunk::<N>().ok_or(Error::Short)?;
    *rest = left;
    Ok(*taken)
}

fn number(rest: &mut &[u8]) -> Result<u32, Error> {
    take(rest).map(u32::from_le_bytes)
}

fn role(rest: &mut &[u8]) -> Result<Role, Error> {
    let [number] = take(rest)?;
    Role::ALL.into_iter().find(|role| role_number(*role) == number).ok_or(Error::Value("part"))
}

/// Numbers of the parts on the wire; never given to another part.
fn role_number(role: Role) -> u8 {
    match role {
        Role::Disk => 1,
        Role::MemoryTemplate => 2,
        Role::DeviceStream => 3,
        Role::Kernel => 4,
        Role::Initrd => 5,
        Role::PackageStatus => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image() -> ImageId {
        "ab".repeat(32).parse().unwrap()
    }

    fn requests() -> Vec<Request> {
        vec![
            Request::Manifest { image: image() },
            Request::List { image: image(), role: Role::MemoryTemplate, first: 4096, count: 17 },
            Request::Blocks { image: image(), role: Role::Disk, runs: vec![(0, 1), (7, 63)] },
        ]
    }

    fn answers() -> Vec<Answer> {
        vec![
            Answer::Manifest { manifest: b"{}".to_vec(), signature: b"sig".to_vec() },
            Answer::List { role: Role::Kernel, first: 3, values: vec![9; 64] },
            Answer::Block { role: Role::Initrd, block: 5, packing: Packing::Zstd, content: b"abc".to_vec() },
            Answer::Refused(Refusal::Busy),
        ]
    }

    #[test]
    fn frames_survive_the_wire() {
        for request in requests() {
            let bytes = request.encode();
            assert_eq!(length(bytes[..4].try_into().unwrap(), MAX_REQUEST_BYTES), Ok(bytes.len() - 4));
            assert_eq!(Request::decode(&bytes[4..]), Ok(request));
        }
        for answer in answers() {
            let bytes = answer.encode();
            assert_eq!(length(bytes[..4].try_into().unwrap(), MAX_ANSWER_BYTES), Ok(bytes.len() - 4));
            assert_eq!(Answer::decode(&bytes[4..]), Ok(answer));
        }
    }

    #[test]
    fn the_bytes_are_those_of_version_1() {
        let id = "ab".repeat(32);
        let shown: Vec<String> = requests().iter().map(|request| hex::encode(request.encode())).collect();
        assert_eq!(
            shown,
            [
                format!("220000000101{id}"),
                format!("2b0000000102{id}020010000011000000"),
                format!("340000000103{id}01020000000001000000070000003f000000"),
            ]
        );
        let shown: Vec<String> = answers().iter().map(|answer| hex::encode(answer.encode())).collect();
        assert_eq!(
            shown,
            [
                "0b0000000101020000007b7d736967".to_owned(),
                format!("4700000001020403000000{}", "09".repeat(64)),
                "0b0000000103050500000001616263".to_owned(),
                "03000000010402".to_owned(),
            ]
        );
    }

    #[test]
    fn absurd_values_are_refused() {
        assert_eq!(
            length([255; 4], MAX_ANSWER_BYTES),
            Err(Error::TooLong { found: 0xffff_ffff, most: MAX_ANSWER_BYTES })
        );
        assert_eq!(length([0; 4], 10), Err(Error::Short));
        let refused = |request: Request| Request::decode(&request.encode()[4..]).unwrap_err();
        let blocks = |runs| Request::Blocks { image: image(), role: Role::Disk, runs };
        assert_eq!(refused(blocks(vec![])), Error::Value("number of blocks"));
        assert_eq!(refused(blocks(vec![(0, 65)])), Error::Value("number of blocks"));
        assert_eq!(refused(blocks(vec![(0, 0)])), Error::Value("run of blocks"));
        assert_eq!(refused(blocks(vec![(u32::MAX, 1)])), Error::Value("run of blocks"));
        assert_eq!(refused(blocks(vec![(0, 1); 33])), Error::Value("number of runs"));
        let list = |first, count| Request::List { image: image(), role: Role::Disk, first, count };
        assert_eq!(refused(list(0, 0)), Error::Value("range of a list"));
        assert_eq!(refused(list(0, 4097)), Error::Value("range of a list"));
        assert_eq!(refused(list(u32::MAX, 2)), Error::Value("range of a list"));
        assert_eq!(Answer::decode(&[2, 1]), Err(Error::Version(2)));
        assert_eq!(Answer::decode(&[1, 9]), Err(Error::Kind(9)));
        assert_eq!(Answer::decode(&[1, 4, 1, 1]), Err(Error::Rest(1)));
        let long = Answer::Manifest { manifest: vec![b' '; 65_537], signature: vec![] };
        assert_eq!(Answer::decode(&long.encode()[4..]), Err(Error::Value("length of a manifest")));
    }

    proptest! {
        #[test]
        fn cut_or_flipped_bytes_never_panic(which in 0_usize..7, cut in 0_usize..120, at in 0_usize..120, bit in 0_u8..8) {
            let frames: Vec<Vec<u8>> =
                requests().iter().map(Request::encode).chain(answers().iter().map(Answer::encode)).collect();
            let mut bytes = frames[which][4..].to_vec();
            let place = at % bytes.len();
            bytes[place] ^= 1 << bit;
            bytes.truncate(cut);
            let _ = Request::decode(&bytes);
            let _ = Answer::decode(&bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
            let _ = Answer::decode(&bytes);
        }
    }
}
