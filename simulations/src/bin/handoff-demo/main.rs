//! A running service moves between two vehicles, shown: in a lab, with a handheld that uses it all the time.
//!
//! Run by `make handoff-demo`, as root. It uses the built programs as people would. On the handheld's host, `curl`, which
//! knows nothing of cloudlets, asks `handheld serve` without a pause. Each step is a row of the table at the end; the
//! program ends with 1 if a request was lost or answered wrongly, or a step did not come about.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Parser;
use simulations::lab::{Lab, Topology};

mod client;
#[path = "../demo_support/mod.rs"]
mod demo_support;
mod served;
mod stage;
mod steps;
mod table;

use demo_support::cloudlet::{self, Cloudlet};
use demo_support::handheld::Handheld;
use demo_support::{LIMIT, built_images, mission};
use served::Served;
use stage::Stage;
use table::Table;

/// The two that the service moves between, and the handheld that uses it.
const VEHICLES: [&str; 2] = ["truck-1", "truck-2"];
const HANDHELD: &str = "phone";
/// The policy may move services, also when a vehicle is switched off, but not for load while the operator moves them.
const POLICY: [&str; 3] =
    ["handoff.automatic=on", "handoff.evacuate_on_shutdown=true", "handoff.stay_s=3600"];
/// Rate of the link between the vehicles, as in [`RADIO`].
const RATE: &str = "10M";
/// A slow link between the vehicles, there and back 50 ms, as the aims of handoff say; ordinary Wi-Fi to the handheld.
const RADIO: &str = r#"
name = "handoff-demo"
seed = 1
[link]
rate = "25M"
delay = "3ms"
jitter = "1ms"
[[hosts]]
name = "truck-1"
[[hosts]]
name = "truck-2"
[[hosts]]
name = "phone"
[[links]]
between = ["truck-1", "truck-2"]
rate = "10M"
delay = "25ms"
jitter = "0ms"
"#;

/// Moves a running speech service between two vehicles in the lab, while a handheld uses it.
#[derive(Parser)]
#[command(name = "handoff-demo", version)]
struct Arguments {
    /// Print one JSON document instead of the table.
    #[arg(long)]
    json: bool,
    /// Keep the state and logs of all programs in this directory, which must not exist.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "the lab needs root: sudo make handoff-demo");
    let temporary = tempfile::Builder::new().prefix("handoff-").tempdir_in("/tmp")?;
    let directory = arguments.keep.as_deref().unwrap_or(temporary.path());
    if arguments.keep.is_some() {
        std::fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut table = Table::default();
    let result = show(directory, &mut table);
    if let Err(error) = &result {
        eprintln!("handoff-demo: {error:#}");
        cloudlet::show_logs(directory);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print!("{table}");
    }
    result?;
    table.check()
}

fn show(directory: &Path, table: &mut Table) -> anyhow::Result<()> {
    let lab = Lab::start(&Topology::from_toml(RADIO)?)?;
    mission::enroll(directory, "handoff-demo", &VEHICLES)?;
    eprintln!("* two vehicles start and find each other");
    let start = |name: &&str| Cloudlet::start(&lab, directory, name, built_images()?, &POLICY);
    let mut vehicles = VEHICLES.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    for vehicle in &vehicles {
        vehicle.wait_until(|seen| seen.there == VEHICLES.len(), LIMIT)?;
    }
    let handheld = Handheld::pair(&lab, directory, HANDHELD, &vehicles[0])?;
    let served = Served::start(&handheld, directory)?;
    client::asking(lab.host(HANDHELD)?, served.address(), |log| {
        let mut stage = Stage::new(&lab, &mut vehicles, served.instance(), log, table);
        steps::all(&mut stage)
    })
}
