//! Cloudlets that are out of reach, by way of one that is not.
//!
//! The cloudlet in between carries TLS between this handheld and the one behind it: it can neither read nor change what is
//! said, nor put itself in the other's place, because the far certificate must be the one of the node that was asked for.
//! Ways over two cloudlets are made by asking the far one for the next tunnel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mesh::NodeId;

use crate::api::{self, Cloudlet, Peer, PeerReach};
use crate::discovery::Behind;
use crate::endpoint::{Endpoint, Way};
use crate::{Access, Client, Error, Reachable, http};

/// Most cloudlets in between. Each adds a TLS record and a round trip to every step; beyond that, guess, nothing is gained.
pub const MAX_RELAYS: usize = 2;
/// Most direct cloudlets that are asked for others: the nearest.
const MAX_ASKED: usize = 4;
/// Most others that one is believed to know; the nearest to it. An advert costs a neighbour nothing, a question costs us.
const MAX_BEYOND: usize = 16;
/// What a hop without a measurement is taken to cost. Guess: three times an unloaded radio link.
const UNKNOWN_HOP: Duration = Duration::from_millis(30);
/// Part of a URL behind which the way goes on.
const BEYOND: &str = "/api/v1/peers/";
const END: &str = "/tunnel";

/// What keeps the way to a cloudlet behind another one open.
#[derive(Debug)]
pub(crate) struct Relay {
    first: Client,
    /// Name of the cloudlet in between, if known.
    name: Option<String>,
    _endpoint: Endpoint,
}

impl Client {
    /// The cloudlet `node`, by way of the one that `first` speaks to. Nothing is sent yet. Must be called inside a tokio
    /// runtime.
    pub fn through(access: &Access, first: &Self, node: NodeId) -> Result<Self, Error> {
        Self::relayed(access, first, None, node)
    }

    fn relayed(access: &Access, first: &Self, name: Option<String>, node: NodeId) -> Result<Self, Error> {
        let too_far = first.relays() >= MAX_RELAYS;
        let url = format!("{}{BEYOND}{node}{END}", first.url());
        if too_far || !matches!(access, Access::Member(_)) {
            return Err(Error::NoRelay { url });
        }
        let way = Way::Cloudlet { client: first.clone(), node };
        let endpoint = Endpoint::open(way).map_err(Error::Local)?;
        let base = format!("{}://{}", access.scheme(), endpoint.address());
        let http = http::client(access, None, Some(node))?;
        Ok(Self::by_relay(
            http,
            base,
            url,
            Arc::new(Relay { first: first.clone(), name, _endpoint: endpoint }),
        ))
    }

    /// Name of the cloudlet in between, or its URL where the name is not known; `None` if there is none in between.
    pub fn via(&self) -> Option<&str> {
        self.relay().map(|relay| relay.name.as_deref().unwrap_or_else(|| relay.first.url()))
    }

    /// The cloudlet in between that is the nearest to the one that this speaks to; `None` if there is none in between.
    pub(crate) fn first(&self) -> Option<&Self> {
        self.relay().map(|relay| &relay.first)
    }

    /// How many cloudlets are in between.
    pub fn relays(&self) -> usize {
        self.relay().map_or(0, |relay| 1 + relay.first.relays())
    }

    /// The way that a URL of the form [`Client::through`] gives, `…/api/v1/peers/{node}/tunnel`; `None` if it is none.
    pub(crate) fn by_url(access: &Access, url: &str) -> Option<Result<Self, Error>> {
        let (first, node) = url.strip_suffix(END)?.rsplit_once(BEYOND)?;
        let node = node.parse().ok()?;
        Some(Client::with(access, first).and_then(|first| Self::through(access, &first, node)))
    }
}

impl Reachable {
    /// Its name, with the way to it if that leads through another one: `tent via truck-1`.
    pub fn label(&self) -> String {
        match self.client.via() {
            None => self.cloudlet.name.clone(),
            Some(via) => format!("{} via {via}", self.cloudlet.name),
        }
    }
}

/// Cloudlets that those in `direct` can reach and this handheld cannot, with the least round trip, by name. What is said
/// of them is hearsay until they are asked: then their own certificate and answer count.
pub async fn beyond(access: &Access, direct: &[Reachable]) -> Vec<Reachable> {
    if !matches!(access, Access::Member(_)) {
        return Vec::new();
    }
    let mut nearest: Vec<&Reachable> = direct.iter().filter(|one| one.client.via().is_none()).collect();
    nearest.sort_by_key(|one| one.rtt);
    nearest.truncate(MAX_ASKED);
    let told = join_all(nearest.iter().map(|one| one.client.peers())).await;
    let mut best: BTreeMap<NodeId, (Duration, &Reachable, Peer)> = BTreeMap::new();
    for (one, told) in nearest.into_iter().zip(told) {
        let told = told.unwrap_or_else(|error| {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(cloudlet = one.cloudlet.name, error, "it does not tell which others there are");
            Vec::new()
        });
        for (rtt, node, peer) in worth_asking(told) {
            let rtt = one.rtt + rtt;
            let is_new = direct.iter().all(|known| known.node != node)
                && best.get(&node).is_none_or(|(known, ..)| rtt < *known);
            if is_new {
                best.insert(node, (rtt, one, peer));
            }
        }
    }
    let found = best.into_iter().filter_map(|(node, (rtt, one, peer))| {
        let client = Client::relayed(access, &one.client, Some(one.cloudlet.name.clone()), node)
            .inspect_err(|error| tracing::debug!(%error, "no way to another cloudlet"));
        let behind = Some(Behind { place: one.cloudlet.standing.place, hearsay: true });
        Some(Reachable { client: client.ok()?, cloudlet: described(peer), node, rtt, behind })
    });
    let mut found: Vec<Reachable> = found.collect();
    found.sort_by(|one, two| (&one.cloudlet.name, one.node).cmp(&(&two.cloudlet.name, two.node)));
    found
}

/// Those that the cloudlet can reach, nearest first, with what the way from it costs.
fn worth_asking(told: Vec<Peer>) -> Vec<(Duration, NodeId, Peer)> {
    let mut others: Vec<(Duration, NodeId, Peer)> = told
        .into_iter()
        .filter(|peer| matches!(peer.reach, PeerReach::Neighbour | PeerReach::Far))
        .filter_map(|peer| {
            let measured = peer.rtt_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
            let rtt = measured.unwrap_or(UNKNOWN_HOP * u32::from(peer.hops.max(1)));
            Some((rtt, peer.node_id.parse().ok()?, peer))
        })
        .collect();
    others.sort_by_key(|(rtt, node, _)| (*rtt, *node));
    others.truncate(MAX_BEYOND);
    others
}

/// What is known of it by hearsay.
fn described(peer: Peer) -> Cloudlet {
    Cloudlet {
        api_version: api::VERSION,
        node_id: peer.node_id,
        name: peer.name,
        software: String::new(),
        accelerator: peer.accelerator,
        load: peer.load,
        services: peer.services,
        // Hearsay does not go so far.
        fetchable: Vec::new(),
        standing: peer.standing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: u8, reach: PeerReach, hops: u16, rtt_ms: Option<f64>) -> Peer {
        let load = api::Load {
            cpu_used_millis: 0,
            cpu_total_millis: 1000,
            memory_free_bytes: 1,
            memory_total_bytes: 1,
            instances: 0,
            queue_length: 0,
        };
        let node_id = format!("{node:02x}").repeat(16);
        let (name, accelerator) = (String::new(), "kvm".to_owned());
        let standing = api::Standing::default();
        let (api, services, held) = Default::default();
        Peer {
            node_id,
            name,
            reach,
            hops,
            rtt_ms,
            api,
            accelerator,
            load,
            services,
            held,
            rate_bytes_per_s: None,
            standing,
        }
    }

    #[test]
    fn only_who_is_reached_is_asked_and_the_nearest_first() {
        let told = vec![
            peer(1, PeerReach::Own, 0, None),
            peer(2, PeerReach::Far, 2, None),
            peer(3, PeerReach::Neighbour, 1, Some(5.0)),
            peer(4, PeerReach::Unreachable, 0, None),
            peer(5, PeerReach::Neighbour, 1, Some(f64::NAN)),
            peer(6, PeerReach::Neighbour, 1, Some(-1.0)),
        ];
        let order: Vec<(u64, String)> = worth_asking(told)
            .iter()
            .map(|(rtt, node, _)| (u64::try_from(rtt.as_millis()).unwrap(), node.to_string()[..2].to_owned()))
            .collect();
        let expected = [(5, "03"), (30, "05"), (30, "06"), (60, "02")];
        assert_eq!(order, expected.map(|(ms, node)| (ms, node.to_owned())));
        assert_eq!(
            worth_asking((0..100).map(|n| peer(n, PeerReach::Neighbour, 1, None)).collect()).len(),
            16
        );
    }
}
