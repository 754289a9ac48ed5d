//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures how a running Service VM moves between two cloudlets in the lab, and how QEMU and rsync move it: time, standing
/// still, bytes.
///
/// Needs root, the images `speech` and `writer`, and rsync.
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
    /// Who moves it.
    #[arg(long, value_delimiter = ',', default_values_t = System::ALL)]
    pub systems: Vec<System>,
    /// Moves in each row of another system than cloudlets.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub peer_moves: u8,
    /// When another system than cloudlets is given up, seconds.
    #[arg(long, default_value_t = 180)]
    pub peer_limit_s: u64,
    /// Where raw results go.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Go on with the rows in that file: only what is not there, or had failed, is measured.
    #[arg(long, requires = "json")]
    pub resume: bool,
    /// Where the cloudlets' logs and state are kept [default: nowhere].
    #[arg(long, value_name = "DIRECTORY")]
    pub keep: Option<PathBuf>,
}

impl Arguments {
    pub fn work(&self) -> Duration {
        Duration::from_secs(self.work_s)
    }

    pub fn peer_limit(&self) -> Duration {
        Duration::from_secs(self.peer_limit_s)
    }
}

/// What moves the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Two cloudlets.
    Cloudlets,
    /// QEMU's live migration, compressing with zstd in two connections, with auto-converge.
    Multifd,
    /// QEMU's live migration, sending differences to what was sent before, with auto-converge.
    Xbzrle,
    /// QEMU's live migration, which lets the VM run at the destination after one pass.
    Postcopy,
    /// Suspend, rsync with zstd, resume.
    Rsync,
}

impl System {
    pub const ALL: [Self; 5] = [Self::Cloudlets, Self::Multifd, Self::Xbzrle, Self::Postcopy, Self::Rsync];

    /// Whether it is QEMU's own live migration.
    pub fn is_live_migration(self) -> bool {
        matches!(self, Self::Multifd | Self::Xbzrle | Self::Postcopy)
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cloudlets => "cloudlets",
            Self::Multifd => "multifd",
            Self::Xbzrle => "xbzrle",
            Self::Postcopy => "postcopy",
            Self::Rsync => "rsync",
        })
    }
}

/// What the VM does while it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// The speech service waits for requests.
    SpeechIdle,
    /// It recognises one recording after the other.
    Speech,
    /// The writer writes 1 MB/s to memory.
    #[value(name = "memory-1")]
    #[serde(rename = "memory-1")]
    Memory1,
    /// It writes 4 MB/s to memory.
    #[value(name = "memory-4")]
    #[serde(rename = "memory-4")]
    Memory4,
    /// It writes 16 MB/s to memory.
    #[value(name = "memory-16")]
    #[serde(rename = "memory-16")]
    Memory16,
    /// It writes 0.5 MB/s to the disk.
    Disk,
}

/// What the writer writes.
pub struct Rates {
    pub memory_bytes_per_s: u64,
    pub disk_bytes_per_s: u64,
}

impl Workload {
    /// The image that it runs in, and the service.
    pub fn image(self) -> &'static str {
        if self.rates().is_some() { "writer" } else { "speech" }
    }

    /// `None` if it is not the writer's.
    pub fn rates(self) -> Option<Rates> {
        let (memory, disk) = match self {
            Self::SpeechIdle | Self::Speech => return None,
            Self::Memory1 => (1_000_000, 0),
            Self::Memory4 => (4_000_000, 0),
            Self::Memory16 => (16_000_000, 0),
            Self::Disk => (0, 500_000),
        };
        Some(Rates { memory_bytes_per_s: memory, disk_bytes_per_s: disk })
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SpeechIdle => "speech-idle",
            Self::Speech => "speech",
            Self::Memory1 => "memory-1",
            Self::Memory4 => "memory-4",
            Self::Memory16 => "memory-16",
            Self::Disk => "disk",
        })
    }
}
