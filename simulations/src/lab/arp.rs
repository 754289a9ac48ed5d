//! Room in the kernel's ARP tables.
//!
//! All namespaces of a machine share one limit, 1,024 entries by default. Thirty-three hosts that all talk with each
//! other need more, and so do two labs of twenty-five: packets are dropped that no radio lost. The limits are raised
//! while labs run. What they were is written down in the runtime directory before, so whoever ends last puts them back:
//! the last lab, or after a crash the next one, or `cloudlet-lab down`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Error;
use super::error::system;
use super::runtime;

/// Where the kernel keeps them; there only in the machine's first network namespace.
const KERNEL: &str = "/proc/sys/net/ipv4/neigh/default";
/// Below the first nothing is thrown away; above the third nothing is taken in. 65,536 are 256 hosts that all talk.
const LIMITS: [(&str, u64); 3] = [("gc_thresh1", 16_384), ("gc_thresh2", 32_768), ("gc_thresh3", 65_536)];
/// Entries that fit without any of this.
const USUAL: usize = 1024;

/// Holds the limits up for one lab; dropping it puts them back if it is the last one.
pub(super) struct Room {
    lab: String,
    limits: Limits,
}

struct Limits {
    kernel: PathBuf,
    /// What the limits were, one `name value` a line; locked while it or the limits are looked at.
    book: PathBuf,
}

impl Room {
    /// Raises the limits where they are lower. The lab has claimed its name already.
    ///
    /// # Errors
    /// [`Error::System`] if the limits cannot be raised and the lab needs it.
    pub(super) fn make(lab: &str, hosts: usize) -> Result<Self, Error> {
        let limits = Limits { kernel: KERNEL.into(), book: runtime::path("arp", "before") };
        match limits.raise() {
            Err(error) if hosts * hosts.saturating_sub(1) > USUAL => Err(error),
            // A container's, say: a small lab does without.
            _ => Ok(Self { lab: lab.to_owned(), limits }),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        restore(&self.limits, &self.lab);
    }
}

/// Puts back what a killed lab left, unless labs other than `lab` are running.
pub(super) fn sweep(lab: &str) {
    restore(&Limits { kernel: KERNEL.into(), book: runtime::path("arp", "before") }, lab);
}

fn restore(limits: &Limits, lab: &str) {
    if let Err(error) = limits.restore(|| runtime::others_run(lab)) {
        let source = std::error::Error::source(&error).map(|it| format!(": {it}")).unwrap_or_default();
        eprintln!("cloudlet-lab: {error}{source}");
    }
}

impl Limits {
    fn locked(&self) -> Result<File, Error> {
        let what = || format!("lock {}", self.book.display());
        loop {
            let book =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.book);
            let book = book.map_err(system(what()))?;
            book.lock().map_err(system(what()))?;
            // Whoever had it before may have removed it between our opening and locking.
            let ours = book.metadata().map_err(system(what()))?;
            let is_there = std::fs::metadata(&self.book)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
            if is_there {
                return Ok(book);
            }
        }
    }

    fn raise(&self) -> Result<(), Error> {
        let mut book = self.locked()?;
        let mut before = String::new();
        book.read_to_string(&mut before).map_err(system(format!("read {}", self.book.display())))?;
        if before.lines().count() < LIMITS.len() {
            before.clear();
            for (name, _) in LIMITS {
                before += &format!("{name} {}\n", self.get(name)?);
            }
            // Before anything is raised.
            book.set_len(0)
                .and_then(|()| book.rewind())
                .and_then(|()| book.write_all(before.as_bytes()))
                .map_err(system(format!("write {}", self.book.display())))?;
        }
        // The largest first: the kernel does not ask that they be in order, but people who look in between may.
        for (name, least) in LIMITS.into_iter().rev() {
            if self.get(name)? < least {
                self.set(name, least)?;
            }
        }
        Ok(())
    }

    /// Puts the limits back unless they are still `needed`, which is asked while nobody else can raise them.
    fn restore(&self, needed: impl FnOnce() -> bool) -> Result<(), Error> {
        if !self.book.exists() {
            return Ok(());
        }
        let mut book = self.locked()?;
        if needed() {
            return Ok(());
        }
        let mut before = String::new();
        book.read_to_string(&mut before).map_err(system(format!("read {}", self.book.display())))?;
        for line in before.lines() {
            let known =
                line.split_once(' ').filter(|(name, _)| LIMITS.iter().any(|(limit, _)| limit == name));
            if let Some((name, Ok(value))) = known.map(|(name, value)| (name, value.parse())) {
                self.set(name, value)?;
            }
        }
        match std::fs::remove_file(&self.book) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(system(format!("remove {}", self.book.display()))(error))
            }
            _ => Ok(()),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.kernel).join(name)
    }

    fn get(&self, name: &str) -> Result<u64, Error> {
        let file = self.file(name);
        let what = || format!("read {}", file.display());
        let text = std::fs::read_to_string(&file).map_err(system(what()))?;
        text.trim().parse().map_err(|_| system(what())(std::io::Error::from(ErrorKind::InvalidData)))
    }

    fn set(&self, name: &str, value: u64) -> Result<(), Error> {
        let file = self.file(name);
        std::fs::write(&file, value.to_string()).map_err(system(format!("write {}", file.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_puts_the_limits_back_whoever_was_killed() {
        let directory = tempfile::tempdir().unwrap();
        let limits =
            Limits { kernel: directory.path().to_owned(), book: directory.path().join("arp.before") };
        let now = || LIMITS.map(|(name, _)| limits.get(name).unwrap());
        for (name, value) in [("gc_thresh1", 128), ("gc_thresh2", 512), ("gc_thresh3", 100_000)] {
            limits.set(name, value).unwrap();
        }
        limits.raise().unwrap();
        assert_eq!(now(), [16_384, 32_768, 100_000], "what is high enough stays");
        // A second lab; the first is killed, the second ends, a third still runs.
        limits.raise().unwrap();
        limits.restore(|| true).unwrap();
        assert_eq!(now(), [16_384, 32_768, 100_000]);
        limits.restore(|| false).unwrap();
        assert_eq!(now(), [128, 512, 100_000]);
        assert!(!limits.book.exists());
        limits.restore(|| false).unwrap();
        assert_eq!(now(), [128, 512, 100_000], "nothing to put back");
    }
}
