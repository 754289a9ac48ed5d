//! What can go wrong with a VM, and what state that leaves the caller in.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::VmId;

/// Failure of a hypervisor operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such VM runs here; nothing was done.
    #[error("no VM {0} runs here")]
    NoSuchVm(VmId),
    /// The image cannot wake up on this host; nothing was started.
    #[error("this image cannot run here: {0}")]
    Incompatible(Incompatible),
    /// The hypervisor refused or failed; a VM that was being started is gone.
    #[error("{doing}: {message}")]
    Hypervisor {
        /// What was being done.
        doing: &'static str,
        /// The hypervisor's own words.
        message: String,
    },
    /// The guest's agent did not do it in time; the VM runs on.
    #[error("the agent in VM {vm} did not answer '{command}' within {limit:?}")]
    AgentSilent {
        /// The VM.
        vm: VmId,
        /// The agent's command.
        command: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The guest's agent refused; the VM runs on.
    #[error("the agent in VM {vm} refused '{command}': {message}")]
    AgentRefused {
        /// The VM.
        vm: VmId,
        /// The agent's command.
        command: String,
        /// The agent's own words.
        message: String,
    },
    /// The host port is in use by another program; the VM runs on without the forward.
    #[error("port {0} of this host is taken by another program; name another one, or 0 for any free one")]
    PortTaken(std::net::SocketAddr),
    /// A file of the VM cannot be read or written.
    #[error("{doing} {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It took too long; a VM that was being started is gone.
    #[error("{doing} took longer than {limit:?}")]
    TooSlow {
        /// What was being done.
        doing: &'static str,
        /// How long was waited.
        limit: Duration,
    },
}

/// Why an image cannot wake up on a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// The host's QEMU does not know the machine type.
    #[error(
        "it was suspended on machine type {wanted}, which this QEMU {qemu} does not have; install a newer QEMU, or rebuild the image here"
    )]
    Machine {
        /// The image's machine type.
        wanted: String,
        /// The host's QEMU version.
        qemu: String,
    },
    /// The host cannot provide the CPU model.
    #[error("it was suspended on CPU model {0}, which this host cannot provide; rebuild the image here")]
    Cpu(String),
    /// Suspended under KVM and to be run under TCG, or the other way round.
    #[error(
        "it was suspended under {image} and this host runs guests under {host}; rebuild the image here, or set hypervisor.accelerator to \"{image}\" if the host can"
    )]
    Accelerator {
        /// The image's.
        image: vm_images::manifest::Accelerator,
        /// The host's.
        host: vm_images::manifest::Accelerator,
    },
    /// The device layout of another release.
    #[error(
        "it was suspended with device layout {image}, this release has layout {ours}; rebuild the image with this release"
    )]
    Topology {
        /// The image's layout revision.
        image: u32,
        /// This release's.
        ours: u32,
    },
}
