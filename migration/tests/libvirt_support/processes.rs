//! Finding and ending QEMU processes by the directory that their command line names.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Process ids of the QEMUs whose command line names something below `directory`.
pub fn naming(directory: &Path) -> Vec<u32> {
    let mut wanted = directory.as_os_str().as_bytes().to_vec();
    wanted.push(b'/');
    let ids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    ids.filter(|id| is_qemu_naming(*id, &wanted)).collect()
}

fn is_qemu_naming(id: u32, wanted: &[u8]) -> bool {
    // A process that has ended meanwhile, and a dead one that nobody waited for, has no command line.
    let Ok(line) = fs::read(format!("/proc/{id}/cmdline")) else { return false };
    let program = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let is_qemu = program.windows(4).any(|part| part == b"qemu");
    is_qemu && line.windows(wanted.len()).any(|part| part == wanted)
}

/// Ends these processes and waits until they are gone.
pub fn end(ids: &[u32]) {
    for id in ids {
        let pid = Pid::from_raw(i32::try_from(*id).unwrap());
        let _ = kill(pid, Signal::SIGKILL);
        let begin = Instant::now();
        while kill(pid, None).is_ok() && begin.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
