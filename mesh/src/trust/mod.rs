//! Who belongs to the mission and what they may do, with no authority online.
//!
//! ```text
//!                  Authority  (key in a drawer, certificate in every bundle)
//!                 /    |     \
//!      Cloudlet A  Cloudlet B  Enroller B (same key as cloudlet B; handhelds only, path length 0)
//!                                   |
//!                              Handheld C
//! ```
//!
//! * [`Authority`] makes a mission: an X.509 authority with an Ed25519 key and a time window. It signs certificates of
//!   [`Request`]s that devices make with their own [`Device`] keys, and revokes them.
//! * A cloudlet that may enroll has a second certificate for the same key, which makes it an [`Enroller`] of handhelds.
//!   What webpki cannot check (that it issues handhelds only, with no more permissions or time than it has) is
//!   checked by [`Mission::verify`].
//! * [`Mission`] is what each member knows: the authority's certificate, the revocations heard so far, and a secret that
//!   hides names from strangers. It decides who is a [`Member`]. Pure: it takes `now`.
//! * [`Trust`] is a member at work: [`Identity`] and mission, shared by [`tls`] and the mesh.
//! * [`revocation`]: signed pieces that merge in any order. [`pairing`]: how a handheld gets in with a short code.
//!
//! Whoever holds a device's key and certificate *is* that member until it is revoked or expires; nothing here stops
//! that. `THREATS.md` says what is stopped and what is not.

mod authority;
pub mod bundle;
mod certificate;
mod device;
mod error;
pub mod files;
mod home;
mod identity;
mod issue;
mod live;
mod mission;
mod names;
pub mod pairing;
mod permissions;
mod random;
mod refusal;
pub mod revocation;
mod rules;
pub mod tls;

pub use authority::{Authority, Enroller, Grant};
pub use bundle::Bundle;
pub use certificate::MAX_CERTIFICATE_BYTES;
pub use device::{Device, MAX_REQUEST_BYTES, Request, Role};
pub use error::Error;
pub use home::Home;
pub use identity::Identity;
pub use issue::{Reason, Window};
pub use live::Trust;
pub use mission::{CLOCK_TOLERANCE_S, Learned, MAX_CHAIN, Member, Mission};
pub use names::{MAX_NAME_BYTES, MissionId, ParseIdError, Serial};
pub use permissions::{ParseError as ParsePermissionsError, Permissions};
pub use refusal::Refusal;
pub use revocation::{RevocationSet, Statement};
pub use rules::{MAX_IMAGE_SIGNERS, Rules};
pub use rustls_pki_types::CertificateDer;
