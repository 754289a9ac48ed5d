//! What can go wrong in a lab.

use std::io;

use crate::medium;

/// Why a lab did not start, or did not do what it was told. A lab that did not start has left nothing behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Namespaces and TAP devices are root's.
    #[error("a lab makes network namespaces and TAP devices, which takes root: run it with sudo")]
    NotRoot,
    /// The kernel has no TAP devices, or a container hides them.
    #[error("cannot open /dev/net/tun: load the module (modprobe tun) or pass the device into the container")]
    NoTun(#[source] io::Error),
    /// A program of the system is missing.
    #[error("cannot run '{program}' (Debian package {package})")]
    Missing {
        /// Program that was to run.
        program: &'static str,
        /// Debian package that holds it.
        package: &'static str,
        /// Why it did not.
        #[source]
        source: io::Error,
    },
    /// There is one of this name already; it goes on.
    #[error("lab '{name}' is running already: end it with `cloudlet-lab down {name}`, or use another name")]
    Running {
        /// Name of both.
        name: String,
    },
    /// No lab of this name answers.
    #[error("lab '{name}' is not running: start it with `cloudlet-lab up TOPOLOGY.toml`")]
    NotRunning {
        /// Name that was asked for.
        name: String,
    },
    /// The topology cannot be.
    #[error(transparent)]
    Topology(#[from] super::topology::BadTopology),
    /// The lab has no such host.
    #[error("lab '{lab}' has no host '{host}'")]
    UnknownHost {
        /// Name of the lab.
        lab: String,
        /// Name that was asked for.
        host: String,
    },
    /// A link cannot be so; it stays as it was.
    #[error(transparent)]
    Settings(#[from] medium::BadSettings),
    /// `ip` did not do what it was told inside a host.
    #[error("host '{host}': ip: {message}")]
    Interface {
        /// Name of the host.
        host: String,
        /// What `ip` said.
        message: String,
    },
    /// The kernel or the file system said no.
    #[error("cannot {what}")]
    System {
        /// What was to be done.
        what: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// What came over the control socket is no message of this version.
    #[error("the control socket of lab '{lab}': {message}")]
    Control {
        /// Name of the lab.
        lab: String,
        /// What is wrong.
        message: String,
    },
    /// The medium's thread is gone; so are all links.
    #[error("the medium of the lab has ended")]
    Ended,
}

/// For `map_err`: what was being done when the system said no.
pub(super) fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    move |source| Error::System { what: what.into(), source: source.into() }
}
