//! What a process takes of the machine.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// Linux's `USER_HZ` on x86-64, in which /proc counts processor time.
const TICKS_PER_S: u64 = 100;

/// A process that is watched.
#[derive(Debug, Clone, Copy)]
pub struct Process(u32);

/// What it has taken so far.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub cpu: Duration,
    pub memory_bytes: u64,
}

impl Process {
    /// The daemon that uses this state directory.
    pub fn of_daemon(state: &Path) -> anyhow::Result<Self> {
        let state = state.display().to_string();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse() else { continue };
            // Gone meanwhile.
            let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            if words.iter().any(|word| *word == state) && words.iter().any(|word| word == "up") {
                return Ok(Self(id));
            }
        }
        anyhow::bail!("no daemon uses {state}")
    }

    /// Lets its highest use of memory begin anew; gives what it has taken, with what it holds now.
    pub fn begin(self) -> anyhow::Result<Taken> {
        std::fs::write(format!("/proc/{}/clear_refs", self.0), "5")?;
        self.taken("VmRSS:")
    }

    /// What it has taken, with the most memory since [`Process::begin`].
    pub fn end(self) -> anyhow::Result<Taken> {
        self.taken("VmHWM:")
    }

    fn taken(self, field: &str) -> anyhow::Result<Taken> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // After the name in brackets: state, ten more, then ticks in user mode and in the kernel.
        let (_, rest) = stat.rsplit_once(')').context("a name in brackets")?;
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let kib = status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next());
        let kib: u64 = kib.context("its memory")?.parse()?;
        Ok(Taken { cpu: Duration::from_millis(ticks * 1000 / TICKS_PER_S), memory_bytes: kib * 1024 })
    }
}
