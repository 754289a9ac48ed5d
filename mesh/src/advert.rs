//! What a cloudlet says of itself.
//!
//! An [`Advert`] is the whole: cloudlets gossip it (see [`crate::wire`]). A [`Summary`] is what fits a DNS-SD
//! TXT record (see [`crate::dnssd::txt`]) so that a handheld can tell cloudlets apart before it has asked any.
//! Both are claims. Nothing may be trusted because an advert says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vm_images::manifest::Accelerator;
use vm_images::{ImageId, ServiceId};

use crate::NodeId;

/// Everything that a cloudlet tells its peers about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Advert {
    /// Who says it.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Counts up with every change, also over restarts; of two adverts of one node the higher one holds.
    pub sequence: u64,
    /// How busy it is.
    pub load: Load,
    /// What it can run.
    pub capabilities: Capabilities,
    /// The services that it holds.
    pub services: BTreeMap<ServiceId, Held>,
    /// Where it is, if it knows.
    pub position: Option<Position>,
    /// Where it is going and how fast, if it knows.
    pub motion: Option<Motion>,
    /// Name of the mission that it belongs to.
    pub mission: String,
    /// Where handhelds reach its API: `https://10.0.0.7:8443`.
    pub api: Vec<String>,
    /// Where other cloudlets reach it: libp2p multiaddresses as text.
    pub addresses: Vec<String>,
    /// The image that serves each of [`Advert::services`], and those of services that it only keeps for others.
    pub images: BTreeMap<ServiceId, ImageId>,
    /// How much there is to fetch of each of [`Advert::images`].
    pub sizes: BTreeMap<ServiceId, ImageSize>,
    /// Base images that it holds.
    pub base_images: BTreeSet<ImageId>,
    /// The cloudlets that it is connected with, and how well.
    pub links: BTreeMap<NodeId, LinkQuality>,
    /// What it runs on.
    pub power: Power,
    /// Whether it takes new work.
    pub presence: Presence,
}

impl Advert {
    /// An advert of a cloudlet that holds nothing, knows no place and has not counted yet.
    pub fn new(node: NodeId, name: String, capabilities: Capabilities) -> Self {
        Self {
            node,
            name,
            sequence: 0,
            load: Load::default(),
            capabilities,
            services: BTreeMap::new(),
            position: None,
            motion: None,
            mission: String::new(),
            api: Vec::new(),
            addresses: Vec::new(),
            images: BTreeMap::new(),
            sizes: BTreeMap::new(),
            base_images: BTreeSet::new(),
            links: BTreeMap::new(),
            power: Power::Unknown,
            presence: Presence::Serving,
        }
    }

    /// What fits a TXT record. `api_version` is the version of the HTTP API that the node speaks.
    pub fn summary(&self, api_version: u32) -> Summary {
        Summary {
            api_version,
            node: self.node,
            load: self.load,
            tls: false,
            accelerator: Some(self.capabilities.accelerator),
            services: self.services.keys().cloned().collect(),
            services_left_out: 0,
        }
    }
}

/// How busy a cloudlet is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// CPU in use, thousandths of a core.
    pub cpu_used_millis: u32,
    /// CPU that there is, thousandths of a core.
    pub cpu_total_millis: u32,
    /// Memory that instances may still claim, bytes.
    pub memory_free_bytes: u64,
    /// Memory that there is, bytes.
    pub memory_total_bytes: u64,
    /// Instances that run or start.
    pub instances: u32,
    /// Requests for instances that wait for their turn.
    pub queue_length: u32,
}

impl Load {
    /// CPU that nobody uses, thousandths of a core.
    pub fn cpu_free_millis(&self) -> u32 {
        self.cpu_total_millis.saturating_sub(self.cpu_used_millis)
    }
}

/// What a cloudlet can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// What executes guest code.
    pub accelerator: Accelerator,
    /// Graphics processor that guests can use.
    pub gpu: Gpu,
    /// Machine architecture of its guests as `uname -m` says it.
    pub architecture: String,
    /// Named CPU models that its guests can have.
    pub cpu_models: BTreeSet<String>,
    /// Machine types that it knows, such as `pc-q35-10.0`.
    pub machines: BTreeSet<String>,
    /// Systems of the base images that it holds, as `ID-VERSION_ID` of os-release: `debian-12`.
    pub guest_systems: BTreeSet<String>,
    /// Speed of guest code on one core, thousandths of what a core of the reference host does under KVM (see
    /// `migration::speed`); `None`: not measured, and [`crate::selection`] goes by the accelerator.
    pub guest_speed_permille: Option<u32>,
}

/// A graphics processor for guests. No release offers one yet; the advert says so instead of leaving it open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gpu {
    /// Guests have none.
    #[default]
    None,
}

/// How good the connection to a neighbour is, as this side measured it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkQuality {
    /// Round trip, milliseconds; `None`: not measured yet.
    pub rtt_ms: Option<u32>,
    /// Bytes per second that a transfer got; `None`: there was none yet.
    pub rate_bytes_per_s: Option<u64>,
    /// Lost packets, thousandths; `None`: not measured.
    pub loss_permille: Option<u16>,
}

/// What a cloudlet runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Power {
    /// It does not know.
    #[default]
    Unknown,
    /// Mains, or a running engine.
    Mains,
    /// A battery.
    Battery {
        /// Charge, 0 to 100.
        percent: u8,
        /// How long it will last at the present load, if known.
        remaining: Option<Duration>,
    },
}

/// Whether a cloudlet takes new work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Presence {
    /// It does.
    #[default]
    Serving,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It has said goodbye. Its last advert.
    Left,
}

/// A service that a cloudlet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Instances that are ready and have room for another user; 0: it is only cached.
    pub ready_instances: u32,
    /// Application-ready time that a further instance is expected to take, by experience of the node.
    pub ready_time: Option<Duration>,
}

/// How much there is to fetch of an image: what is neither hole nor in its parents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageSize {
    /// Of the image itself, bytes.
    pub own_bytes: u64,
    /// Of all that it builds on, bytes.
    pub parent_bytes: u64,
}

/// A place on the ground. The ranges are kept by [`Position::new`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    latitude_deg: f64,
    longitude_deg: f64,
}

impl Position {
    /// A place; `None` if a number is not finite or out of range (±90, ±180 degrees, WGS 84).
    pub fn new(latitude_deg: f64, longitude_deg: f64) -> Option<Self> {
        let in_range = latitude_deg.abs() <= 90.0 && longitude_deg.abs() <= 180.0;
        in_range.then_some(Self { latitude_deg, longitude_deg })
    }

    /// Degrees north, -90 to 90.
    pub fn latitude_deg(&self) -> f64 {
        self.latitude_deg
    }

    /// Degrees east, -180 to 180.
    pub fn longitude_deg(&self) -> f64 {
        self.longitude_deg
    }
}

/// Movement over ground. The ranges are kept by [`Motion::new`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Motion {
    heading_deg: f32,
    speed_m_s: f32,
}

impl Motion {
    /// A movement; `None` if a number is not finite or out of range (0 to 360 degrees, 0 to 400 m/s).
    pub fn new(heading_deg: f32, speed_m_s: f32) -> Option<Self> {
        let in_range = (0.0..=360.0).contains(&heading_deg) && (0.0..=400.0).contains(&speed_m_s);
        in_range.then_some(Self { heading_deg, speed_m_s })
    }

    /// Degrees clockwise from north, 0 to 360.
    pub fn heading_deg(&self) -> f32 {
        self.heading_deg
    }

    /// Metres per second.
    pub fn speed_m_s(&self) -> f32 {
        self.speed_m_s
    }
}

/// What of an advert fits a DNS-SD TXT record. Unsigned hints: good for showing and sorting, never for trusting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Version of the HTTP API that the node speaks.
    pub api_version: u32,
    /// Who says it.
    pub node: NodeId,
    /// How busy it is. A record read from the network has whole MiB of memory and no queue length.
    pub load: Load,
    /// Whether its API is TLS, for members of a mission only.
    pub tls: bool,
    /// What executes guest code.
    pub accelerator: Option<Accelerator>,
    /// Services that it can start, as many as fitted.
    pub services: BTreeSet<ServiceId>,
    /// How many more there are.
    pub services_left_out: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_on_earth_or_not_at_all() {
        assert!(Position::new(48.1, 11.5).is_some());
        for (latitude, longitude) in [(90.1, 0.0), (0.0, -180.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert!(Position::new(latitude, longitude).is_none(), "{latitude} {longitude}");
        }
    }

    #[test]
    fn more_used_than_there_is_means_nothing_free() {
        let load = Load { cpu_used_millis: 5000, cpu_total_millis: 4000, ..Load::default() };
        assert_eq!(load.cpu_free_millis(), 0);
    }
}
