//! `cloudlet mesh`: the other cloudlets, as the running one knows them.

use handheld::api::{Peer, PeerReach};
use serde_json::json;

use super::args::Global;
use super::output::{Failure, Output, table};
use super::{standing, vm};

pub(super) fn run(api: Option<&str>, global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let client = vm::client(&config, api)?;
    let peers = vm::block_on(client.peers())?.map_err(vm::failure)?;
    output.result(|| show(&peers), || json!(peers))
}

fn show(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "this cloudlet runs without a mesh; it needs a mission ('cloudlet mission --help')"
            .to_owned();
    }
    let rows = peers.iter().map(|peer| {
        let services: Vec<String> = peer.services.iter().map(ToString::to_string).collect();
        vec![
            peer.name.clone(),
            peer.node_id.clone(),
            reach(peer),
            format!(
                "{:.1}/{:.0}",
                f64::from(peer.load.cpu_used_millis) / 1000.0,
                f64::from(peer.load.cpu_total_millis) / 1000.0
            ),
            format!("{}", peer.load.memory_free_bytes >> 20),
            peer.load.instances.to_string(),
            state(peer),
            services.join(" "),
        ]
    });
    table(
        &["NAME", "NODE", "REACH", "CPU USED", "FREE MIB", "INSTANCES", "STATE", "SERVICES"],
        &rows.collect::<Vec<_>>(),
    )
}

/// What makes it a worse choice than its load says; nothing, if all is well.
fn state(peer: &Peer) -> String {
    let power = match peer.standing.power {
        Some(handheld::api::PowerSource::Battery { .. }) => Some(standing::power(&peer.standing)),
        _ => None,
    };
    let draining = peer.standing.draining.then(|| "draining".to_owned());
    let words: Vec<String> = draining.into_iter().chain(power).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn reach(peer: &Peer) -> String {
    match (peer.reach, peer.rtt_ms) {
        (PeerReach::Own, _) => "this one".to_owned(),
        (PeerReach::Neighbour, Some(rtt)) => format!("neighbour, {rtt:.1} ms"),
        (PeerReach::Neighbour, None) => "neighbour".to_owned(),
        (PeerReach::Far, _) => format!("{} hops", peer.hops),
        (PeerReach::Unreachable, _) => "out of reach".to_owned(),
    }
}
