//! What was seen on the machine, without judgement. An `Err` holds what the machine answered.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::least::Version;
use crate::config::AcceleratorChoice;

/// Everything that was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// What runs guests.
    pub virtualisation: Virtualisation,
    /// Memory of the machine.
    pub memory: Memory,
    /// Where things are stored.
    pub disks: Vec<Disk>,
    /// How handhelds find it.
    pub discovery: Discovery,
    /// Where the API is to listen.
    pub port: (SocketAddr, Port),
    /// What images are built with.
    pub tools: Vec<Tool>,
    /// Where state is kept.
    pub state_dir: StateDir,
    /// What the clock says, seconds since 1970 UTC.
    pub now_unix_s: u64,
    /// What is in the image store.
    pub images: Result<Vec<Image>, String>,
}

/// What runs guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Virtualisation {
    /// What the configuration wants.
    pub wanted: AcceleratorChoice,
    /// Whether a guest ran under KVM.
    pub kvm: Result<(), String>,
    /// What the QEMU on the command path says.
    pub qemu: Result<Version, String>,
    /// libvirt's version and the machine types that it found, if it could be opened as configured.
    pub libvirt: Result<(Version, Vec<String>), String>,
    /// The configured connection: `embed` or a URI.
    pub uri: String,
}

/// Memory of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What there is, bytes.
    pub total_bytes: u64,
    /// What programs may still take, bytes.
    pub available_bytes: u64,
    /// What the configuration keeps back from instances, bytes.
    pub reserve_bytes: u64,
}

/// A place where things are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What is stored there.
    pub name: &'static str,
    /// Where.
    pub path: PathBuf,
    /// What is free there, bytes.
    pub free_bytes: Result<u64, String>,
}

/// How handhelds find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Whether the mission is quiet: then nothing was sent to find out.
    pub quiet: bool,
    /// Whether the configuration wants it to be found.
    pub enabled: bool,
    /// Interfaces that the configuration names.
    pub wanted: Vec<String>,
    /// Interfaces that are up.
    pub interfaces: Result<Vec<Interface>, String>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it leads to this machine only.
    pub loopback: bool,
    /// Whether a datagram that was sent to a multicast group on it came back.
    pub multicast: Result<(), String>,
}

/// State of the port that the API is to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// It can be had.
    Free,
    /// A cloudlet of this name answers there.
    Cloudlet(String),
    /// Something else has it.
    Taken,
    /// It cannot be had, and not because somebody has it.
    Impossible(String),
}

/// A program or library that images are built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// What it is needed for.
    pub needed_for: &'static str,
    /// Whether it is there.
    pub found: bool,
}

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    /// The directory.
    pub path: PathBuf,
    /// Whether this user can write there.
    pub writable: Result<(), String>,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name and the first digits of its id.
    pub title: String,
    /// The service in it.
    pub service: Option<String>,
    /// Why it cannot be used; `None` if it was read completely and is what was signed.
    pub damaged: Option<String>,
}
