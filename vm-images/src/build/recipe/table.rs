//! The tables of `recipe.toml`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::build::MIB;
use crate::id::ServiceId;
use crate::manifest::{self, Accelerator, GuestOs, Kind};

/// Time for one warm-up request if the recipe does not say, seconds. A guess: 25 times a recognition under TCG.
const REQUEST_LIMIT_S: u64 = 180;

/// `recipe.toml` of a base image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Always [`Kind::Base`].
    pub kind: Kind,
    /// Name of the recipe and of the image in the store.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// The virtual hardware.
    pub hardware: Hardware,
    /// The root disk.
    pub root: Root,
    /// What runs in the guest right before it is suspended.
    pub prepare: Script,
    /// When the guest counts as up.
    pub ready: Ready,
}

/// `[hardware]`: what of [`manifest::Hardware`] a recipe decides.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// See [`manifest::Hardware::machine`].
    pub machine: String,
    /// See [`manifest::Hardware::cpu_model`].
    pub cpu_model: String,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Kernel command line of a cold boot.
    pub command_line: String,
}

/// `[root]`: the root disk of a base image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Debian release, such as `bookworm`.
    pub suite: String,
    /// Size of the disk, MiB; the file is sparse.
    pub disk_mib: u64,
    /// Packages beyond the minimal set.
    pub include: Vec<String>,
    /// Script of the recipe that gets the root directory as its first argument.
    pub customize: Option<String>,
    /// See [`GuestOs::id`].
    pub os_id: String,
    /// See [`GuestOs::version`].
    pub os_version: String,
    /// See [`GuestOs::architecture`].
    pub architecture: String,
}

/// A script of the recipe that runs in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// File name in the recipe's directory.
    pub script: String,
    /// How long it may run, seconds.
    pub limit_s: u64,
}

/// `[ready]`: from power-on until the guest agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// How long that may take, seconds.
    pub limit_s: u64,
}

/// `recipe.toml` of a Service VM image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Always [`Kind::Service`].
    pub kind: Kind,
    /// Name of the recipe and of the image in the store.
    pub name: String,
    /// Name of the recipe (and image) that this one is layered on.
    pub parent: String,
    /// One line for people.
    pub description: String,
    /// The service.
    pub service: ServiceTable,
    /// What is brought into the guest.
    pub payload: Payload,
    /// What runs in the guest with the payload mounted.
    pub install: Script,
    /// Requests that are answered before the guest is suspended.
    #[serde(default)]
    pub warm_up: Vec<WarmUp>,
    /// What runs in the guest right before it is suspended.
    pub prepare: Script,
}

/// `[service]`: see [`manifest::Service`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTable {
    /// What client apps ask for.
    pub id: ServiceId,
    /// Version of the server code.
    pub version: String,
    /// One line for people.
    pub description: String,
    /// TCP port in the guest.
    pub port: u16,
    /// Path that answers 200 to a GET when the service can work.
    pub health_path: String,
    /// Memory that one instance needs on the host, MiB.
    pub needs_memory_mib: u64,
    /// CPU that one busy instance needs, thousandths of a core.
    pub needs_cpu_millis: u32,
    /// Most users of one shared instance at a time.
    pub max_users: u32,
}

/// `[payload]`: a disk that is plugged in while the service is installed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// Debian packages; what they need comes along.
    #[serde(default)]
    pub debs: Vec<String>,
    /// Script of the recipe that runs on the host with the payload directory as its first argument.
    pub build: Option<String>,
    /// Size of the disk, MiB.
    pub disk_mib: u64,
}

/// `[[warm_up]]`: a request that must be answered with success.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// File on the host that is sent as the body, absolute.
    pub body: Option<PathBuf>,
    /// Its `Content-Type`.
    pub content_type: Option<String>,
    /// How often the request is sent.
    #[serde(default = "once")]
    pub times: u32,
    /// How long one request may take, seconds.
    #[serde(default = "request_limit_s")]
    pub limit_s: u64,
}

fn once() -> u32 {
    1
}

fn request_limit_s() -> u64 {
    REQUEST_LIMIT_S
}

impl Base {
    /// The image's hardware, under this accelerator and with this device layout.
    pub fn hardware(&self, accelerator: Accelerator, topology: u32) -> manifest::Hardware {
        let table = &self.hardware;
        manifest::Hardware {
            machine: table.machine.clone(),
            cpu_model: table.cpu_model.clone(),
            accelerator,
            topology,
            memory_bytes: table.memory_mib.saturating_mul(MIB),
            vcpus: table.vcpus,
            command_line: table.command_line.clone(),
        }
    }

    /// The image's operating system.
    pub fn guest_os(&self) -> GuestOs {
        let root = &self.root;
        let (id, version) = (root.os_id.clone(), root.os_version.clone());
        GuestOs { id, version, architecture: root.architecture.clone() }
    }
}

impl Service {
    /// The image's service.
    pub fn service(&self) -> manifest::Service {
        let table = &self.service;
        manifest::Service {
            id: table.id.clone(),
            version: table.version.clone(),
            description: table.description.clone(),
            port: table.port,
            health_path: table.health_path.clone(),
            needs_memory_bytes: table.needs_memory_mib.saturating_mul(MIB),
            needs_cpu_millis: table.needs_cpu_millis,
            max_users: table.max_users,
        }
    }
}
