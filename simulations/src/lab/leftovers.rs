//! Ends programs that run in the namespaces of a lab: at its end, and at the next start after a crash.
//!
//! A namespace outlives its lab only as long as a process is in it. Nothing is ended for its name or its number alone: a
//! process is held by a pidfd, then its namespace is looked at, then it is signalled through the pidfd.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::namespace::{self, inside, run_ip};
use super::{Error, error::system};

/// How long programs have to end after SIGTERM before they are killed. A guess: what a daemon needs to close files.
const GRACE: Duration = Duration::from_millis(1_000);
/// How long the kernel may take to end what was killed; longer means that it hangs in the kernel.
const KILL_TIME: Duration = Duration::from_secs(5);
/// How often to look again for processes that were born meanwhile.
const ROUNDS: usize = 10;

/// A process, held so that its number cannot come to mean another one.
struct Process {
    pid: u32,
    fd: OwnedFd,
    namespace: u64,
}

/// All processes but this one, with their network namespaces. Those that end meanwhile, and zombies, are left out.
fn processes() -> Result<Vec<Process>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(system("list processes"))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Some(handle) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let Ok(fd) = pidfd_open(handle, PidfdFlags::empty()) else { continue };
        // Looked at after the pidfd was opened: if the number was reused, the signal goes to nobody.
        let Ok(namespace) = std::fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
        found.push(Process { pid, fd, namespace: namespace.ino() });
    }
    Ok(found)
}

/// Waits until all of `processes` have ended, at most `limit`; whether they have.
fn ended(processes: &[Process], limit: Duration) -> bool {
    processes.iter().all(|process| {
        let mut wait = [PollFd::from_borrowed_fd(process.fd.as_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        poll(&mut wait, Some(&limit)).is_ok_and(|ready| ready == 1)
    })
}

/// Ends all processes for whose namespaces `ours` says yes: SIGTERM, then SIGKILL. Returns how many there were.
fn end(mut ours: impl FnMut(&Process) -> bool) -> Result<usize, Error> {
    let mut count = 0;
    for round in 0..ROUNDS {
        let mut found = processes()?;
        found.retain(&mut ours);
        if found.is_empty() {
            return Ok(count);
        }
        count += if round == 0 { found.len() } else { 0 };
        let signal = |signal| {
            for process in &found {
                // It may have ended by itself.
                let _ = pidfd_send_signal(&process.fd, signal);
            }
        };
        if round == 0 {
            signal(Signal::TERM);
            // A stopped program hears nothing before it goes on.
            signal(Signal::CONT);
            if ended(&found, GRACE) {
                continue;
            }
        }
        signal(Signal::KILL);
        ended(&found, KILL_TIME);
    }
    let left: Vec<u32> = processes()?.into_iter().filter(|process| ours(process)).map(|it| it.pid).collect();
    if left.is_empty() {
        return Ok(count);
    }
    Err(system(format!("end processes {left:?}"))(io::Error::from(io::ErrorKind::TimedOut)))
}

/// Ends all processes in the namespaces with these numbers, which the caller holds open.
pub(super) fn end_inside(inodes: &[u64]) -> Result<usize, Error> {
    end(|process| inodes.contains(&process.namespace))
}

/// Ends all processes in namespaces that bear the mark of lab `lab`, which nobody runs. Returns how many there were.
pub(super) fn sweep(lab: &str) -> Result<usize, Error> {
    let own = std::fs::metadata(namespace::OWN).map_err(system("look at a network namespace"))?.ino();
    let prefix = namespace::mark(lab, "");
    // Namespaces stay known only while a process holds them, and numbers are reused: asked anew for each round's
    // processes, but once for each namespace while its handle is open.
    let mut known: BTreeMap<u64, (File, bool)> = BTreeMap::new();
    end(|process| {
        if process.namespace == own {
            return false;
        }
        if let Some((_, ours)) = known.get(&process.namespace) {
            return *ours;
        }
        let Ok(file) = File::open(format!("/proc/{}/ns/net", process.pid)) else { return false };
        // The process may have moved, or its number may mean another by now: what was opened is what is judged.
        if !file.metadata().is_ok_and(|metadata| metadata.ino() == process.namespace) {
            return false;
        }
        let ours = inside(Some(&file), || has_mark(&prefix)).unwrap_or(false);
        known.insert(process.namespace, (file, ours));
        ours
    })
}

/// Whether the loopback of the thread's namespace bears a mark that begins with `prefix`.
fn has_mark(prefix: &str) -> Result<bool, Error> {
    let output = run_ip(&["-json", "link", "show", "dev", "lo"], "")?;
    let links: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok(links.iter().any(|link| link["ifalias"].as_str().is_some_and(|alias| alias.starts_with(prefix))))
}
