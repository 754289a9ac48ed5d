//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures how a running Service VM moves between two cloudlets in the lab: time, standing still, bytes.
///
/// Needs root, and the image `speech`.
#[derive(Parser)]
#[command(name = "bench-handoff", version)]
pub struct Arguments {
    /// Rates of the link, Mbit/s.
    #[arg(long, value_name = "MBIT", value_delimiter = ',', default_values_t = [5, 10, 25, 100], value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rates: Vec<u32>,
    /// Losses of the link, per cent.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_values_t = [0, 2], value_parser = clap::value_parser!(u8).range(0..=30))]
    pub loss: Vec<u8>,
    /// Round trip of the link, ms.
    #[arg(long, default_value_t = 50)]
    pub rtt_ms: u64,
    /// What the VM does meanwhile.
    #[arg(long, value_delimiter = ',', default_values_t = [Workload::SpeechIdle, Workload::Speech])]
    pub workloads: Vec<Workload>,
    /// Moves in each row, to and fro.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..))]
    pub moves: u8,
    /// How long a VM does its work before each move, seconds.
    #[arg(long, default_value_t = 5)]
    pub work_s: u64,
    /// Where raw results go.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the cloudlets' logs and state are kept [default: nowhere].
    #[arg(long, value_name = "DIRECTORY")]
    pub keep: Option<PathBuf>,
}

impl Arguments {
    pub fn work(&self) -> Duration {
        Duration::from_secs(self.work_s)
    }
}

/// What the VM does while it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// The speech service waits for requests.
    SpeechIdle,
    /// It recognises one recording after the other.
    Speech,
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SpeechIdle => "speech-idle",
            Self::Speech => "speech",
        })
    }
}
