//! Memory, disks, directories, programs and the clock.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use crate::config::Config;
use crate::doctor::least::Version;
use crate::doctor::{Disk, Memory, StateDir, Tool};
use crate::instances::{Meter as _, SystemMeter};

/// QEMU's program; the one that the hypervisor's driver starts.
const EMULATOR: &str = "qemu-system-x86_64";
/// Directories that a user's command path may lack and that have tools for file systems.
const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What images are built with: name, package, purpose.
pub const TOOLS: [(&str, &str, &str); 6] = [
    ("mmdebstrap", "mmdebstrap", "root file systems"),
    ("mke2fs", "e2fsprogs", "file system images"),
    ("qemu-img", "qemu-utils", "disk files"),
    ("gcc", "build-essential", "the speech server"),
    ("pkg-config", "pkg-config", "the speech server"),
    (POCKETSPHINX, "libpocketsphinx-dev", "the speech server"),
];
/// Not a program but a library; pkg-config knows it.
const POCKETSPHINX: &str = "pocketsphinx";

pub(super) fn memory(config: &Config) -> Memory {
    // The daemon admits instances by the same meter.
    let memory = SystemMeter::new().memory();
    Memory {
        total_bytes: memory.total_bytes,
        available_bytes: memory.available_bytes,
        reserve_bytes: config.instances.memory_reserve_mib << 20,
    }
}

pub(super) fn disks(config: &Config) -> Vec<Disk> {
    let disk = |name, path: PathBuf| Disk { name, free_bytes: free_bytes(&path), path };
    vec![disk("disk of state", config.node.state_dir.clone()), disk("disk of images", config.image_store())]
}

/// Free space where `path` is or will be.
fn free_bytes(path: &Path) -> Result<u64, String> {
    let existing = existing(path)?;
    let space = statvfs(existing).map_err(|error| format!("{}: {error}", existing.display()))?;
    Ok(space.blocks_available().saturating_mul(space.fragment_size()))
}

/// The path itself, or the nearest directory above it that is there.
fn existing(path: &Path) -> Result<&Path, String> {
    path.ancestors().find(|path| path.exists()).ok_or_else(|| "it is on no file system".to_owned())
}

pub(super) fn state_dir(path: &Path) -> StateDir {
    StateDir { path: path.to_owned(), writable: writable(path) }
}

/// Writes a file and removes it, or, where nothing is yet, asks whether the directory could be made.
fn writable(path: &Path) -> Result<(), String> {
    let existing = existing(path)?;
    let about = |error: &dyn std::fmt::Display| format!("{}: {error}", existing.display());
    if !existing.is_dir() {
        return Err(about(&"is not a directory"));
    }
    if existing != path {
        return access(existing, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| about(&error.desc()));
    }
    let probe = path.join(format!(".doctor-{}", std::process::id()));
    let written = std::fs::File::create_new(&probe).and_then(|mut file| file.write_all(b"probe"));
    // A probe that was not made cannot be removed.
    let _ = std::fs::remove_file(&probe);
    written.map_err(|error| about(&error))
}

pub(super) fn now_unix_s() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the clock is what is examined")]
    let now = SystemTime::now();
    // Before 1970 is as wrong as 1970.
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn tools() -> Vec<Tool> {
    let found = |name: &str| if name == POCKETSPHINX { has_library(name) } else { program(name).is_some() };
    TOOLS.map(|(name, package, needed_for)| Tool { name, package, needed_for, found: found(name) }).to_vec()
}

/// Where a program is.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|file| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

fn has_library(name: &str) -> bool {
    let mut asked = Command::new("pkg-config");
    asked.args(["--exists", name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    asked.status().is_ok_and(|status| status.success())
}

/// Version of QEMU.
pub(super) fn qemu() -> Result<Version, String> {
    let output = Command::new(EMULATOR)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{EMULATOR}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::find(&text).ok_or_else(|| {
        let trouble = String::from_utf8_lossy(&output.stderr);
        let said = text.lines().chain(trouble.lines()).next().unwrap_or("nothing").to_owned();
        format!("{EMULATOR} --version says {said}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_measured_where_a_path_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let here = free_bytes(dir.path()).unwrap();
        let below = free_bytes(&dir.path().join("not/yet/there")).unwrap();
        assert!(here > 0 && here.abs_diff(below) < 1 << 30, "{here} {below}");
    }

    #[test]
    fn a_directory_is_writable_and_a_file_in_its_place_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(writable(dir.path()), Ok(()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the probe is gone");
        assert_eq!(writable(&dir.path().join("not/yet")), Ok(()));
        assert!(!dir.path().join("not").exists(), "nothing is made");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(writable(&file).unwrap_err().contains("is not a directory"));
        assert!(writable(&file.join("below")).unwrap_err().contains("is not a directory"));
        // Not even root makes files here.
        assert!(writable(Path::new("/proc/self")).is_err());
    }

    #[test]
    fn programs_are_found_and_absent_ones_are_not() {
        assert!(program("sh").is_some());
        assert!(program("no-such-program-at-all").is_none());
        assert!(!has_library("no-such-library-at-all"));
    }

    #[test]
    fn memory_is_plausible() {
        let memory = memory(&Config::default());
        assert!(memory.available_bytes > 0 && memory.available_bytes <= memory.total_bytes, "{memory:?}");
        assert_eq!(memory.reserve_bytes, 512 << 20);
    }
}
