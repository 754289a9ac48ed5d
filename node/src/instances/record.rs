//! What is written to disk about an instance: a frame of its own, not the core's types.
//!
//! ```text
//! 1 byte   version, 1
//! 8 bytes  first bytes of the BLAKE3 hash of what follows: a damaged record is told from a whole one
//! rest     bincode (standard configuration) of the version's struct
//! ```
//! A release reads its own version and those before it; a record that it cannot read is logged and its VM stopped.

use std::net::SocketAddr;

use handheld::api::Sharing;
use migration::VmId;
use serde::{Deserialize, Serialize};
use vm_images::{ImageId, ServiceId};

use crate::lifecycle::{Claim, Instance, Outcome, Phase, Saved, SavedPhase, Service, Token};

/// Version that this release writes.
pub const VERSION: u8 = 1;
/// Longest record, bytes. Room for 1800 users with the longest tokens; usual is under 1 KiB.
pub const MAX_BYTES: usize = 256 * 1024;
const CHECK_BYTES: usize = 8;
const HEAD_BYTES: usize = 1 + CHECK_BYTES;

/// Why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_BYTES`]. Nothing was read or written.
    #[error("a record of {0} bytes is longer than the {MAX_BYTES} that are allowed")]
    TooLong(usize),
    /// Shorter than any record.
    #[error("a record of {0} bytes is cut off")]
    Cut(usize),
    /// Another release wrote it.
    #[error("the record has version {0}; this release reads version {VERSION}")]
    Version(u8),
    /// The hash does not fit.
    #[error("the record is damaged: its hash does not fit its content")]
    Damaged,
    /// The bytes are not what a record holds.
    #[error("the record cannot be decoded")]
    Decode(#[source] bincode::error::DecodeError),
    /// There is more than the record.
    #[error("the record is followed by {0} bytes that do not belong to it")]
    Trailing(usize),
    /// A field holds what it must not.
    #[error("the record names an impossible client token")]
    Token(#[source] crate::lifecycle::BadToken),
    /// It cannot be encoded.
    #[error("the record cannot be encoded")]
    Encode(#[source] bincode::error::EncodeError),
}

#[derive(Serialize, Deserialize)]
struct V1 {
    vm: VmId,
    service: ServiceV1,
    shared: bool,
    owner: String,
    users: Vec<String>,
    phase: PhaseV1,
    address: Option<SocketAddr>,
    requested_unix_ms: u64,
    ready_after_ms: Option<u64>,
    reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ServiceV1 {
    id: ServiceId,
    image: ImageId,
    guest_port: u16,
    health_path: String,
    needs_memory_bytes: u64,
    needs_cpu_millis: u32,
    max_users: u32,
}

/// The order is part of the format: only ever add at the end.
#[derive(Serialize, Deserialize)]
enum PhaseV1 {
    Starting,
    Ready,
    StoppingToStopped,
    StoppingToFailed,
    Stopped,
    Failed,
    Fetching,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_BYTES>()
}

/// The record of an instance.
pub fn encode(instance: &Instance) -> Result<Vec<u8>, Error> {
    let body = bincode::serde::encode_to_vec(V1::from(instance), config()).map_err(Error::Encode)?;
    if HEAD_BYTES + body.len() > MAX_BYTES {
        return Err(Error::TooLong(HEAD_BYTES + body.len()));
    }
    let mut record = vec![VERSION];
    record.extend_from_slice(&check(&body));
    record.extend_from_slice(&body);
    Ok(record)
}

/// What a record says.
pub fn decode(record: &[u8]) -> Result<Saved, Error> {
    if record.len() > MAX_BYTES {
        return Err(Error::TooLong(record.len()));
    }
    let (&version, rest) = record.split_first().ok_or(Error::Cut(0))?;
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let (hash, body) = rest.split_at_checked(CHECK_BYTES).ok_or(Error::Cut(record.len()))?;
    if hash != check(body) {
        return Err(Error::Damaged);
    }
    let (v1, read) = bincode::serde::decode_from_slice::<V1, _>(body, config()).map_err(Error::Decode)?;
    if read != body.len() {
        return Err(Error::Trailing(body.len() - read));
    }
    v1.into_saved()
}

fn check(body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut first = [0; CHECK_BYTES];
    first.copy_from_slice(&blake3::hash(body).as_bytes()[..CHECK_BYTES]);
    first
}

impl From<&Instance> for V1 {
    fn from(instance: &Instance) -> Self {
        let service = &instance.service;
        Self {
            vm: instance.vm,
            service: ServiceV1 {
                id: service.id.clone(),
                image: service.image,
                guest_port: service.guest_port,
                health_path: service.health_path.clone(),
                needs_memory_bytes: service.needs.memory_bytes,
                needs_cpu_millis: service.needs.cpu_millis,
                max_users: service.max_users,
            },
            shared: instance.sharing == Sharing::Shared,
            owner: instance.owner.as_str().to_owned(),
            users: instance.users.keys().map(|token| token.as_str().to_owned()).collect(),
            phase: match instance.phase {
                Phase::Fetching => PhaseV1::Fetching,
                Phase::Waking { .. } | Phase::Checking { .. } => PhaseV1::Starting,
                Phase::Ready { .. } => PhaseV1::Ready,
                Phase::Stopping { outcome: Outcome::Stopped, .. } => PhaseV1::StoppingToStopped,
                Phase::Stopping { outcome: Outcome::Failed, .. } => PhaseV1::StoppingToFailed,
                Phase::Ended { outcome: Outcome::Stopped, .. } => PhaseV1::Stopped,
                Phase::Ended { outcome: Outcome::Failed, .. } => PhaseV1::Failed,
            },
            address: instance.address,
            requested_unix_ms: instance.requested_unix_ms,
            ready_after_ms: instance.ready_after_ms,
            reason: instance.reason.clone(),
        }
    }
}

impl V1 {
    fn into_saved(self) -> Result<Saved, Error> {
        let token = |text| Token::try_from(text).map_err(Error::Token);
        Ok(Saved {
            vm: self.vm,
            service: Service {
                id: self.service.id,
                image: self.service.image,
                guest_port: self.service.guest_port,
                health_path: self.service.health_path,
                needs: Claim {
                    memory_bytes: self.service.needs_memory_bytes,
                    cpu_millis: self.service.needs_cpu_millis,
                },
                max_users: self.service.max_users,
            },
            sharing: if self.shared { Sharing::Shared } else { Sharing::Private },
            owner: token(self.owner)?,
            users: self.users.into_iter().map(token).collect::<Result<_, _>>()?,
            phase: match self.phase {
                PhaseV1::Fetching => SavedPhase::Fetching,
                PhaseV1::Starting => SavedPhase::Starting,
                PhaseV1::Ready => SavedPhase::Ready,
                PhaseV1::StoppingToStopped => SavedPhase::Stopping(Outcome::Stopped),
                PhaseV1::StoppingToFailed => SavedPhase::Stopping(Outcome::Failed),
                PhaseV1::Stopped => SavedPhase::Ended(Outcome::Stopped),
                PhaseV1::Failed => SavedPhase::Ended(Outcome::Failed),
            },
            address: self.address,
            requested_unix_ms: self.requested_unix_ms,
            ready_after_ms: self.ready_after_ms,
            reason: self.reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::tests::instance;

    #[test]
    fn says_the_same_after_a_round_trip() {
        let saved = decode(&encode(&instance()).unwrap()).unwrap();
        assert_eq!(saved.service, *instance().service);
        assert_eq!(saved.users, instance().users.into_keys().collect());
        assert_eq!((saved.phase, saved.address), (SavedPhase::Ready, instance().address));
        assert_eq!((saved.vm, saved.ready_after_ms), (instance().vm, Some(432)));
    }

    #[test]
    fn what_is_known_of_an_image_on_its_way_is_kept() {
        let service = instance().service;
        let service = std::sync::Arc::new(Service::elsewhere(service.id.clone(), service.image));
        let waiting = Instance { phase: Phase::Fetching, service, address: None, ..instance() };
        let saved = decode(&encode(&waiting).unwrap()).unwrap();
        assert_eq!((saved.phase, &saved.service), (SavedPhase::Fetching, &*waiting.service));
    }

    #[test]
    fn golden_bytes_of_version_1() {
        assert_eq!(hex::encode(encode(&instance()).unwrap()), include_str!("record_v1.hex").trim());
        assert!(decode(&hex::decode(include_str!("record_v1.hex").trim()).unwrap()).is_ok());
    }

    #[test]
    fn cut_and_flipped_bytes_are_refused() {
        let good = encode(&instance()).unwrap();
        for end in 0..good.len() {
            assert!(decode(&good[..end]).is_err(), "cut to {end}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
        let mut longer = good;
        longer.push(0);
        assert!(decode(&longer).is_err());
        assert!(matches!(decode(&vec![VERSION; MAX_BYTES + 1]), Err(Error::TooLong(_))));
    }

    #[test]
    fn a_body_that_lies_about_lengths_neither_panics_nor_allocates() {
        let good = encode(&instance()).unwrap();
        for at in 0..good.len() - HEAD_BYTES {
            for value in [0x00, 0x7f, 0xfb, 0xfc, 0xfd, 0xfe, 0xff] {
                let mut body = good[HEAD_BYTES..].to_vec();
                body[at] = value;
                let mut record = vec![VERSION];
                record.extend_from_slice(&check(&body));
                record.extend_from_slice(&body);
                // Either outcome is right; what counts is that there is one.
                let _ = decode(&record);
            }
        }
    }
}
