//! Whether one more instance fits: what it may use against what is free.
//!
//! Two bounds hold for memory, and the smaller one counts.
//!
//! * **What was promised**: all claims together stay below the host's memory less the reserve. A clone shares every
//!   page that it has not written with its image and the other clones, so its claim is an upper bound of what it
//!   uses, and this bound alone would admit too much only if something else on the host used the memory.
//! * **What is there**: the memory that the host has available now, less the reserve, less the part of every claim that is
//!   not yet backed by pages of its own. An instance that has just started uses nearly nothing yet and will grow; what
//!   it already uses is missing from "available" and must not be counted twice. When a VM's own memory cannot be
//!   read (no process on this host), its whole claim counts as not yet backed: safe, and pessimistic.
//!
//! CPU is promised several times over (`cpu_overcommit`), because requests come in bursts and seldom at once.

use std::time::Duration;

use handheld::api::Missing;

use super::{Instance, Refused};

/// Memory and CPU that an instance may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claim {
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// CPU, thousandths of a core.
    pub cpu_millis: u32,
}

/// What may be given to instances, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most instances at a time.
    pub max_instances: u32,
    /// Memory of the host, bytes.
    pub memory_total_bytes: u64,
    /// Memory that is never given to instances, bytes.
    pub memory_reserve_bytes: u64,
    /// CPU that may be promised, thousandths of a core; overcommit is already in it.
    pub cpu_millis: u64,
    /// How long a ready instance without users goes on.
    pub idle_stop: Duration,
    /// How long a client that says nothing counts as a user; `None`: for ever.
    pub user_timeout: Option<Duration>,
    /// How long a start may take.
    pub start_limit: Duration,
}

/// What is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// CPU, thousandths of a core.
    pub cpu_millis: u64,
    /// Instances.
    pub instances: u32,
}

impl Free {
    /// What is left beside `instances` on a host that has `memory_available_bytes` available.
    pub fn beside<'a>(
        instances: impl Iterator<Item = &'a Instance>,
        limits: &Limits,
        memory_available_bytes: u64,
    ) -> Self {
        let mut count = 0u32;
        let (mut promised, mut unbacked, mut cpu) = (0u64, 0u64, 0u64);
        for instance in instances.filter(|instance| instance.holds_claim()) {
            let claim = instance.service.needs;
            count = count.saturating_add(1);
            promised = promised.saturating_add(claim.memory_bytes);
            unbacked = unbacked.saturating_add(claim.memory_bytes.saturating_sub(instance.backed_bytes));
            cpu = cpu.saturating_add(u64::from(claim.cpu_millis));
        }
        let by_promise =
            limits.memory_total_bytes.saturating_sub(limits.memory_reserve_bytes).saturating_sub(promised);
        let by_fact =
            memory_available_bytes.saturating_sub(limits.memory_reserve_bytes).saturating_sub(unbacked);
        Self {
            memory_bytes: by_promise.min(by_fact),
            cpu_millis: limits.cpu_millis.saturating_sub(cpu),
            instances: limits.max_instances.saturating_sub(count),
        }
    }

    /// What is left when `claim` is kept for somebody.
    pub fn without(self, claim: Claim) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_sub(claim.memory_bytes),
            cpu_millis: self.cpu_millis.saturating_sub(claim.cpu_millis.into()),
            instances: self.instances.saturating_sub(1),
        }
    }

    /// Whether `claim` fits; if not, what is missing.
    pub fn admit(&self, claim: Claim, limits: &Limits) -> Result<(), Refused> {
        if self.instances == 0 {
            return Err(Refused::TooMany { max: limits.max_instances });
        }
        let missing = Missing {
            memory_bytes: claim.memory_bytes.saturating_sub(self.memory_bytes),
            cpu_millis: u32::try_from(u64::from(claim.cpu_millis).saturating_sub(self.cpu_millis))
                .unwrap_or(u32::MAX),
        };
        if missing.memory_bytes == 0 && missing.cpu_millis == 0 {
            Ok(())
        } else {
            Err(Refused::Insufficient(missing))
        }
    }
}
