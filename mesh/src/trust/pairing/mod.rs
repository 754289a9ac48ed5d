//! How a handheld gets into the mission in the field: a short code that people carry from one screen to the other.
//!
//! SPAKE2 makes a strong key of the short code. Whoever does not know the code, also somebody in between who relays and
//! changes everything, gets one guess per run of the protocol and learns nothing but whether it was right. Both sides
//! then confirm that they have the same key, and only after that anything of worth travels, encrypted.
//!
//! ```text
//! handheld                                              cloudlet (shows the code)
//!    1 Hello    SPAKE2 element                  ->
//!                                               <-      2 Answer   SPAKE2 element
//!    3 Request  confirmation, sealed PKCS #10   ->      a wrong confirmation is a wrong try
//!                                               <-      4 Grant    confirmation, sealed bundle; the code is used up
//!                                               <-      5 Refused  why, instead of 2 or 4
//! ```
//!
//! The handheld confirms first: a stranger who answers in the cloudlet's place gets a guess from that, and a stranger who
//! asks in the handheld's place gets nothing until he has shown a confirmation, which is what the cloudlet counts. The
//! confirmation is a keyed hash and does not rest on the sealing alone, because ChaCha20-Poly1305 does not commit to its key: one
//! sealed text could be made to open under many guessed keys at once (partitioning oracles, Len, Grubbs and Ristenpart 2021).
//!
//! A code is good for one handheld, for [`LIFETIME`], and for [`MAX_WRONG_TRIES`] wrong tries: a stranger who uses them all
//! is right with probability 3 × 10⁻⁸. A stranger can use them up, so that a new code has to be shown; that is a
//! nuisance and not a way in.
//!
//! Each frame is one byte [`VERSION`], one byte kind, then the fields at fixed lengths, the last one to the end. On a
//! stream, a frame comes after its length in four bytes, most significant first.

mod cloudlet;
mod code;
mod frame;
mod handheld;
mod keys;
mod qr;

use std::time::Duration;

pub use cloudlet::{Asked, Cloudlet, State};
pub use code::{Code, ParseCodeError};
pub use handheld::{Handheld, Waiting};
pub use qr::{Invitation, ParseInvitationError};

/// Version of the frames.
pub const VERSION: u8 = 1;
/// How long a code is good. Guess: enough to walk over and type, too short to come back to.
pub const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Wrong tries after which a code is locked. Guess: a person mistypes once or twice.
pub const MAX_WRONG_TRIES: u32 = 3;
/// Most runs that are begun with one code. Guess: beginning one costs the cloudlet two multiplications on the curve, and
/// an honest handheld begins one or two.
pub const MAX_RUNS: u32 = 64;
/// Longest frame that a cloudlet reads, bytes: a request and what is around it.
pub const MAX_ASKING_BYTES: usize = super::MAX_REQUEST_BYTES + 128;
/// Longest frame that a handheld reads, bytes: a bundle and what is around it.
pub const MAX_ANSWER_BYTES: usize = super::bundle::MAX_BYTES + 128;

/// Why a pairing did not come about. Also what a cloudlet tells the handheld, so far as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Of another release, cut or scrambled.
    #[error("the other side sent something that is no pairing message of this release")]
    Malformed,
    /// The codes differ, or somebody is in between.
    #[error("the code is wrong, or somebody interferes; look at the code again")]
    WrongCode,
    /// There were too many wrong tries.
    #[error("the code is locked after {MAX_WRONG_TRIES} wrong tries; have the cloudlet show a new one")]
    Locked,
    /// A handheld was paired with it already.
    #[error("the code was used already; have the cloudlet show a new one")]
    Used,
    /// Its time is over.
    #[error("the code has expired; have the cloudlet show a new one")]
    Expired,
    /// The code was right, but the cloudlet does not enroll this handheld.
    #[error("the cloudlet does not enroll this handheld; its log says why")]
    NotEnrolled,
    /// The system's random generator or cryptography failed.
    #[error("this device's cryptography does not work")]
    Broken,
}

impl Failure {
    fn number(self) -> u8 {
        match self {
            Self::Malformed => 1,
            Self::WrongCode => 2,
            Self::Locked => 3,
            Self::Used => 4,
            Self::Expired => 5,
            Self::NotEnrolled => 6,
            Self::Broken => 7,
        }
    }

    fn of(number: u8) -> Self {
        let all = [
            Self::Malformed,
            Self::WrongCode,
            Self::Locked,
            Self::Used,
            Self::Expired,
            Self::NotEnrolled,
            Self::Broken,
        ];
        all.into_iter().find(|one| one.number() == number).unwrap_or(Self::Malformed)
    }

    /// The frame that tells the handheld.
    pub fn frame(self) -> Vec<u8> {
        frame::Frame::Refused(self).encode()
    }
}
