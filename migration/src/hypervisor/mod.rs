//! What every hypervisor must be able to do with a Service VM.
//!
//! The trait is blocking: libvirt's calls block, and a caller on an async runtime wraps them in a blocking task.
//! Implementations are shared between threads, and calls for different VMs run side by side.
//!
//! ```text
//!            boot ──► Running ──suspend──► image (template + device stream)
//!                        ▲                    │
//!                        └──── clone_from ◄───┘        stop: Running ──► gone
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use vm_images::Hardware;
use vm_images::manifest::Accelerator;

use crate::VmId;

mod compatibility;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(feature = "libvirt")]
pub mod libvirt;
mod moving;
#[cfg(any(test, feature = "fake"))]
pub mod suite;

pub use compatibility::{TOPOLOGY, check as check_compatible};
pub use error::{Error, Incompatible};
pub use moving::{MEMORY_BLOCK, Moving, Pace};

/// Starts, suspends, clones and stops VMs, and talks to the agent in the guest.
pub trait Hypervisor: Send + Sync {
    /// What this host can run.
    fn host(&self) -> Result<Host, Error>;

    /// Boots a guest from its disk and kernel. Returns once the VM executes; the guest is not up yet.
    ///
    /// On error nothing of the VM is left running; the files named in `spec` are the caller's.
    fn boot(&self, spec: &BootSpec) -> Result<(), Error>;

    /// Wakes a clone up from a suspended image. Returns once the guest executes; its clock is still in the past.
    ///
    /// The image is only read. On error nothing of the VM is left running.
    fn clone_from(&self, spec: &CloneSpec) -> Result<(), Error>;

    /// Pauses a guest for good and writes it out as template and device stream; the VM is gone afterwards.
    ///
    /// The guest must have been prepared: hot-plugged disks unplugged, caches dropped, file systems synced.
    /// On error the VM is stopped and `into` holds rubbish that the caller removes.
    fn suspend(&self, vm: VmId, into: &SuspendFiles) -> Result<Suspended, Error>;

    /// Ends a VM at once, as pulling its plug would. A VM that is not there is no error.
    fn stop(&self, vm: VmId) -> Result<(), Error>;

    /// Every VM that this hypervisor runs, also those started by an earlier process.
    fn list(&self) -> Result<Vec<Running>, Error>;

    /// Takes a VM over that an earlier process started: says what it is and makes it usable through `self`.
    fn adopt(&self, vm: VmId) -> Result<Running, Error>;

    /// Lets `bind:port` of the host reach `guest_port`; a `port` of 0 takes a free one. Says which it became.
    fn forward_port(&self, vm: VmId, bind: IpAddr, port: u16, guest_port: u16) -> Result<SocketAddr, Error>;

    /// Asks the guest agent whether it is there, for at most `limit`.
    fn agent_ping(&self, vm: VmId, limit: Duration) -> Result<(), Error>;

    /// Runs a program in the guest and waits for its end, for at most `limit`.
    ///
    /// A program that fails is not an error here; its exit code is in the answer.
    fn agent_exec(
        &self,
        vm: VmId,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<GuestOutput, Error>;

    /// Writes a whole file in the guest.
    fn agent_write_file(&self, vm: VmId, path: &str, bytes: &[u8]) -> Result<(), Error>;

    /// Sets the guest's clock; `since_epoch` is the time since 1970 UTC.
    fn agent_set_time(&self, vm: VmId, since_epoch: Duration) -> Result<(), Error>;

    /// Plugs a disk into a running VM. `disk.serial` is how the guest finds it (`/dev/disk/by-id/virtio-SERIAL`).
    fn attach_disk(&self, vm: VmId, disk: &Disk) -> Result<(), Error>;

    /// Unplugs a disk and waits until the guest has let go of it.
    fn detach_disk(&self, vm: VmId, serial: &str) -> Result<(), Error>;
}

/// A VM to boot from nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSpec {
    /// Its id.
    pub vm: VmId,
    /// Its virtual hardware.
    pub hardware: Hardware,
    /// Writable qcow2 disk; exists already.
    pub disk: PathBuf,
    /// Guest kernel.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: PathBuf,
    /// Where the guest's serial console is written to.
    pub console: PathBuf,
}

/// A VM to wake up from a suspended image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSpec {
    /// Its id; also its new VM generation id, from which the guest notices that it was cloned.
    pub vm: VmId,
    /// The image's hardware.
    pub hardware: Hardware,
    /// Writable qcow2 overlay on the image's disk; exists already.
    pub disk: PathBuf,
    /// The image's memory template.
    pub template: PathBuf,
    /// The image's device stream.
    pub device_stream: PathBuf,
    /// Where the guest's serial console is written to.
    pub console: PathBuf,
}

/// Where a suspended guest is written to. Neither file exists yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuspendFiles {
    /// Becomes the memory template.
    pub template: PathBuf,
    /// Becomes the device stream.
    pub device_stream: PathBuf,
}

/// What a suspension wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspended {
    /// Length of the template, bytes; the guest's memory.
    pub template_bytes: u64,
    /// Of these, in 4 KiB pages that are not all zero.
    pub template_used_bytes: u64,
    /// Length of the device stream, bytes.
    pub device_stream_bytes: u64,
}

/// A disk to plug in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Raw image file on the host.
    pub file: PathBuf,
    /// At most 20 of a-z, 0-9, '-'.
    pub serial: String,
    /// Whether the guest may write.
    pub writable: bool,
}

/// A VM that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub vm: VmId,
    /// Whether its guest executes (false: paused, or not yet resumed).
    pub executing: bool,
    /// Ports forwarded to it: host address, guest port.
    pub forwards: Vec<(SocketAddr, u16)>,
    /// Process on this host that runs it, if it is one.
    pub process_id: Option<u32>,
}

/// What a host can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name of the implementation and address of what it talks to.
    pub hypervisor: String,
    /// Version of libvirt, as in `11.3.0`.
    pub libvirt_version: String,
    /// Version of QEMU, as in `10.0.2`.
    pub qemu_version: String,
    /// What executes guest code here.
    pub accelerator: Accelerator,
    /// Machine types that it knows, canonical names.
    pub machines: Vec<String>,
    /// Named CPU models that it can run.
    pub cpu_models: Vec<String>,
    /// Speed of a core ([`crate::speed::core_permille`]), if it was measured.
    pub core_permille: Option<u32>,
}

/// What a program in the guest left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestOutput {
    /// Exit code; 128 + signal number if a signal ended it.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}
