//! Configuration of a cloudlet: every field, its unit, its range and its default.
//!
//! One TOML file, overridden by environment, overridden by flags; see [`load`]. Every field is described once
//! more, for people and for checking, in the table of [`fields`]; a test compares the two.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vm_images::ServiceId;

mod defaults;
mod error;
pub mod fields;
mod file;
mod handoff;
mod kind;
mod load;
mod moment;
mod nearest;
mod show;

pub use defaults::{Environment, Machine};
pub use error::{Error, Origin, Problem};
pub use handoff::{Automatic, Handoff, REMEMBER_MOST_S};
pub use load::{Effective, Setting, Sources, load};
pub use show::template;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this cloudlet is and where it keeps things.
    pub node: Node,
    /// The HTTP API.
    pub api: Api,
    /// How handhelds find it.
    pub discovery: Discovery,
    /// What runs the VMs.
    pub hypervisor: Hypervisor,
    /// How instances are admitted and ended.
    pub instances: Instances,
    /// The mission that it serves.
    pub mission: Mission,
    /// Who may speak to it.
    pub trust: Trust,
    /// The other cloudlets of the mission.
    pub mesh: Mesh,
    /// Images that it fetches from them, and they from it.
    pub exchange: Exchange,
    /// Services that move to other cloudlets by themselves.
    pub handoff: Handoff,
    /// What is logged.
    pub log: Log,
}

/// Who this cloudlet is and where it keeps things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Name for people, 1 to 40 bytes. Default: the host name.
    pub name: String,
    /// Directory for everything that must survive a restart: keys, instances, state. At most 50 bytes long,
    /// because sockets in it must fit the kernel's 108 bytes. Default: `$XDG_STATE_HOME/cloudlet`, else
    /// `~/.local/state/cloudlet`.
    pub state_dir: PathBuf,
    /// Directory of the image store. Default: `images` in the state directory.
    pub image_store: Option<PathBuf>,
    /// Where a cloudlet that stays in its place is: `LATITUDE,LONGITUDE` in degrees. Default: none; `cloudlet position`
    /// tells the running one.
    pub position: Option<String>,
    /// Directory in which the kernel says what this host runs on. Default: `/sys/class/power_supply`.
    pub power_supply: PathBuf,
}

/// The HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Address and port to listen on. Port 0 takes a free one. Default: `0.0.0.0:8477`.
    ///
    /// Forwarded ports of Service VMs are opened on the same address.
    pub listen: SocketAddr,
}

/// How handhelds find this cloudlet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discovery {
    /// Whether to publish `_cloudlet._tcp` by multicast DNS. Default: true.
    pub enabled: bool,
    /// Network interfaces to publish on, by name. Default: empty, meaning all that can do multicast.
    pub interfaces: Vec<String>,
}

/// What runs the VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hypervisor {
    /// libvirt connection: `embed` for libvirt inside this process with its files below the state directory,
    /// or a URI such as `qemu:///system`. Default: `embed`.
    pub uri: String,
    /// What executes guest code. `auto` runs a tiny guest under KVM once per boot of the host, and takes TCG
    /// when that guest does not finish. Default: `auto`.
    pub accelerator: AcceleratorChoice,
    /// How long the KVM probe may take, seconds, 1 to 60. Default: 5 (a working KVM needs under 0.5; guess).
    pub kvm_probe_limit_s: u64,
}

/// How the accelerator is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcceleratorChoice {
    /// KVM if it works, else TCG.
    Auto,
    /// KVM, or fail.
    Kvm,
    /// TCG.
    Tcg,
}

/// How instances are admitted and ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Instances {
    /// Most instances at a time, 1 to 1000. Default: 64.
    pub max: u32,
    /// Memory that is never given to instances, MiB, 0 to 1048576. Default: 512 (guess: the daemon, the system,
    /// page cache for images).
    pub memory_reserve_mib: u64,
    /// How many times the real cores may be promised to instances, 0.1 to 100. Default: 4, because handheld
    /// requests come in bursts and seldom at once (guess).
    pub cpu_overcommit: f64,
    /// A ready instance without users is stopped after this long, seconds, 0 to 86400. Default: 60.
    pub idle_stop_s: u64,
    /// A client that has not started, asked about or renewed its instance (by its token) for this long counts as
    /// gone, seconds, up to 604800; 0 means never. Default: 1800 (guess: longer than a radio shadow, shorter than
    /// a mission).
    pub user_timeout_s: u64,
    /// A service that has not answered its health check after this long has failed, seconds, 1 to 3600. Default: 60.
    pub start_limit_s: u64,
}

/// The mission that this cloudlet serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mission {
    /// Whether to send no multicast at all, whatever `discovery` and `mesh` say: handhelds come by QR code or address, cloudlets
    /// by `mesh.peers`. Default: false.
    pub quiet: bool,
    /// When every instance is stopped and no new one is admitted, RFC 3339 with an offset, such as
    /// `2026-12-01T06:00:00Z`. Default: none.
    pub ends: Option<String>,
    /// Services that every vehicle should hold, the most wanted first; at most 64. Those that are missing are fetched
    /// from other cloudlets. Default: none.
    pub replicate: Vec<ServiceId>,
}

/// Who may speak to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Whether everybody may, over plain HTTP. For development only. Default: false.
    pub insecure: bool,
    /// Where handhelds are paired while a code is shown. Port 0 takes a free one. Default: the API's address, port 8478.
    pub pairing_listen: Option<SocketAddr>,
    /// Most connections whose other end has not proved itself yet, to the API and to the mesh each, 16 to 65536. Default: 256;
    /// see [`mesh::crowd::Limits`].
    pub strangers: u32,
    /// Most of those from one IPv4 address or one IPv6 /64. Default: 64.
    pub strangers_per_address: u32,
    /// Most of those from one IPv4 /24 or one IPv6 /48. Default: 192.
    pub strangers_per_network: u32,
}

/// The other cloudlets of the mission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mesh {
    /// Whether to be in touch with them. Default: true. Without a mission there is no mesh.
    pub enabled: bool,
    /// Address and port for other cloudlets, UDP and TCP. Port 0 takes a free one. Default: the API's address, port 8479.
    pub listen: Option<SocketAddr>,
    /// Whether to call out for others by multicast. Default: true; false is for quiet missions and networks without it.
    pub multicast: bool,
    /// Where some of them are, `IP:PORT`, for networks without multicast. Default: none.
    pub peers: Vec<String>,
}

/// Images that cloudlets fetch from one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exchange {
    /// Whether a service that a handheld asks for and that is not here is fetched from others. Default: true.
    pub on_demand: bool,
    /// The most that is fetched and the most that is served, KiB per second each, up to 1048576. Default: 0, meaning
    /// what links carry, less a share that is left to others (`mesh::exchange::pace`).
    pub rate_limit_kib_per_s: u64,
    /// A fetch that nothing comes in for ends after this long, seconds, 10 to 86400; what came stays, and goes on when
    /// somebody who has the rest comes. Default: 600 (guess: two convoys that pass each other now and then).
    pub patience_s: u64,
    /// What must be free on the disk before something is fetched for [`Mission::replicate`], MiB, up to 1048576.
    /// Default: 1024 (guess: what a few instances write).
    pub reserve_mib: u64,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What to log, in the syntax of `tracing_subscriber::EnvFilter`. Default: `info`.
    pub filter: String,
    /// One JSON object a line instead of text. Default: false.
    pub json: bool,
}
