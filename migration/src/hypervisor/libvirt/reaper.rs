//! Taking note of the end of QEMU processes.
//!
//! libvirt detaches every QEMU, so that the machine's init becomes its parent, and when one has ended libvirt waits until
//! its process id is free. An init that reaps once in a while makes every stop, and the start after it, as slow as
//! that (1.8 s were measured in a container). So this process makes itself the parent of its detached descendants,
//! and reaps those that are QEMUs the moment they end. Others' children are left to those who wait for them.

use std::sync::Once;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, getsid};

/// How long to wait before looking again where the kernel cannot say when: there is no child yet, or somebody else's
/// has ended and is not reaped yet. A guess: well below the time that a VM takes to start or stop.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How the names of QEMU's processes begin. libvirt also examines emulators of other machines, if they are installed.
const EMULATORS: &str = "qemu-system-";

/// Starts reaping, once in this process.
pub(super) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
            tracing::warn!(%error, "cannot become the parent of QEMU processes; stopping VMs may take longer");
            return;
        }
        std::thread::spawn(|| {
            loop {
                // Returns as soon as any child has ended, and leaves it as it is.
                let ended = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
                if matches!(ended, Err(Errno::EINTR)) {
                    continue;
                }
                let reaped = ended.is_ok() && reap_detached();
                if !reaped {
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
        });
    });
}

/// Reaps the ended children that are QEMUs and in another session than this process, as only detached ones are.
fn reap_detached() -> bool {
    let Ok(session) = getsid(None) else { return false };
    let ended = children().into_iter().filter(|child| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        is_ended_elsewhere(&stat, session)
    });
    ended.filter(|child| waitpid(*child, Some(WaitPidFlag::WNOHANG)).is_ok()).count() > 0
}

fn children() -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .map(Pid::from_raw)
        .collect()
}

/// Whether a line of `/proc/PID/stat`, `PID (NAME) STATE PPID PGRP SESSION …`, is of an ended QEMU in another
/// session.
fn is_ended_elsewhere(stat: &str, session: Pid) -> bool {
    let Some((_, rest)) = stat.split_once(" (") else { return false };
    let Some((found, rest)) = rest.rsplit_once(") ") else { return false };
    let mut fields = rest.split(' ');
    let ended = found.starts_with(EMULATORS) && fields.next() == Some("Z");
    ended
        && fields
            .nth(2)
            .and_then(|other| other.parse().ok())
            .is_some_and(|other: i32| other != session.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ended_qemu_in_another_session_is_reaped() {
        for (stat, reaped) in [
            ("7 (qemu-system-x86) Z 1 6 6 0 -1", true),
            ("7 (qemu-system-i38) Z 1 6 6 0 -1", true),
            ("7 (qemu-system-x86) S 1 6 6 0 -1", false),
            ("7 (qemu-system-x86) Z 1 6 5 0 -1", false),
            ("7 (mmdebstrap) Z 1 6 6 0 -1", false),
            ("7 (a) Z 1 6 6) Z 1 6 6", false),
            ("", false),
        ] {
            assert_eq!(is_ended_elsewhere(stat, Pid::from_raw(5)), reaped, "{stat}");
        }
    }
}
