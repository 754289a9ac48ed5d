//! What arrived of VMs that did not come: kept for another try, but not for ever. It is memory of guests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long it is kept since the last page came. A guess: a vehicle that meets another one meets it again within a day, and after
/// that a running guest has changed most of it.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// What was written to within this time may be in use. A guess: ten leases.
const IN_USE: Duration = Duration::from_secs(150);

/// Removes what is too old.
pub(super) fn sweep(directory: &Path, now: SystemTime) -> io::Result<()> {
    for (age, path) in oldest_first(directory, now)? {
        if age > KEPT {
            remove(&path, age);
        }
    }
    Ok(())
}

/// Removes what is not in use, the oldest first, until there is room; never `but`.
pub(super) fn make_room(
    directory: &Path,
    but: &Path,
    now: SystemTime,
    has_room: impl Fn() -> io::Result<bool>,
) -> io::Result<()> {
    for (age, path) in oldest_first(directory, now)? {
        if has_room()? || age < IN_USE {
            break;
        }
        if path != but {
            remove(&path, age);
        }
    }
    Ok(())
}

fn oldest_first(directory: &Path, now: SystemTime) -> io::Result<Vec<(Duration, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // From the future: the clock was set back, and nothing is known of its age.
        let age = now.duration_since(entry.metadata()?.modified()?).unwrap_or_default();
        found.push((age, entry.path()));
    }
    found.sort_unstable_by(|one, two| two.cmp(one));
    Ok(found)
}

fn remove(path: &Path, age: Duration) {
    match fs::remove_file(path) {
        Ok(()) => {
            tracing::info!(path = %path.display(), ?age, "the pages of a VM that did not come are removed")
        }
        Err(error) => tracing::warn!(path = %path.display(), %error, "old pages cannot be removed"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn arrived(directory: &Path, name: &str, age: Duration, now: SystemTime) -> PathBuf {
        let path = directory.join(name);
        File::create_new(&path).unwrap().set_modified(now - age).unwrap();
        path
    }

    #[test]
    fn the_old_goes_and_for_room_the_oldest_that_is_not_in_use() {
        let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::UNIX_EPOCH + KEPT * 100);
        let hour = Duration::from_secs(3600);
        let ancient = arrived(dir.path(), "ancient", KEPT + hour, now);
        let [own, old, recent] = [("own", 4), ("old", 3), ("recent", 2)]
            .map(|(name, age)| arrived(dir.path(), name, hour * age, now));
        let busy = arrived(dir.path(), "busy", Duration::from_secs(1), now);
        let ahead = dir.path().join("ahead");
        File::create_new(&ahead).unwrap().set_modified(now + hour).unwrap();

        sweep(dir.path(), now).unwrap();
        assert!(!ancient.exists() && own.exists());
        make_room(dir.path(), &own, now, || Ok(!old.exists())).unwrap();
        assert!(own.exists() && !old.exists() && recent.exists());
        make_room(dir.path(), &own, now, || Ok(false)).unwrap();
        assert!(own.exists() && !recent.exists() && busy.exists() && ahead.exists());
    }
}
