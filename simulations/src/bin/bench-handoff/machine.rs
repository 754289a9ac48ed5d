//! On what it was measured.

use std::fmt;
use std::process::Command;

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub memory_mib: u64,
    /// Commit of the checkout; with `+` if files in it were changed.
    pub commit: String,
    pub qemu: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, memory_mib, commit, qemu } = self;
        write!(f, "{cores} × {processor}, {memory_mib} MiB, Linux {kernel}; commit {commit}; QEMU {qemu}")
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':')).map(str::trim)
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

pub fn look() -> Machine {
    let memory = read("/proc/meminfo");
    let kib = field(&memory, "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    let changed =
        !output("git", &["-c", "safe.directory=*", "status", "--porcelain", "--untracked-files=no"])
            .is_empty();
    let qemu = output("dpkg-query", &["--show", "--showformat=${Version}", "qemu-system-x86"]);
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        memory_mib: kib.unwrap_or(0) / 1024,
        commit: output("git", &["-c", "safe.directory=*", "rev-parse", "--short=10", "HEAD"])
            + if changed { "+" } else { "" },
        qemu: if qemu.is_empty() { "none".to_owned() } else { qemu },
    }
}

/// Mean number of runnable tasks over the last minute.
pub fn load() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}
