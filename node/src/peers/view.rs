//! What the mesh knows, in the API's words.

use handheld::api;
use mesh::NodeId;
use mesh::advert::{Held, Presence};
use mesh::membership::{Member, Reach};

use super::Peers;
use crate::standing;

impl Peers {
    /// Everybody who is known, this cloudlet first.
    pub fn view(&self) -> Vec<api::Peer> {
        let members = self.members();
        let own = members.get(&self.node()).map(|own| own.advert.clone());
        let rate = |node: &NodeId| own.as_ref()?.links.get(node)?.rate_bytes_per_s;
        let mut peers: Vec<api::Peer> =
            members.iter().map(|(node, member)| view(member, rate(node))).collect();
        peers.sort_by_key(|peer| peer.reach != api::PeerReach::Own);
        peers
    }
}

fn view(member: &Member, rate_bytes_per_s: Option<u64>) -> api::Peer {
    let advert = &member.advert;
    let (reach, hops, rtt) = match member.reach {
        Reach::Own => (api::PeerReach::Own, 0, None),
        Reach::Neighbour { rtt } => (api::PeerReach::Neighbour, 1, rtt),
        Reach::Far { hops } => (api::PeerReach::Far, hops, None),
        Reach::UnreachableSince(_) => (api::PeerReach::Unreachable, 0, None),
    };
    api::Peer {
        node_id: advert.node.to_string(),
        name: advert.name.clone(),
        reach,
        hops,
        rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        api: advert.api.clone(),
        accelerator: advert.capabilities.accelerator.to_string(),
        load: api::Load {
            cpu_used_millis: advert.load.cpu_used_millis,
            cpu_total_millis: advert.load.cpu_total_millis,
            memory_free_bytes: advert.load.memory_free_bytes,
            memory_total_bytes: advert.load.memory_total_bytes,
            instances: advert.load.instances,
            queue_length: advert.load.queue_length,
        },
        services: advert.services.keys().cloned().collect(),
        held: advert.services.iter().map(|(id, held)| (id.clone(), held_service(held))).collect(),
        rate_bytes_per_s,
        standing: standing::view(
            advert.presence != Presence::Serving,
            advert.position,
            advert.motion,
            advert.power,
            &advert.capabilities,
        ),
    }
}

fn held_service(held: &Held) -> api::HeldService {
    api::HeldService {
        joinable_instances: held.ready_instances,
        ready_ms: held.ready_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    }
}
