//! Why a certificate is not accepted.

use super::names::{MissionId, Serial};
use super::permissions::Permissions;

/// Why somebody is not a member. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a certificate of this project at all.
    #[error("the certificate is malformed: {0}")]
    Malformed(&'static str),
    /// A certificate of another mission.
    #[error("the certificate is of mission {theirs}, this is mission {ours}")]
    ForeignMission {
        /// The mission in the certificate.
        theirs: MissionId,
        /// This mission.
        ours: MissionId,
    },
    /// The mission's authority did not sign it, nor did one of its enrollers.
    #[error("the certificate does not lead to the mission's authority")]
    NotSigned(#[source] webpki::Error),
    /// It is not valid yet, also allowing for wrong clocks.
    #[error("the certificate is valid in {in_s} s only; check the clocks")]
    NotYetValid {
        /// Seconds until then by the local clock.
        in_s: u64,
    },
    /// It has expired, also allowing for wrong clocks.
    #[error("the certificate expired {ago_s} s ago; check the clocks, or enroll anew")]
    Expired {
        /// Seconds since then by the local clock.
        ago_s: u64,
    },
    /// It was revoked.
    #[error("the certificate {0} was revoked")]
    Revoked(Serial),
    /// Who issued it was revoked, and with it everything that it issued.
    #[error("the cloudlet that issued the certificate was revoked (its enroller certificate is {0})")]
    IssuerRevoked(Serial),
    /// Who issued it must not have.
    #[error("whoever issued the certificate exceeded what it may: {0}")]
    Escalation(&'static str),
    /// A cloudlet was expected and a handheld came, or another cloudlet.
    #[error("the certificate is somebody else's: {0}")]
    WrongPeer(&'static str),
    /// A member, who may not do this.
    #[error("the certificate does not allow {0}")]
    Lacks(Permissions),
}
