//! The runtime directory: who runs the lab of a name, and where it listens.
//!
//! `NAME.lock` is locked by the process that runs the lab, so it is free as soon as that process is gone, however it
//! went; it holds the process's number. `NAME.control` is the control socket, `NAME.log` what a detached lab says.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Error, arp, error::system, leftovers, topology};

/// Where labs of this machine meet. Gone after a reboot, as they are.
const DIRECTORY: &str = "/run/cloudlet-lab";
/// How long a lab may take to end after SIGTERM: more than its own programs get.
const END_TIME: Duration = Duration::from_secs(15);

pub(super) fn path(name: &str, ending: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}.{ending}"))
}

/// The control socket of a lab.
pub(super) fn socket(name: &str) -> PathBuf {
    path(name, "control")
}

/// Where a lab that runs detached writes what it would say on stderr. Removed at its end.
pub fn log(name: &str) -> PathBuf {
    path(name, "log")
}

/// The right to run the lab of a name. Dropping it removes its files.
pub(super) struct Claim {
    name: String,
    _lock: File,
}

impl Claim {
    /// Claims `name`. [`Error::Running`] if another process has it.
    pub(super) fn take(name: &str) -> Result<Self, Error> {
        let file = path(name, "lock");
        let what = || format!("lock {}", file.display());
        loop {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(DIRECTORY)
                .map_err(system(format!("make {DIRECTORY}")))?;
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file);
            let mut lock = match open {
                // The last lab of the machine has just ended and taken the directory along.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                open => open.map_err(system(what()))?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(Error::Running { name: name.to_owned() }),
                Err(TryLockError::Error(error)) => return Err(system(what())(error)),
            }
            // Whoever had it before may have removed it between our opening and locking.
            let ours = lock.metadata().map_err(system(what()))?;
            if !std::fs::metadata(&file)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
            {
                continue;
            }
            lock.set_len(0)
                .and_then(|()| writeln!(lock, "{}", std::process::id()))
                .map_err(system(what()))?;
            let claim = Self { name: name.to_owned(), _lock: lock };
            claim.remove(&["control", "log"]);
            return Ok(claim);
        }
    }

    fn remove(&self, endings: &[&str]) {
        for ending in endings {
            let _ = std::fs::remove_file(path(&self.name, ending));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock last, and while it is held.
        self.remove(&["control", "log", "lock"]);
        let _ = std::fs::remove_dir(DIRECTORY);
    }
}

/// Whether labs other than `name` are running.
pub(super) fn others_run(name: &str) -> bool {
    let own = path(name, "lock");
    std::fs::read_dir(DIRECTORY).into_iter().flatten().flatten().any(|entry| {
        let file = entry.path();
        let is_other = file.extension().is_some_and(|ending| ending == "lock") && file != own;
        is_other
            && File::open(&file)
                .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    })
}

/// Number of the process that runs lab `name`, from its lock file.
fn owner(name: &str) -> Option<u32> {
    let mut text = String::new();
    File::open(path(name, "lock")).ok()?.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// What [`down`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// A process ran the lab, and was ended.
    pub was_running: bool,
    /// Programs that a lab had left behind, and that were ended.
    pub leftovers: usize,
}

/// Ends the lab called `name`, whoever runs it, and removes what a crashed one left.
///
/// # Errors
/// [`Error::System`] if its process does not end, or programs in it do not.
pub fn down(name: &str) -> Result<Ended, Error> {
    topology::check_name(name)?;
    let mut was_running = false;
    // Twice at most: a second process may have waited for the name.
    for _ in 0..3 {
        match Claim::take(name) {
            Ok(_claim) => {
                let leftovers = leftovers::sweep(name)?;
                arp::sweep(name);
                return Ok(Ended { was_running, leftovers });
            }
            Err(Error::Running { .. }) => {
                was_running = true;
                end_owner(name)?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Running { name: name.to_owned() })
}

/// Ends the process that has claimed `name`: SIGTERM, then SIGKILL.
fn end_owner(name: &str) -> Result<(), Error> {
    let Some(pid) = owner(name) else { return Ok(()) };
    let Some(handle) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let Ok(process) = pidfd_open(handle, PidfdFlags::empty()) else { return Ok(()) };
    // Now that the number cannot come to mean another process: is it still the lab's?
    let free = File::open(path(name, "lock")).is_ok_and(|lock| lock.try_lock_shared().is_ok());
    if free || owner(name) != Some(pid) {
        return Ok(());
    }
    for signal in [Signal::TERM, Signal::KILL] {
        let _ = pidfd_send_signal(&process, signal);
        let limit = Timespec { tv_sec: END_TIME.as_secs() as i64, tv_nsec: 0 };
        let mut wait = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut wait, Some(&limit)).is_ok_and(|ready| ready == 1) {
            return Ok(());
        }
    }
    Err(system(format!("end process {pid}, which runs lab '{name}'"))(io::Error::from(
        io::ErrorKind::TimedOut,
    )))
}
