//! What can go wrong on our own side: making keys, certificates and files.

use std::io;
use std::path::PathBuf;

use super::refusal::Refusal;

/// Failure to make, read or store something. Nothing was changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system's random generator failed.
    #[error("the system gives no random numbers")]
    Random(#[source] rand::rngs::SysError),
    /// A certificate, a request or a revocation could not be made or read.
    #[error("cannot {doing}")]
    X509 {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// TLS does not take our own key or certificate.
    #[error("TLS does not accept this device's own certificate or key")]
    Tls(#[source] rustls::Error),
    /// Something that was handed in is not what it should be.
    #[error("{what} is not sound: {reason}")]
    Bad {
        /// What.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that was handed in does not belong to the mission.
    #[error("{what} is not accepted")]
    Refused {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: Refusal,
    },
    /// What was asked for is not allowed.
    #[error("{0}")]
    NotAllowed(String),
    /// A file cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(super) fn x509(doing: &'static str) -> impl FnOnce(rcgen::Error) -> Self {
        move |source| Self::X509 { doing, source }
    }

    pub(super) fn bad(what: &'static str, reason: impl ToString) -> Self {
        Self::Bad { what, reason: reason.to_string() }
    }
}
