//! What the mesh knows, in the API's words.

use handheld::api;
use mesh::membership::{Member, Reach};

use super::Peers;

impl Peers {
    /// Everybody who is known, this cloudlet first.
    pub fn view(&self) -> Vec<api::Peer> {
        let members = self.members();
        let mut peers: Vec<api::Peer> = members.values().map(view).collect();
        peers.sort_by_key(|peer| peer.reach != api::PeerReach::Own);
        peers
    }
}

fn view(member: &Member) -> api::Peer {
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
        },
        services: advert.services.keys().cloned().collect(),
    }
}
