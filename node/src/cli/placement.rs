//! `cloudlet placement`: where instances should be, as the running cloudlet decided last, and why.

use handheld::api::{Automatic, Placement};
use serde_json::json;

use super::args::Global;
use super::output::{Failure, Output};
use super::vm;

pub(super) fn run(api: Option<&str>, global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let client = vm::client(&config, api)?;
    let placement = vm::block_on(client.placement())?.map_err(super::handoff::failure)?;
    output.result(|| show(&placement), || json!(placement))
}

fn show(placement: &Placement) -> String {
    let head = match placement.automatic {
        Automatic::Off => "instances move on command only (handoff.automatic = \"off\")\n",
        Automatic::DryRun => "it is only said what would be done (handoff.automatic = \"dry-run\")\n",
        Automatic::On => "instances move by themselves (handoff.automatic = \"on\")\n",
    };
    let lines = placement.decisions.iter().map(|decided| decided.explanation.replace("; ", "\n    ") + "\n");
    std::iter::once(head.to_owned()).chain(lines).collect()
}
