//! `cloudlet mesh`: the other cloudlets, as the running one knows them.

use handheld::api::{Peer, PeerReach};
use serde_json::json;

use super::args::Global;
use super::output::{Failure, Output, table};
use super::vm;

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
            services.join(" "),
        ]
    });
    table(
        &["NAME", "NODE", "REACH", "CPU USED", "FREE MIB", "INSTANCES", "SERVICES"],
        &rows.collect::<Vec<_>>(),
    )
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
