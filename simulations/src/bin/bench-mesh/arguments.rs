//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::system::{Radio, System};

/// Measures the mesh beside serf in the lab: idle bytes, time until everybody knows a change, a crash, a merge.
///
/// Needs root, and Debian's package `serf` unless `--serf` is empty.
#[derive(Parser)]
#[command(name = "bench-mesh", version)]
pub struct Arguments {
    /// The mesh's example program, built with optimisations.
    #[arg(long, value_name = "PATH", default_value = "target/release/examples/mesh_node")]
    pub node: PathBuf,
    /// How many nodes; one phase each. None: only the long split.
    #[arg(long, value_name = "N", value_delimiter = ',', num_args = 0.., default_values_t = [5, 20, 30, 50], value_parser = clap::value_parser!(u8).range(2..=100))]
    pub sizes: Vec<u8>,
    /// Which links: `full` is 100 Mbit/s and 1 ms, `narrow` is 64 kbit/s, 50 ms and 5 % loss, `rough` 64 kbit/s, 150 ms and
    /// 20 % loss in bursts of four, each for each pair.
    #[arg(long, value_delimiter = ',', default_values_t = [Radio::Full, Radio::Narrow])]
    pub radios: Vec<Radio>,
    /// Which of serf to measure beside: any of `lan`, `wan`, `lan+key`, `wan+key` (with its encryption on).
    #[arg(long, value_name = "PROFILE", value_delimiter = ',', default_value = "lan,wan,wan+key", value_parser = ["lan", "wan", "lan+key", "wan+key", ""])]
    pub serf: Vec<String>,
    /// Time after everybody has joined and before the idle window, seconds.
    #[arg(long, default_value_t = 30)]
    pub settle_s: u64,
    /// Length of the idle window, seconds.
    #[arg(long, default_value_t = 60)]
    pub idle_s: u64,
    /// Changes in each phase.
    #[arg(long, default_value_t = 10)]
    pub changes: usize,
    /// Most crashes in each phase; no new one begins later than 40 s after the first.
    #[arg(long, default_value_t = 3)]
    pub crashes: usize,
    /// Length of the long split, seconds. 0: none.
    #[arg(long, default_value_t = 600)]
    pub split_s: u64,
    /// Nodes of the long split.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u8).range(4..=100))]
    pub split_nodes: u8,
    /// Whom to split: any of `cloudlets`, `lan`, `wan`.
    #[arg(long, value_name = "SYSTEM", value_delimiter = ',', default_value = "cloudlets,lan", value_parser = ["cloudlets", "lan", "wan"])]
    pub split: Vec<String>,
    /// Where raw results go.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Decides who changes and who crashes.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Arguments {
    /// Ours first.
    pub fn systems(&self) -> Vec<System> {
        std::iter::once(System::Cloudlets).chain(named(&self.serf)).collect()
    }

    pub fn split_systems(&self) -> Vec<System> {
        if self.split_s == 0 { Vec::new() } else { named(&self.split).collect() }
    }

    pub fn settle(&self) -> Duration {
        Duration::from_secs(self.settle_s)
    }

    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_s)
    }
}

fn named(words: &[String]) -> impl Iterator<Item = System> + '_ {
    words.iter().filter(|word| !word.is_empty()).map(|word| System::named(word))
}
