//! The words of a handoff as bytes: one version byte and a bincode body of types of its own.

use mesh::wire::versioned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vm_images::manifest::Accelerator;
use vm_images::{Digest, Hardware, ImageId};

use super::message::{Attempt, Grant, Message, Offer, Reason};
use crate::VmId;

pub use mesh::wire::Error;

/// Version of the frames that this release writes and reads.
pub const VERSION: u8 = 1;
/// Longest frame, bytes. The longest is an offer: names of hardware and a kernel command line, some 300 bytes; a guess with room.
pub const MAX_BYTES: usize = 4096;
/// Longest reason in words, bytes; what is longer is cut by the writer and refused by the reader.
pub const MAX_WORDS_BYTES: usize = 1024;

/// A word about a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The VM.
    pub vm: VmId,
    /// What is said.
    pub message: Message,
}

#[derive(Serialize, Deserialize)]
struct Body {
    vm: [u8; 16],
    word: Cell,
}

#[derive(Serialize, Deserialize)]
enum Cell {
    Offer { attempt: [u8; 16], offer: OfferCell },
    Granted { attempt: [u8; 16], grant: [u8; 16] },
    Refused { attempt: [u8; 16], reason: ReasonCell },
    Final { grant: [u8; 16], digest: [u8; 32] },
    Verified([u8; 16]),
    Commit([u8; 16]),
    Running([u8; 16]),
    Aborted { grant: [u8; 16], reason: ReasonCell },
    Superseded([u8; 16]),
    Cancel([u8; 16]),
    Release([u8; 16]),
}

#[derive(Serialize, Deserialize)]
struct OfferCell {
    epoch: u64,
    image: [u8; 32],
    machine: String,
    cpu_model: String,
    kvm: bool,
    topology: u32,
    memory_bytes: u64,
    vcpus: u32,
    command_line: String,
    disk_bytes: u64,
    estimate_bytes: u64,
}

#[derive(Serialize, Deserialize)]
enum ReasonCell {
    NoAnswer,
    FrozenTooLong,
    LeaseOver,
    Cancelled,
    Unknown,
    Busy,
    Stale(u64),
    Failed(String),
}

/// The bytes of a word.
///
/// # Errors
///
/// The offer's texts are too long for a frame.
pub fn encode(word: &Word) -> Result<Vec<u8>, Error> {
    let body = Body { vm: word.vm.0.into_bytes(), word: Cell::from(&word.message) };
    versioned::encode::<_, MAX_BYTES>(VERSION, &body)
}

/// The word in `bytes`, all of them.
///
/// # Errors
///
/// Whatever is not exactly one frame of this version.
pub fn decode(bytes: &[u8]) -> Result<Word, Error> {
    let body = versioned::decode::<Body, MAX_BYTES>(VERSION, bytes)?;
    Ok(Word { vm: VmId(Uuid::from_bytes(body.vm)), message: body.word.try_into()? })
}

impl From<&Message> for Cell {
    fn from(message: &Message) -> Self {
        let of = |Grant(grant): &Grant| grant.to_be_bytes();
        let name = |Attempt(attempt): &Attempt| attempt.to_be_bytes();
        match message {
            Message::Offer { attempt, offer } => {
                Self::Offer { attempt: name(attempt), offer: OfferCell::from(&**offer) }
            }
            Message::Granted { attempt, grant } => Self::Granted { attempt: name(attempt), grant: of(grant) },
            Message::Refused { attempt, reason } => {
                Self::Refused { attempt: name(attempt), reason: reason.into() }
            }
            Message::Final { grant, digest } => Self::Final { grant: of(grant), digest: *digest.as_bytes() },
            Message::Verified { grant } => Self::Verified(of(grant)),
            Message::Commit { grant } => Self::Commit(of(grant)),
            Message::Running { grant } => Self::Running(of(grant)),
            Message::Aborted { grant, reason } => Self::Aborted { grant: of(grant), reason: reason.into() },
            Message::Superseded { grant } => Self::Superseded(of(grant)),
            Message::Cancel { grant } => Self::Cancel(of(grant)),
            Message::Release { grant } => Self::Release(of(grant)),
        }
    }
}

impl TryFrom<Cell> for Message {
    type Error = Error;

    fn try_from(cell: Cell) -> Result<Self, Error> {
        let of = |bytes| Grant(u128::from_be_bytes(bytes));
        let name = |bytes| Attempt(u128::from_be_bytes(bytes));
        Ok(match cell {
            Cell::Offer { attempt, offer } => {
                Self::Offer { attempt: name(attempt), offer: Box::new(offer.into()) }
            }
            Cell::Granted { attempt, grant } => Self::Granted { attempt: name(attempt), grant: of(grant) },
            Cell::Refused { attempt, reason } => {
                Self::Refused { attempt: name(attempt), reason: reason.try_into()? }
            }
            Cell::Final { grant, digest } => {
                Self::Final { grant: of(grant), digest: Digest::from_bytes(digest) }
            }
            Cell::Verified(grant) => Self::Verified { grant: of(grant) },
            Cell::Commit(grant) => Self::Commit { grant: of(grant) },
            Cell::Running(grant) => Self::Running { grant: of(grant) },
            Cell::Aborted { grant, reason } => Self::Aborted { grant: of(grant), reason: reason.try_into()? },
            Cell::Superseded(grant) => Self::Superseded { grant: of(grant) },
            Cell::Cancel(grant) => Self::Cancel { grant: of(grant) },
            Cell::Release(grant) => Self::Release { grant: of(grant) },
        })
    }
}

impl From<&Offer> for OfferCell {
    fn from(offer: &Offer) -> Self {
        let Offer { epoch, image, hardware, disk_bytes, estimate_bytes } = offer;
        Self {
            epoch: *epoch,
            image: *image.0.as_bytes(),
            machine: hardware.machine.clone(),
            cpu_model: hardware.cpu_model.clone(),
            kvm: hardware.accelerator == Accelerator::Kvm,
            topology: hardware.topology,
            memory_bytes: hardware.memory_bytes,
            vcpus: hardware.vcpus,
            command_line: hardware.command_line.clone(),
            disk_bytes: *disk_bytes,
            estimate_bytes: *estimate_bytes,
        }
    }
}

impl From<OfferCell> for Offer {
    fn from(cell: OfferCell) -> Self {
        Self {
            epoch: cell.epoch,
            image: ImageId(Digest::from_bytes(cell.image)),
            hardware: Hardware {
                machine: cell.machine,
                cpu_model: cell.cpu_model,
                accelerator: if cell.kvm { Accelerator::Kvm } else { Accelerator::Tcg },
                topology: cell.topology,
                memory_bytes: cell.memory_bytes,
                vcpus: cell.vcpus,
                command_line: cell.command_line,
            },
            disk_bytes: cell.disk_bytes,
            estimate_bytes: cell.estimate_bytes,
        }
    }
}

impl From<&Reason> for ReasonCell {
    fn from(reason: &Reason) -> Self {
        match reason {
            Reason::NoAnswer => Self::NoAnswer,
            Reason::FrozenTooLong => Self::FrozenTooLong,
            Reason::LeaseOver => Self::LeaseOver,
            Reason::Cancelled => Self::Cancelled,
            Reason::Unknown => Self::Unknown,
            Reason::Busy => Self::Busy,
            Reason::Stale { epoch } => Self::Stale(*epoch),
            Reason::Failed(words) => {
                let words = words.replace(char::is_control, " ");
                Self::Failed(words[..words.floor_char_boundary(MAX_WORDS_BYTES)].to_owned())
            }
        }
    }
}

impl TryFrom<ReasonCell> for Reason {
    type Error = Error;

    fn try_from(cell: ReasonCell) -> Result<Self, Error> {
        Ok(match cell {
            ReasonCell::NoAnswer => Self::NoAnswer,
            ReasonCell::FrozenTooLong => Self::FrozenTooLong,
            ReasonCell::LeaseOver => Self::LeaseOver,
            ReasonCell::Cancelled => Self::Cancelled,
            ReasonCell::Unknown => Self::Unknown,
            ReasonCell::Busy => Self::Busy,
            ReasonCell::Stale(epoch) => Self::Stale { epoch },
            // Printed on terminals and in logs of the other side.
            ReasonCell::Failed(words)
                if words.len() > MAX_WORDS_BYTES || words.contains(char::is_control) =>
            {
                return Err(Error::Value("reason"));
            }
            ReasonCell::Failed(words) => Self::Failed(words),
        })
    }
}
