//! What this cloudlet says of itself to other cloudlets.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh::NodeId;
use mesh::advert::{Advert, Capabilities, Gpu, Held, Load};
use migration::hypervisor::Host;

use crate::instances::{Instances, Offer};
use crate::lifecycle::{Instance, Phase};
use crate::reach;

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
    let is_far = |ip: &IpAddr| !ip.is_loopback() && !matches!(ip, IpAddr::V4(v4) if v4.is_link_local());
    // As many as an advert should carry; a vehicle has one or two radios.
    reach::host_addresses().into_iter().filter(is_far).take(4).collect()
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
