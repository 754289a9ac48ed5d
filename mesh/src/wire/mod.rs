//! What travels between cloudlets, as bytes.
//!
//! * [`cells`]: an advert as small named pieces, so that a change travels as the pieces that changed.
//! * [`advert`]: which piece holds what.
//! * [`frame`]: what two neighbours say to each other over their link.
//! * [`versioned`]: a frame as such, one version byte and a bincode body (`config::standard()`); others' frames are made so, too.
//!
//! The types here are the frame's own and
//! mirror the core's, so that neither can change the other by accident. A reader takes at most a stated number of
//! bytes, must use up every byte, and checks every range before a core type is made. Bincode is unmaintained; it
//! stays behind this module. What a cloudlet signs is not a bincode body but the digest that
//! [`cells::Cells::digest`] defines byte by byte.

use serde::Serialize;
use serde::de::DeserializeOwned;

pub mod advert;
pub mod cells;
pub mod frame;
pub mod versioned;

/// Version of the frames that this release writes and reads.
pub const VERSION: u8 = 2;

/// Bytes that are not a frame, or a frame that cannot become what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More bytes than the kind of frame may have.
    #[error("{length} bytes are too long (at most {most})")]
    TooLong {
        /// How many there were.
        length: usize,
        /// How many there may be.
        most: usize,
    },
    /// Nothing at all.
    #[error("an empty frame")]
    Empty,
    /// Written by a release that this one cannot read.
    #[error("frame version {got}, this release reads {reads}: bring both cloudlets to the same release")]
    Version {
        /// Which.
        got: u8,
        /// What this release reads.
        reads: u8,
    },
    /// Cut, flipped or not ours.
    #[error("a damaged frame")]
    Damaged(#[source] bincode::error::DecodeError),
    /// A whole frame and then something more.
    #[error("{0} bytes after the end of a frame")]
    Rest(usize),
    /// A value outside its range.
    #[error("a frame with a bad {0}")]
    Value(&'static str),
    /// The body could not be written.
    #[error("cannot encode a frame")]
    Encode(#[source] bincode::error::EncodeError),
}

fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).map_err(Error::Encode)
}

/// Decodes all of `bytes`, at most `MOST` of them.
fn from_bytes<T: DeserializeOwned, const MOST: usize>(bytes: &[u8]) -> Result<T, Error> {
    if bytes.len() > MOST {
        return Err(Error::TooLong { length: bytes.len(), most: MOST });
    }
    let config = bincode::config::standard().with_limit::<MOST>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config).map_err(Error::Damaged)?;
    match bytes.len() - used {
        0 => Ok(value),
        rest => Err(Error::Rest(rest)),
    }
}
