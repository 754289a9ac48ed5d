//! Opens the hypervisor that the configuration asks for.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use migration::hypervisor::Error;
use migration::hypervisor::libvirt::kvm::{self, Probe};
use migration::hypervisor::libvirt::{Libvirt, Uri};
use nix::fcntl::{Flock, FlockArg};
use vm_images::manifest::Accelerator;

use crate::config::{AcceleratorChoice, Config};

/// Value of `hypervisor.uri` that means libvirt inside this process.
pub const EMBEDDED: &str = "embed";
/// File in the state directory that remembers what the KVM probe found since this host booted.
const PROBE: &str = "kvm-probe";
/// Directory below the state directory of the daemon's own libvirt. Short, for the sake of the sockets in it.
pub const DAEMON_ROOT: &str = "hv";
/// The same for building images, so that a build can run beside the daemon.
pub const BUILD_ROOT: &str = "bd";

/// Why there is no hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `hypervisor.accelerator` is `kvm`, and KVM does not work here.
    #[error(
        "hypervisor.accelerator is \"kvm\", but {0}; set it to \"auto\" or \"tcg\" to run guests without KVM"
    )]
    NoKvm(String),
    /// Another process uses the same embedded libvirt.
    #[error("another process runs VMs below {0}; wait for it, or use another state directory")]
    InUse(std::path::PathBuf),
    /// The directory cannot be made or locked.
    #[error("cannot use {path}")]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// libvirt cannot be opened.
    #[error(transparent)]
    Libvirt(#[from] Error),
}

/// A hypervisor, held by this process alone.
pub struct Opened {
    /// The hypervisor.
    pub hypervisor: Libvirt,
    /// Keeps other processes from the same VMs.
    _lock: Flock<File>,
}

/// Opens the hypervisor; with the embedded libvirt, its files are in `root` below the state directory.
///
/// Two processes never get the same VMs, as long as each state directory is one cloudlet's.
///
/// The first time this takes up to 8 s, because libvirt examines QEMU, and the length of the KVM probe.
pub fn open(config: &Config, root: &str) -> Result<Opened, OpenError> {
    let accelerator = accelerator(config)?;
    let root = config.node.state_dir.join(root);
    let lock = lock(&root)?;
    let uri = match &*config.hypervisor.uri {
        EMBEDDED => Uri::Embedded(root),
        uri => Uri::Daemon(uri.to_owned()),
    };
    Ok(Opened { hypervisor: Libvirt::open(&uri, accelerator)?, _lock: lock })
}

/// What will execute guest code here.
pub fn accelerator(config: &Config) -> Result<Accelerator, OpenError> {
    match config.hypervisor.accelerator {
        AcceleratorChoice::Tcg => Ok(Accelerator::Tcg),
        AcceleratorChoice::Kvm => match probe(config) {
            Probe::Works => Ok(Accelerator::Kvm),
            Probe::Fails(why) => Err(OpenError::NoKvm(why)),
        },
        AcceleratorChoice::Auto => Ok(match probe(config) {
            Probe::Works => Accelerator::Kvm,
            Probe::Fails(why) => {
                tracing::info!("guests run without KVM, about 12 times slower: {why}");
                Accelerator::Tcg
            }
        }),
    }
}

fn probe(config: &Config) -> Probe {
    let limit = Duration::from_secs(config.hypervisor.kvm_probe_limit_s);
    kvm::probe(limit, Some(&config.node.state_dir.join(PROBE)))
}

fn lock(root: &Path) -> Result<Flock<File>, OpenError> {
    let failed = |source| OpenError::Directory { path: root.to_owned(), source };
    std::fs::create_dir_all(root).map_err(failed)?;
    let file = File::create(root.join("lock")).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => OpenError::InUse(root.to_owned()),
        errno => failed(errno.into()),
    })
}
