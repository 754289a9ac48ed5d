//! What this cloudlet says of itself to other cloudlets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh::NodeId;
use mesh::advert::{Advert, Capabilities, Gpu, Held, Load};
use migration::hypervisor::Host;
use vm_images::ServiceId;

use crate::instances::{Instances, Offer};
use crate::lifecycle::{Instance, Phase};

/// Where the facts come from.
pub struct Local {
    node: NodeId,
    name: String,
    mission: String,
    listen: SocketAddr,
    host: Host,
    instances: Instances,
}

impl Local {
    /// About this cloudlet, whose API listens there.
    pub fn new(
        node: NodeId,
        name: String,
        mission: String,
        listen: SocketAddr,
        host: Host,
        instances: Instances,
    ) -> Self {
        Self { node, name, mission, listen, host, instances }
    }

    /// Before anything was looked at.
    pub(super) fn empty(&self) -> Advert {
        let mut advert = Advert::new(self.node, self.name.clone(), capabilities(&self.host));
        advert.mission.clone_from(&self.mission);
        advert.api = reached_at(self.listen, &addresses()).iter().map(|at| format!("https://{at}")).collect();
        advert
    }

    /// Now; `None` while it cannot be said, which is no reason to say something wrong.
    pub(super) async fn advert(&self) -> Option<Advert> {
        let load = self.instances.load().await.ok()?;
        let offers = self.instances.offers().await.ok()?;
        let instances = self.instances.list().await.ok()?;
        let mut advert = self.empty();
        advert.load = Load {
            cpu_used_millis: load.cpu_used_millis,
            cpu_total_millis: load.cpu_total_millis,
            memory_free_bytes: load.memory_free_bytes,
            memory_total_bytes: load.memory_total_bytes,
            instances: load.instances,
            queue_length: 0,
        };
        let usable = || offers.iter().filter(|offer| offer.unusable.is_none());
        advert.images = usable().map(|offer| (offer.service.id.clone(), offer.service.image)).collect();
        advert.services = usable().map(|offer| (offer.service.id.clone(), held(offer, &instances))).collect();
        Some(advert)
    }
}

fn capabilities(host: &Host) -> Capabilities {
    Capabilities {
        accelerator: host.accelerator,
        gpu: Gpu::None,
        architecture: std::env::consts::ARCH.to_owned(),
        // Every release runs its images on the models and machines that they name; the whole lists of a host have
        // hundreds of entries, and nobody chooses by them yet.
        cpu_models: Default::default(),
        machines: Default::default(),
        guest_systems: Default::default(),
        guest_speed_permille: None,
    }
}

/// How ready this cloudlet is to serve: instances with room, and how long a further one took lately.
fn held(offer: &Offer, instances: &[Instance]) -> Held {
    let service = &offer.service;
    let of_it = || instances.iter().filter(|instance| instance.service.id == service.id);
    let with_room = of_it().filter(|instance| {
        matches!(instance.phase, Phase::Ready { .. })
            && u32::try_from(instance.users.len()).is_ok_and(|users| users < service.max_users)
    });
    let lately = of_it().max_by_key(|instance| instance.requested_unix_ms);
    let lately = lately.and_then(|instance| instance.ready_after_ms);
    Held {
        ready_instances: u32::try_from(with_room.count()).unwrap_or(u32::MAX),
        // In steps of a tenth of a second, so that its noise is no news.
        ready_time: lately.map(|ms| Duration::from_millis(ms.div_ceil(100) * 100)),
    }
}

/// Where the API is reached that listens on `listen`, on a host with these addresses.
fn reached_at(listen: SocketAddr, host: &[IpAddr]) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let same_family = |ip: &&IpAddr| listen.is_ipv6() || ip.is_ipv4();
    host.iter().filter(same_family).map(|ip| SocketAddr::new(*ip, listen.port())).collect()
}

/// Addresses of this host that others may reach: not loopback, not those that hold for one link only.
fn addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut found: BTreeMap<IpAddr, ()> = BTreeMap::new();
    for interface in interfaces {
        let Some(address) = interface.address else { continue };
        let ip = if let Some(v4) = address.as_sockaddr_in() {
            IpAddr::V4(v4.ip())
        } else if let Some(v6) = address.as_sockaddr_in6() {
            IpAddr::V6(v6.ip())
        } else {
            continue;
        };
        let is_local = match ip {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
        };
        if !is_local {
            found.insert(ip, ());
        }
    }
    // As many as an advert should carry; a vehicle has one or two radios.
    found.into_keys().take(4).collect()
}

/// The services of an advert, for people.
pub(super) fn services(advert: &Advert) -> Vec<ServiceId> {
    advert.services.keys().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_that_listens_everywhere_is_reached_at_every_address() {
        let host: [IpAddr; 2] = ["10.0.0.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        let at = |listen: &str| {
            let found = reached_at(listen.parse().unwrap(), &host);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(at("0.0.0.0:80"), ["10.0.0.7:80"]);
        assert_eq!(at("[::]:80"), ["10.0.0.7:80", "[2001:db8::7]:80"]);
        assert_eq!(at("127.0.0.1:80"), ["127.0.0.1:80"]);
    }
}
