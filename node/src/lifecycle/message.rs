//! What the core is told and what it wants done.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use handheld::api::{Missing, Sharing};
use migration::VmId;

use super::{Instance, Service, Token};

/// A client asks for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Id for the instance, should a new one be needed. Never used before.
    pub vm: VmId,
    /// Who asks.
    pub token: Token,
    /// For what.
    pub service: Arc<Service>,
    /// Where its image is.
    pub image: Image,
    /// Whether others may use it too.
    pub sharing: Sharing,
    /// The wall clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Memory that the host could give to new work now, bytes.
    pub memory_available_bytes: u64,
}

/// Where the image of a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// In the store of this cloudlet.
    Here,
    /// On another cloudlet; see [`Service::elsewhere`].
    Elsewhere,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The instance.
    pub vm: VmId,
    /// Whether this request created it.
    pub created: Created,
}

/// Whether a request created an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It did.
    Yes,
    /// It was there.
    No,
}

/// Why nothing was started; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Memory or CPU is short.
    #[error("not enough is free: {} MiB of memory and {} thousandths of a core are missing; stop an instance, wait, or ask another cloudlet",
        .0.memory_bytes.div_ceil(1 << 20), .0.cpu_millis)]
    Insufficient(Missing),
    /// The configured number of instances is reached.
    #[error(
        "all {max} instances that this cloudlet may run are in use; stop one, wait, or ask another cloudlet"
    )]
    TooMany {
        /// `instances.max` of the configuration.
        max: u32,
    },
    /// It is being emptied.
    #[error("this cloudlet is being emptied and takes nobody new; ask another one")]
    Draining,
    /// Nothing is started any more.
    #[error("{0}")]
    Closed(Closed),
}

/// Why nothing is started any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The mission is over.
    #[error("the mission that this cloudlet serves has ended; ask another cloudlet")]
    MissionEnded,
    /// The daemon shuts down.
    #[error("this cloudlet is shutting down; ask another one")]
    ShuttingDown,
}

/// What becomes of ready instances when the daemon shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// They run on, and the next daemon adopts them.
    Ready,
    /// They are stopped.
    Nothing,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The manifest of an image that is being fetched says what its service needs. Said before `Fetched`, or never.
    Described {
        /// Which.
        vm: VmId,
        /// What will run in it.
        service: Arc<Service>,
        /// Memory that the host could give to new work now, bytes.
        memory_available_bytes: u64,
    },
    /// `Fetch` succeeded: the image is here and can be used.
    Fetched {
        /// Which.
        vm: VmId,
        /// What will run in it.
        service: Arc<Service>,
        /// Memory that the host could give to new work now, bytes.
        memory_available_bytes: u64,
    },
    /// `StartVm` succeeded: the guest executes and its service's port is forwarded.
    VmStarted {
        /// Which.
        vm: VmId,
        /// Where the service's port is reached.
        address: SocketAddr,
    },
    /// `Fetch` or `StartVm` failed.
    VmFailed {
        /// Which.
        vm: VmId,
        /// For people.
        reason: String,
    },
    /// The guest's clock is right.
    ClockSet {
        /// Which.
        vm: VmId,
    },
    /// The guest's clock cannot be set.
    ClockFailed {
        /// Which.
        vm: VmId,
        /// For people.
        reason: String,
    },
    /// The service answered its health check with 200.
    HealthOk {
        /// Which.
        vm: VmId,
    },
    /// The service did not answer its health check.
    HealthFailed {
        /// Which.
        vm: VmId,
        /// For people.
        reason: String,
    },
    /// `StopVm` succeeded: VM and files are gone.
    VmStopped {
        /// Which.
        vm: VmId,
    },
    /// `StopVm` failed.
    StopFailed {
        /// Which.
        vm: VmId,
        /// For people.
        reason: String,
    },
    /// The hypervisor listed its VMs.
    Listed {
        /// When it was asked: a VM that began later may be absent.
        asked_at: Duration,
        /// What runs.
        running: BTreeMap<VmId, Seen>,
    },
    /// Time has passed.
    Tick,
    /// The mission is over.
    MissionEnded,
    /// The daemon shuts down.
    Shutdown(Keep),
}

/// A VM as the hypervisor lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whether its guest executes.
    pub executing: bool,
    /// Memory of the host that is this VM's alone, bytes.
    pub backed_bytes: u64,
}

/// What the driver shall do. Effects are done in order; those that take long go on beside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write it to disk.
    Persist(Box<Instance>),
    /// Have an image fetched from other cloudlets.
    Fetch {
        /// For which.
        vm: VmId,
        /// What is expected in it.
        service: Arc<Service>,
    },
    /// Wake a clone up and forward its port.
    StartVm {
        /// Which.
        vm: VmId,
        /// What runs in it.
        service: Arc<Service>,
    },
    /// Set the guest's clock, which woke up in the past.
    SetClock {
        /// Which.
        vm: VmId,
        /// How long that may take.
        limit: Duration,
    },
    /// Give an outstanding `Fetch` or `StartVm` up as soon as it can be; it is still answered.
    CancelStart {
        /// Which.
        vm: VmId,
    },
    /// Ask the service whether it can work.
    CheckHealth {
        /// Which.
        vm: VmId,
        /// Where.
        address: SocketAddr,
        /// Path of the check.
        path: String,
        /// How patiently.
        patience: Patience,
    },
    /// Stop the VM and remove its files.
    StopVm {
        /// Which.
        vm: VmId,
    },
    /// Remove its record.
    Forget {
        /// Which.
        vm: VmId,
    },
    /// It is now like this.
    Tell(Box<Instance>),
}

/// How patiently a health check is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Again and again until it answers 200, at most this long.
    Until(Duration),
    /// One request.
    Once,
}
