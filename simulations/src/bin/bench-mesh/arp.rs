//! Room in the kernel's ARP tables.
//!
//! All namespaces of a machine share one limit, 1,024 entries by default. Thirty hosts that all talk with each other
//! need 870, and four such labs do not fit: packets are dropped that no radio lost. The limit is raised while this
//! program runs, and put back at its end (not if it is killed; more room than needed does no harm).

use std::path::PathBuf;

use anyhow::Context;

/// The limits: below the first nothing is thrown away; above the third nothing is taken in.
const LIMITS: [(&str, u64); 3] = [("gc_thresh1", 16_384), ("gc_thresh2", 32_768), ("gc_thresh3", 65_536)];

/// Holds the limits up; dropping it puts them back.
pub struct Room {
    before: Vec<(PathBuf, String)>,
}

impl Room {
    /// Raises the limits where they are lower.
    pub fn make() -> anyhow::Result<Self> {
        let mut room = Self { before: Vec::new() };
        // The largest first: the kernel does not ask that they be in order, but people who look in between may.
        for (name, least) in LIMITS.into_iter().rev() {
            let path = PathBuf::from("/proc/sys/net/ipv4/neigh/default").join(name);
            let found =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if found.trim().parse::<u64>().is_ok_and(|found| found < least) {
                std::fs::write(&path, least.to_string())
                    .with_context(|| format!("cannot write {}: are you root?", path.display()))?;
                room.before.push((path, found));
            }
        }
        Ok(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for (path, before) in &self.before {
            if let Err(error) = std::fs::write(path, before) {
                eprintln!("bench-mesh: cannot put {} back: {error}", path.display());
            }
        }
    }
}
