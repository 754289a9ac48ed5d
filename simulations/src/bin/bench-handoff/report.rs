//! What was found, as it is written to the JSON file.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::air::Link;
use super::arguments::{System, Workload};
use super::machine::Machine;
use super::split::Split;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub command: String,
    pub rows: Vec<Row>,
    pub aims: Vec<Aim>,
}

/// Moves by one system over one link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Of which checkout it was measured, as [`Machine`] says it.
    #[serde(default)]
    pub commit: String,
    pub system: System,
    pub workload: Workload,
    pub link: Link,
    pub moves: Vec<Move>,
    /// A move that was given up.
    pub unfinished: Option<Unfinished>,
    /// Why there are no more of them.
    pub failed: Option<String>,
}

/// What one move took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Move {
    pub from: String,
    /// From the order until it runs at the destination: for cloudlets until the source knows that, for postcopy until all
    /// memory is there.
    pub total_ms: u64,
    /// How long it ran nowhere; for cloudlets until the source knows that it runs there.
    pub downtime_ms: u64,
    /// The longest that a client waited for an answer about the service's health; of cloudlets, in the last move of a row.
    pub client_ms: Option<u64>,
    /// IP bytes between the two hosts, both ways, from the order to the end.
    pub wire_bytes: u64,
    pub load: f64,
    #[serde(flatten)]
    pub daemons: Option<Daemons>,
    /// What QEMU says of its own migration at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<Value>,
}

/// What a move took of the cloudlets' daemons.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Daemons {
    /// What the source gave to the link, before encryption and transport.
    pub sent_bytes: u64,
    pub attempts: u64,
    /// Processor time of each daemon over the time of the move: 1.0 is one core.
    pub source_cores: f64,
    pub destination_cores: f64,
    /// Highest memory of each daemon above what it had before, bytes.
    pub source_memory_bytes: u64,
    pub destination_memory_bytes: u64,
    pub split: Split,
}

/// A move that was given up when its time was over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unfinished {
    pub after_ms: u64,
    /// IP bytes until then.
    pub wire_bytes: u64,
    pub qemu: Option<Value>,
}

/// Something that was promised.
#[derive(Debug, Clone, Serialize)]
pub struct Aim {
    pub what: String,
    /// The most, or the least, that it may be.
    pub bound: f64,
    pub unit: &'static str,
    pub found: f64,
    pub met: bool,
}

impl Row {
    pub fn new(system: System, workload: Workload, link: Link) -> Self {
        let commit = String::new();
        Self { commit, system, workload, link, moves: Vec::new(), unfinished: None, failed: None }
    }

    /// The middle of what the moves had of this; of two in the middle, the greater.
    pub fn median(&self, of: impl Fn(&Move) -> Option<f64>) -> Option<f64> {
        let mut all: Vec<f64> = self.moves.iter().filter_map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }

    /// Bytes on the wire: the median, or those until the move was given up.
    pub fn bytes(&self) -> Option<f64> {
        let finished = self.median(|moved| Some(moved.wire_bytes as f64));
        finished.or(self.unfinished.as_ref().map(|unfinished| unfinished.wire_bytes as f64))
    }

    /// The most that any move had of this.
    pub fn most(&self, of: impl Fn(&Move) -> Option<f64>) -> Option<f64> {
        self.moves.iter().filter_map(of).max_by(f64::total_cmp)
    }
}

impl Report {
    /// The rows of a file that an earlier run wrote, without those that failed; none if there is no file.
    pub fn rows_of(path: &Path) -> anyhow::Result<Vec<Row>> {
        #[derive(Deserialize)]
        struct Earlier {
            rows: Vec<Row>,
        }
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let earlier: Earlier = serde_json::from_reader(std::io::BufReader::new(file))
            .context("it is none of this program's; move it away, or run without --resume")?;
        Ok(earlier.rows.into_iter().filter(|row| row.failed.is_none()).collect())
    }

    /// Writes the file whole or not at all.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        Ok(std::fs::rename(&temporary, path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_again_but_for_those_that_failed() {
        let link = Link { rate_mbit: 10, rtt_ms: 50, loss_percent: 2 };
        let mut good = Row::new(System::Multifd, Workload::Memory16, link);
        good.unfinished = Some(Unfinished { after_ms: 1, wire_bytes: 2, qemu: Some(Value::Null) });
        let mut failed = Row::new(System::Cloudlets, Workload::SpeechIdle, link);
        failed.failed = Some("it broke".to_owned());
        let rows = vec![failed, good.clone()];
        let report =
            Report { machine: super::super::machine::look(), command: String::new(), rows, aims: Vec::new() };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("all.json");
        assert!(Report::rows_of(&path).unwrap().is_empty());
        report.write(&path).unwrap();
        let [read] = &Report::rows_of(&path).unwrap()[..] else { panic!("not one row") };
        assert_eq!((read.system, read.workload, read.link), (good.system, good.workload, good.link));
        std::fs::write(&path, "{}").unwrap();
        assert!(format!("{:#}", Report::rows_of(&path).unwrap_err()).contains("--resume"));
    }
}
