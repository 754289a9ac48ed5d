//! Small parts of the host that a test makes for itself: a full disk, a network without multicast.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Site, capabilities};

/// Whether this is root; says what is skipped otherwise.
pub fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: {what} needs root");
    }
    root
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A small file system on a directory; unmounted when this is dropped.
pub struct Tmpfs {
    place: PathBuf,
}

impl Tmpfs {
    /// Mounts one over the state directory of a site.
    pub fn over(site: &Site, place: &Path, bytes: u64) -> Self {
        fs::create_dir_all(place).unwrap();
        let options = format!("size={bytes},mode=700");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", place.to_str().unwrap()]);
        for root in ["hv", "bd"] {
            capabilities::provide(&site.state().join(root));
        }
        Self { place: place.to_owned() }
    }

    /// Leaves no room; gives the file that takes it.
    pub fn fill(&self) -> PathBuf {
        let path = self.place.join("filler");
        let mut file = File::create(&path).unwrap();
        for block in [1 << 16, 1 << 10, 1] {
            while file.write_all(&vec![1; block]).is_ok() {}
        }
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, as a daemon of a failed test may still be on its way out.
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

/// The interface without multicast.
pub const RADIO: &str = "radio";

/// A network namespace, removed when this is dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// One with loopback and an interface [`RADIO`] that cannot do multicast, as some radios cannot.
    pub fn without_multicast() -> Self {
        let name = format!("clt-{}-alone", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        let inside = |arguments: &[&str]| run("ip", &[&["-n", &namespace.name], arguments].concat());
        inside(&["link", "set", "lo", "up"]);
        inside(&["link", "add", RADIO, "type", "veth", "peer", "name", "far"]);
        inside(&["addr", "add", "10.79.0.1/24", "dev", RADIO]);
        inside(&["link", "set", RADIO, "multicast", "off", "up"]);
        inside(&["link", "set", "far", "multicast", "off", "up"]);
        namespace
    }

    /// What goes before a program's name to run it inside.
    pub fn prefix(&self) -> Vec<&str> {
        vec!["ip", "netns", "exec", &self.name]
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
