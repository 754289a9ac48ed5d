//! What is wanted: the service, the work for it, and until when.

use std::time::Duration;

use vm_images::ServiceId;

/// What a client or another node wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The service.
    pub service: ServiceId,
    /// Memory that a new instance needs, bytes; 0 if it is not known.
    pub memory_bytes: u64,
    /// CPU that one busy instance needs, thousandths of a core; 0 if it is not known.
    pub cpu_millis: u32,
    /// Machine architecture that the guest must have, as `uname -m` says it.
    pub architecture: Option<String>,
    /// Base system that must be there, as `ID-VERSION_ID` of os-release. Only for provisioning by overlay; a cached or
    /// running service brings its system along.
    pub guest_system: Option<String>,
    /// Whether an instance that others use will do.
    pub instance: Instance,
    /// What the service is to do.
    pub task: Task,
    /// What the client can send to a cloudlet that holds only the base system, bytes; `None`: it has no overlay.
    pub overlay_bytes: Option<u64>,
    /// By when the whole task must be done, from now; `None`: whenever.
    pub deadline: Option<Duration>,
    /// What it takes to get the result in another way once a cloudlet has failed: the client app's own slower
    /// implementation, or another cloudlet. `None`: see [`super::completion::FALLBACK`].
    pub fallback: Option<Duration>,
}

impl Need {
    /// The service and nothing special.
    pub fn of(service: ServiceId) -> Self {
        Self {
            service,
            memory_bytes: 0,
            cpu_millis: 0,
            architecture: None,
            guest_system: None,
            instance: Instance::Shared,
            task: Task::default(),
            overlay_bytes: None,
            deadline: None,
            fallback: None,
        }
    }
}

/// What the service is to do: so many requests, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Requests that are expected.
    pub requests: u32,
    /// From the client with each, bytes.
    pub up_bytes: u64,
    /// Back to the client with each, bytes.
    pub down_bytes: u64,
    /// CPU time of each on one core of the reference host that runs guests under KVM (1000 ‰, see
    /// [`crate::advert::Capabilities::guest_speed_permille`]).
    pub cpu: Duration,
}

impl Default for Task {
    /// One spoken order: 3 s of 16 kHz mono 16 bit are 96 kB; the words come back. The CPU time is a guess.
    fn default() -> Self {
        Self { requests: 1, up_bytes: 96_000, down_bytes: 1_000, cpu: Duration::from_millis(500) }
    }
}

/// Whether an instance that others use will do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Instance {
    /// Yes; a running one with room needs no further resources.
    #[default]
    Shared,
    /// No; a new one is made.
    Own,
}
