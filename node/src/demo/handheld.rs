//! The demo's handheld: the real client program.

use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::cloudlet::Cloudlet;
use super::{Error, beside};

/// Where the time went in one round, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// What is special about it.
    pub name: &'static str,
    /// Until a cloudlet was found.
    pub discovery_ms: u64,
    /// From asking what it offers until an instance was granted.
    pub provisioning_ms: u64,
    /// From then until the service answered its health check.
    pub ready_ms: u64,
    /// Recognition of each recording, by the Service VM's clock.
    pub recognition_ms: Vec<u64>,
}

/// What `handheld run --json` prints, as far as the demo needs it.
#[derive(Deserialize)]
struct Printed {
    cloudlet: String,
    results: Vec<Heard>,
    timing: Timing,
}

#[derive(Deserialize)]
struct Heard {
    text: String,
    took_ms: u64,
}

#[derive(Deserialize)]
struct Timing {
    discovery_ms: u64,
    selection_ms: u64,
    provisioning_ms: u64,
    ready_ms: u64,
}

/// Lets a handheld find a cloudlet and have `files` recognised there; gives the times and the words.
pub(super) fn recognise(
    name: &'static str,
    cloudlet: &Cloudlet,
    files: &[PathBuf],
) -> Result<(Round, Vec<String>), Error> {
    let program = beside("handheld")?;
    let mut command = Command::new(&program);
    cloudlet.as_handheld(&mut command);
    let output = command
        .args(["run", "speech", "--json"])
        .args(files)
        .output()
        .map_err(|source| Error::Start { program: program.clone(), source })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Failed { program, words });
    }
    let printed: Printed = serde_json::from_slice(&output.stdout)
        .map_err(|source| Error::Unexpected { program: program.clone(), source })?;
    if printed.cloudlet != cloudlet.name() {
        return Err(Error::OtherCloudlet { wanted: cloudlet.name().to_owned(), found: printed.cloudlet });
    }
    let Timing { discovery_ms, selection_ms, provisioning_ms, ready_ms } = printed.timing;
    let recognition_ms = printed.results.iter().map(|heard| heard.took_ms).collect();
    let provisioning_ms = selection_ms + provisioning_ms;
    let words = printed.results.into_iter().map(|heard| heard.text).collect();
    Ok((Round { name, discovery_ms, provisioning_ms, ready_ms, recognition_ms }, words))
}
