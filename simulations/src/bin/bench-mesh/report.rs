//! What was found, as it is written to the JSON file.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::machine::Machine;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub command: String,
    pub phases: Vec<Phase>,
    pub splits: Vec<Split>,
    pub aims: Vec<Aim>,
}

/// One system, size and radio.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    pub system: &'static str,
    pub nodes: usize,
    pub radio: String,
    /// Seconds from the start of the first process until everybody sees everybody.
    pub joined_s: Option<f64>,
    /// IP bytes that a node sent from its start until the idle window: joining and settling.
    pub bytes_before_idle: f64,
    pub idle: Idle,
    /// Changes of what a node says of itself; for serf, events as it sends them unless told otherwise (held back).
    pub changes: Changes,
    /// serf's events that are not held back.
    pub changes_at_once: Option<Changes>,
    /// IP bytes that all nodes together sent for a change, above what they send anyway.
    pub bytes_per_change: f64,
    pub crashes: Crashes,
    /// Load of the machine over one minute, at the end of the idle window and of the changes.
    pub load: [f64; 2],
    /// Frames that the lab was too slow for. Not 0 means that the figures are the machine's.
    pub lab_overrun_frames: u64,
}

/// What nodes send when nothing happens. IP bytes, each packet once.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    pub window_s: f64,
    pub bytes_per_s_mean: f64,
    pub bytes_per_s_least: f64,
    pub bytes_per_s_most: f64,
    /// The part that went to multicast addresses.
    pub group_bytes_per_s_mean: f64,
    pub frames_per_s_mean: f64,
    pub links_per_node: Option<f64>,
    /// How often any node said of a living one that it had gone.
    pub false_alarms: usize,
    /// How often any node gave up a link to a living one because it heard nothing, counted at both ends.
    pub links_given_up: usize,
}

/// How long it took, seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Spread {
    pub count: usize,
    pub median: Option<f64>,
    pub p95: Option<f64>,
    pub last: Option<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Changes {
    /// Of every node that heard of every change.
    pub seconds: Spread,
    /// Of the last node to hear of each change.
    pub last_of_each: Spread,
    /// How many nodes did not hear in time, all changes together.
    pub missed: usize,
    /// The last node of each change, seconds, in order.
    pub lasts: Vec<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Crashes {
    pub count: usize,
    /// Until nodes with a link to the dead one gave the link up. Only systems with links have that.
    pub neighbours: Option<Spread>,
    /// Until nodes said that the dead one had gone.
    pub everybody: Spread,
    /// How many did not say so in time, all crashes together.
    pub missed: usize,
}

/// A split into two halves for a long time, and what came after.
#[derive(Debug, Clone, Serialize)]
pub struct Split {
    pub system: &'static str,
    pub nodes: usize,
    pub split_s: f64,
    /// Changes that were made while it was split; only those who can tell afterwards are asked.
    pub changes: usize,
    /// What a node sent while it was split.
    pub idle: Idle,
    /// Whether each half saw itself, and nobody else, at the end of the split.
    pub halves_were_right: bool,
    /// Seconds from the first contact until anybody saw a node of the other half.
    pub first_s: Option<f64>,
    /// Seconds until everybody saw everybody, with the newest of each.
    pub converged_s: Option<f64>,
}

/// Something that was promised.
#[derive(Debug, Clone, Serialize)]
pub struct Aim {
    pub what: String,
    pub most: f64,
    pub unit: &'static str,
    pub found: Option<f64>,
    pub met: bool,
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
