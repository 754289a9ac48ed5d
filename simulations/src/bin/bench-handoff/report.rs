//! What was found, as it is written to the JSON file.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::arguments::Workload;
use super::fleet::Link;
use super::machine::Machine;
use super::moves::Move;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub command: String,
    pub rows: Vec<Row>,
    pub aims: Vec<Aim>,
}

/// Moves of one system over one link.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub system: &'static str,
    pub workload: Workload,
    pub link: Link,
    pub moves: Vec<Move>,
    /// Why there are no more of them.
    pub failed: Option<String>,
}

/// Something that was promised.
#[derive(Debug, Clone, Serialize)]
pub struct Aim {
    pub what: String,
    pub most: f64,
    pub unit: &'static str,
    pub found: f64,
    pub met: bool,
}

impl Row {
    /// The middle of what the moves had of this; of two in the middle, the greater.
    pub fn median(&self, of: impl Fn(&Move) -> f64) -> Option<f64> {
        let mut all: Vec<f64> = self.moves.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }

    /// The most that any move had of this.
    pub fn most(&self, of: impl Fn(&Move) -> f64) -> Option<f64> {
        self.moves.iter().map(of).max_by(f64::total_cmp)
    }
}

impl Report {
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
