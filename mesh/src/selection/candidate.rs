//! Who may serve, with everything that is known of it.

use std::collections::BTreeSet;
use std::time::Duration;

use vm_images::manifest::Accelerator;

use super::{Contact, Need};
use crate::NodeId;
use crate::advert::{self, Advert, Load, Presence, Summary};

/// A cloudlet that may serve the need, with everything that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Which one.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// How busy it is.
    pub load: Load,
    /// How old that news is; `None`: not known.
    pub load_age: Option<Duration>,
    /// What executes its guests' code.
    pub accelerator: Option<Accelerator>,
    /// Measured speed of guest code, see [`crate::advert::Capabilities::guest_speed_permille`].
    pub guest_speed_permille: Option<u32>,
    /// Machine architecture of its guests.
    pub architecture: Option<String>,
    /// Base systems that it holds; `None` if it does not say.
    pub guest_systems: Option<BTreeSet<String>>,
    /// The way to it.
    pub link: Link,
    /// How long the way to it will last.
    pub contact: Contact,
    /// What it has of the wanted service.
    pub offer: Offer,
    /// Application-ready time that it or the asker expects, for what `offer` says, without waiting in a queue and
    /// without the client's own payload.
    pub ready_time: Option<Duration>,
    /// How it could fetch the service from another cloudlet, if it does not hold it and says how.
    pub fetch: Option<Fetch>,
    /// Where its power comes from; `None`: it does not say.
    pub power: Option<Power>,
    /// Whether it is being emptied and takes nobody new. Guessing is useless: not said is not draining.
    pub draining: bool,
    /// Whether the mission allows this client to use it; `None`: not known before it is asked.
    pub permitted: Option<bool>,
}

/// The way between the asker and a candidate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Round-trip time of a small request; `None`: not measured.
    pub rtt: Option<Duration>,
    /// Measured rate, bytes per second.
    pub rate_bytes_per_s: Option<u64>,
    /// Strength at which the other is received, dBm.
    pub signal_dbm: Option<i16>,
    /// Radio hops; 2 is a service on another cloudlet through the one in reach. `None`: not known, taken as 1.
    pub hops: Option<u8>,
}

/// How a candidate could fetch the service from another cloudlet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// How much there is to fetch, bytes.
    pub bytes: u64,
    /// Name of the cloudlet that it would fetch most from.
    pub from: String,
    /// What the link between the two was measured to carry, bytes per second; `None`: it was not.
    pub rate_bytes_per_s: Option<u64>,
}

/// Where a cloudlet's power comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// The vehicle, a generator, the grid.
    External,
    /// A battery with this much left.
    Battery {
        /// Thousandths of a full charge.
        charge_permille: u16,
    },
}

impl Power {
    /// As an advert says it.
    pub fn told(power: advert::Power) -> Option<Self> {
        match power {
            advert::Power::Unknown => None,
            advert::Power::Mains => Some(Self::External),
            advert::Power::Battery { percent, .. } => {
                Some(Self::Battery { charge_permille: u16::from(percent.min(100)) * 10 })
            }
        }
    }
}

/// What a candidate has of the wanted service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offer {
    /// Nothing. It serves only if somebody knows how long provisioning would take.
    Nothing,
    /// The base system; the client sends the overlay.
    Base,
    /// A cached image: a new instance can be started at once.
    Cached,
    /// A running instance with room.
    Running,
}

impl Offer {
    /// Its name in explanations, expressions and recordings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Base => "base",
            Self::Cached => "cached",
            Self::Running => "running",
        }
    }
}

impl Candidate {
    /// From a whole advert. What an advert alone does not say (contact, age of the load, permission) is left unknown; the
    /// caller that knows sets it.
    pub fn from_advert(advert: &Advert, need: &Need, link: Link) -> Self {
        let held = advert.services.get(&need.service);
        let capabilities = &advert.capabilities;
        let has_base =
            need.guest_system.as_ref().is_some_and(|system| capabilities.guest_systems.contains(system));
        let offer = match held {
            Some(held) if held.ready_instances > 0 => Offer::Running,
            Some(_) => Offer::Cached,
            None if has_base => Offer::Base,
            None => Offer::Nothing,
        };
        Self {
            accelerator: Some(capabilities.accelerator),
            guest_speed_permille: capabilities.guest_speed_permille,
            architecture: Some(capabilities.architecture.clone()),
            guest_systems: Some(capabilities.guest_systems.clone()),
            ready_time: held.and_then(|held| held.ready_time),
            power: Power::told(advert.power),
            draining: advert.presence != Presence::Serving,
            ..Self::unknown(advert.node, &advert.name, advert.load, link, offer)
        }
    }

    /// From the hints of a TXT record, which name services but not how ready they are.
    pub fn from_summary(name: &str, summary: &Summary, need: &Need, link: Link) -> Self {
        let offer = if summary.services.contains(&need.service) { Offer::Cached } else { Offer::Nothing };
        Self {
            accelerator: summary.accelerator,
            ..Self::unknown(summary.node, name, summary.load, link, offer)
        }
    }

    /// One of whom nothing is known but this.
    pub fn unknown(node: NodeId, name: &str, load: Load, link: Link, offer: Offer) -> Self {
        Self {
            node,
            name: name.to_owned(),
            load,
            load_age: None,
            accelerator: None,
            guest_speed_permille: None,
            architecture: None,
            guest_systems: None,
            link,
            contact: Contact::Unknown,
            offer,
            ready_time: None,
            fetch: None,
            power: None,
            draining: false,
            permitted: None,
        }
    }
}
