//! One version byte and a bincode body, so many bytes at most.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, from_bytes, to_bytes};

/// A frame of `version` with `body`, at most `MOST` bytes in all.
///
/// # Errors
///
/// [`Error::TooLong`], or a body that bincode cannot write.
pub fn encode<T: Serialize, const MOST: usize>(version: u8, body: &T) -> Result<Vec<u8>, Error> {
    let body = to_bytes(body)?;
    match body.len() + 1 {
        length if length > MOST => Err(Error::TooLong { length, most: MOST }),
        _ => Ok([&[version], body.as_slice()].concat()),
    }
}

/// The body of a frame of `version`, which is all of `bytes`.
///
/// # Errors
///
/// Whatever is not exactly one such frame.
pub fn decode<T: DeserializeOwned, const MOST: usize>(version: u8, bytes: &[u8]) -> Result<T, Error> {
    if bytes.len() > MOST {
        return Err(Error::TooLong { length: bytes.len(), most: MOST });
    }
    match bytes.split_first() {
        None => Err(Error::Empty),
        Some((&got, _)) if got != version => Err(Error::Version { got, reads: version }),
        Some((_, body)) => from_bytes::<T, MOST>(body),
    }
}
