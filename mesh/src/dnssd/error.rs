//! What can go wrong with multicast DNS.

use std::fmt;
use std::io;
use std::time::Duration;

/// Why nothing is published or browsed. Nothing is running afterwards, except where a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No interface can do multicast. Discovery does not work; everything that goes by address does.
    #[error(transparent)]
    NoMulticast(NoMulticast),
    /// An interface was named that is not there.
    #[error("there is no network interface '{name}' with an address (there are: {available})")]
    UnknownInterface {
        /// What was asked for.
        name: String,
        /// What there is, comma separated.
        available: String,
    },
    /// The interfaces could not be listed.
    #[error("cannot list the network interfaces")]
    Interfaces(#[source] io::Error),
    /// The name cannot be published.
    #[error("'{0}' cannot be published as a name: it must have 1 to {max} bytes and no control characters", max = super::MAX_NAME_BYTES)]
    Name(String),
    /// The multicast DNS engine refused.
    #[error("multicast DNS: cannot {doing}")]
    Engine {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        #[source]
        source: mdns_sd::Error,
    },
    /// The thread that watches the engine could not be started.
    #[error("cannot start a thread for multicast DNS")]
    Thread(#[source] io::Error),
    /// The name was not announced in time. The publisher goes on and may still succeed.
    #[error(
        "multicast DNS has not announced this cloudlet after {} ms; is UDP port 5353 blocked, or held by a \
         responder that does not share it?", .0.as_millis()
    )]
    NotAnnounced(Duration),
    /// The last farewell was not confirmed in time. Others forget this cloudlet when its records expire (75 minutes).
    #[error("multicast DNS did not confirm within {} ms that this cloudlet was unpublished", .0.as_millis())]
    NotUnpublished(Duration),
}

/// No interface can do multicast: which there are, and what is wrong with each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoMulticast {
    /// Name of the interface, and why it cannot be used.
    pub tried: Vec<(String, String)>,
}

impl fmt::Display for NoMulticast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no network interface can do multicast, so discovery does not work; addresses still do (--cloudlet URL)")?;
        for (interface, reason) in &self.tried {
            write!(f, "; {interface}: {reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NoMulticast {}

/// Adds to an engine's error what was being done.
pub(super) fn doing(doing: &'static str) -> impl FnOnce(mdns_sd::Error) -> Error {
    move |source| Error::Engine { doing, source }
}
