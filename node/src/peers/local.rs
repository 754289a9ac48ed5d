//! What this cloudlet says of itself to other cloudlets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use mesh::NodeId;
use mesh::advert::{Advert, Held, Load, Presence};

use crate::exchange::Shelf;
use crate::instances::{Instances, Offer};
use crate::lifecycle::{Instance, joinable};
use crate::reach;
use crate::standing::Standing;

/// Where the facts come from.
pub struct Local {
    node: NodeId,
    name: String,
    mission: String,
    listen: SocketAddr,
    standing: Standing,
    instances: Instances,
    shelf: Shelf,
}

impl Local {
    /// About this cloudlet, whose API listens there.
    pub fn new(
        node: NodeId,
        name: String,
        mission: String,
        listen: SocketAddr,
        standing: Standing,
        instances: Instances,
        shelf: Shelf,
    ) -> Self {
        Self { node, name, mission, listen, standing, instances, shelf }
    }

    /// Before anything was looked at.
    pub(super) fn empty(&self) -> Advert {
        let capabilities = self.standing.capabilities(BTreeSet::new());
        let mut advert = Advert::new(self.node, self.name.clone(), capabilities);
        advert.mission.clone_from(&self.mission);
        advert.api = reached_at(self.listen, &addresses()).iter().map(|at| format!("https://{at}")).collect();
        advert
    }

    /// Now; `None` while it cannot be said, which is no reason to say something wrong.
    pub(super) async fn advert(&self) -> Option<Advert> {
        let load = self.instances.load().await.ok()?;
        let offers = self.instances.offers().await.ok()?;
        let instances = self.instances.list().await.ok()?;
        let systems = self.instances.guest_systems().await.ok()?;
        let mut advert = self.empty();
        advert.capabilities = self.standing.capabilities((*systems).clone());
        (advert.position, advert.motion) = self.standing.place();
        advert.power = self.standing.power();
        advert.presence = if self.standing.is_draining() { Presence::Draining } else { Presence::Serving };
        advert.load = Load {
            cpu_used_millis: load.cpu_used_millis,
            cpu_total_millis: load.cpu_total_millis,
            memory_free_bytes: load.memory_free_bytes,
            memory_total_bytes: load.memory_total_bytes,
            instances: load.instances,
            queue_length: load.queue_length,
        };
        let usable = || offers.iter().filter(|offer| offer.unusable.is_none());
        let shelf = self.shelf.holdings().await?;
        // What is used here goes before what is only kept for others.
        (advert.images, advert.base_images) = (shelf.images.clone(), shelf.base_images.clone());
        advert.images.extend(usable().map(|offer| (offer.service.id.clone(), offer.service.image)));
        // Of another image of the same service the size is about the same.
        advert.sizes = shelf.sizes.clone();
        let held = |offer: &Offer| (offer.service.id.clone(), held(offer, &instances, &self.standing));
        advert.services = usable().map(held).collect();
        Some(advert)
    }
}

/// How ready this cloudlet is to serve: instances with room, and how long a further one takes.
fn held(offer: &Offer, instances: &[Instance], standing: &Standing) -> Held {
    let service = &offer.service;
    Held {
        ready_instances: joinable(service, instances),
        ready_time: standing.ready_time(&service.id, service.image, instances),
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
