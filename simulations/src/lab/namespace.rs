//! A network namespace that lives as long as somebody holds it open.
//!
//! It has no name under `/run/netns`: nothing must be unmounted after a crash. The lab holds it by file descriptor, so
//! it goes with the lab's process, unless programs still run in it; those are found by the *mark*, the alias
//! `cllab/LAB/HOST` of the loopback interface, and ended by the next start (see `leftovers`).

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

use super::topology::{HostSpec, Topology};
use super::{Error, RADIO, error::system, tap};
use crate::medium::Mac;

/// The calling thread's own network namespace.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// What tells the namespaces of lab `lab` from all others.
pub(super) fn mark(lab: &str, host: &str) -> String {
    format!("cllab/{lab}/{host}")
}

/// A namespace with a radio in it.
pub(super) struct Namespace {
    pub(super) file: File,
    /// Number of the namespace while it is held open (of the file system nsfs).
    pub(super) inode: u64,
    pub(super) tap: OwnedFd,
}

/// Runs `work` in a thread of its own that is inside the namespace, or has made a new one of its own.
pub(super) fn inside<T: Send>(
    namespace: Option<&File>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("lab-host".to_owned()).spawn_scoped(scope, || {
            match namespace {
                Some(file) => setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .map_err(system("enter a network namespace"))?,
                None => unshare(CloneFlags::CLONE_NEWNET).map_err(system("make a network namespace"))?,
            }
            work()
        });
        match thread.map_err(system("start a thread"))?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

impl Namespace {
    /// Makes the namespace of a host, with its loopback and radio up.
    pub(super) fn create(topology: &Topology, host: &HostSpec, mac: Mac) -> Result<Self, Error> {
        inside(None, || {
            let file = File::open(OWN).map_err(system("hold a network namespace"))?;
            let inode = file.metadata().map_err(system("look at a network namespace"))?.ino();
            let tap = tap::create(RADIO)?;
            if !topology.ipv6 {
                // The kernel would send router solicitations and multicast reports that nobody asked for. Fails only
                // where the kernel has no IPv6 at all.
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{RADIO}/disable_ipv6"), "1");
            }
            configure(topology, host, mac)?;
            Ok(Self { file, inode, tap })
        })
    }
}

/// Has `ip` set up the interfaces of the thread's namespace: a child begins in the namespace of the thread that makes
/// it.
fn configure(topology: &Topology, host: &HostSpec, mac: Mac) -> Result<(), Error> {
    let [a, b, c, d, e, f] = mac.0;
    let (address, prefix, mtu) = (host.address, topology.prefix, topology.mtu);
    let batch = format!(
        "link set dev lo alias {mark} up\n\
         link set dev {RADIO} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {mtu} multicast on up\n\
         address add {address}/{prefix} broadcast + dev {RADIO}\n\
         route add 224.0.0.0/4 dev {RADIO}\n",
        mark = mark(&topology.name, &host.name),
    );
    let output = run_ip(&["-batch", "-"], &batch)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Interface { host: host.name.clone(), message })
}

/// Runs `ip` in the calling thread's namespace.
pub(super) fn run_ip(arguments: &[&str], input: &str) -> Result<std::process::Output, Error> {
    let missing = |source| Error::Missing { program: "ip", package: "iproute2", source };
    let mut child = Command::new("ip")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ended early says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(system("wait for ip"))
}
