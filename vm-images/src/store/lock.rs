//! Locks between processes. `flock` locks vanish with their holder, however it dies.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{Error, reading, writing};

/// How often a taken lock is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// How often before giving up: 30 s. The lock is held only while names change, never while data is written or
/// hashed, so this is reached only if the holder is stopped or the disk hangs (a guess).
const TRIES: u32 = 1500;

/// Held while names, images and drafts appear and disappear.
#[derive(Debug)]
pub(super) struct StoreLock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl StoreLock {
    /// Waits for the lock. `doing` is what others are told who wait in turn.
    pub(super) fn take(root: &Path, doing: &str) -> Result<Self, Error> {
        let path = root.join("lock");
        let mut file = open(&path)?;
        for attempt in 0..TRIES {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut held) => {
                    note_holder(&mut held, doing);
                    return Ok(Self(held));
                }
                Err((unlocked, Errno::EWOULDBLOCK | Errno::EINTR)) => file = unlocked,
                Err((_, errno)) => return Err(reading("lock", &path)(errno.into())),
            }
            if attempt == 50 {
                tracing::info!(holder = holder(&path), "waiting for the image store's lock");
            }
            std::thread::sleep(RETRY);
        }
        Err(Error::Busy { root: root.to_owned(), holder: holder(&path) })
    }
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(writing("open", path, 0))
}

/// Only a hint for people who wait, so failing to write it (disk full) does not matter.
fn note_holder(file: &mut File, doing: &str) {
    let _ = file.set_len(0);
    let _ = file.rewind();
    let _ = writeln!(file, "process {}, {doing}", std::process::id());
}

fn holder(path: &Path) -> String {
    let mut text = String::new();
    // A hint, too.
    let _ = File::open(path).and_then(|file| file.take(200).read_to_string(&mut text));
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() { "unknown".to_owned() } else { line.to_owned() }
}

/// Says that somebody is alive and uses the directory that the lock file lies in.
#[derive(Debug)]
pub(super) struct Lease(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl Lease {
    /// Makes the lock file and takes its lease.
    pub(super) fn make(path: &Path) -> Result<Self, Error> {
        match Self::take(open(path)?, path)? {
            Claim::Taken(lease) => Ok(lease),
            _ => Err(reading("lock", path)(Errno::EWOULDBLOCK.into())),
        }
    }

    /// Takes the lease of an existing lock file, if nobody holds it.
    pub(super) fn claim(path: &Path) -> Result<Claim, Error> {
        match File::open(path) {
            Ok(file) => Self::take(file, path),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Claim::NoLock),
            Err(source) => Err(reading("open", path)(source)),
        }
    }

    fn take(file: File, path: &Path) -> Result<Claim, Error> {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Claim::Taken(Self(held))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(Claim::InUse),
            Err((_, errno)) => Err(reading("lock", path)(errno.into())),
        }
    }
}

/// What came of asking for a lease.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is ours now.
    Taken(Lease),
    /// A live process holds it.
    InUse,
    /// There is no lock file: whoever made the directory was killed in the middle, or is removing it.
    NoLock,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_exclusive_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(matches!(Lease::claim(&path).unwrap(), Claim::NoLock));
        let held = Lease::make(&path).unwrap();
        assert!(matches!(Lease::claim(&path).unwrap(), Claim::InUse));
        drop(held);
        assert!(matches!(Lease::claim(&path).unwrap(), Claim::Taken(_)));
    }

    #[test]
    fn the_holder_is_named_for_those_who_wait() {
        let dir = tempfile::tempdir().unwrap();
        let _held = StoreLock::take(dir.path(), "collecting garbage").unwrap();
        assert_eq!(
            holder(&dir.path().join("lock")),
            format!("process {}, collecting garbage", std::process::id())
        );
    }
}
