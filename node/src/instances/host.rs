//! What the host has, and what of it is in use.

use std::sync::Mutex;

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Reads the host's memory and CPU.
pub trait Meter: Send + Sync {
    /// Memory, now.
    fn memory(&self) -> Memory;

    /// CPU in use since the last call, thousandths of a core. Called every few seconds.
    fn cpu_used_millis(&self) -> u32;

    /// CPU that there is, thousandths of a core.
    fn cpu_total_millis(&self) -> u32;
}

/// Memory of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All, bytes.
    pub total_bytes: u64,
    /// What new work could get without swapping, bytes.
    pub available_bytes: u64,
}

/// This host, or the control group that limits this daemon.
pub struct SystemMeter(Mutex<System>);

impl SystemMeter {
    /// A meter of this host.
    pub fn new() -> Self {
        let what = RefreshKind::nothing()
            .with_memory(MemoryRefreshKind::nothing().with_ram())
            .with_cpu(CpuRefreshKind::nothing().with_cpu_usage());
        Self(Mutex::new(System::new_with_specifics(what)))
    }

    fn with<T>(&self, read: impl FnOnce(&mut System) -> T) -> T {
        // A panic elsewhere while the lock was held leaves numbers that are at worst old.
        read(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Default for SystemMeter {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter for SystemMeter {
    fn memory(&self) -> Memory {
        self.with(|system| {
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            let (total, available) = (system.total_memory(), system.available_memory());
            match system.cgroup_limits() {
                Some(group) if group.total_memory < total => Memory {
                    total_bytes: group.total_memory,
                    available_bytes: group.free_memory.min(available),
                },
                _ => Memory { total_bytes: total, available_bytes: available },
            }
        })
    }

    fn cpu_used_millis(&self) -> u32 {
        self.with(|system| {
            system.refresh_cpu_usage();
            let cores = system.cpus().len() as f32;
            // At most 100 % of the cores that there are.
            (system.global_cpu_usage().clamp(0.0, 100.0) / 100.0 * cores * 1000.0) as u32
        })
    }

    fn cpu_total_millis(&self) -> u32 {
        self.with(|system| u32::try_from(system.cpus().len().max(1)).unwrap_or(u32::MAX).saturating_mul(1000))
    }
}

/// Memory that is a process's alone (anonymous, resident), bytes: what a VM has written of its private mapping, and
/// the hypervisor process itself. `None` where the kernel does not say.
pub(crate) fn private_bytes(process_id: u32) -> Option<u64> {
    private_in_status(&std::fs::read_to_string(format!("/proc/{process_id}/status")).ok()?)
}

fn private_in_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_host() {
        let meter = SystemMeter::new();
        let memory = meter.memory();
        assert!(memory.available_bytes > 0 && memory.available_bytes <= memory.total_bytes, "{memory:?}");
        assert!(meter.cpu_total_millis() >= 1000 && meter.cpu_used_millis() <= meter.cpu_total_millis());
    }

    #[test]
    fn reads_private_memory() {
        assert_eq!(private_in_status("VmRSS:\t 900 kB\nRssAnon:\t  123 kB\n"), Some(123 * 1024));
        assert_eq!(private_in_status("RssAnon:\t many kB\n"), None);
        assert!(private_bytes(std::process::id()).unwrap() > 0);
    }
}
