//! Where the time of a move went, as the daemons say in their logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The lines that are looked for: what the source says, and what the destination says.
const SENT: &str = "a VM was sent";
const RECEIVED: &str = "a VM was received";

/// Logs from a moment on.
pub struct Logs([(PathBuf, u64); 2]);

/// The figures of one move by name, with their units: those of the source, then of the destination.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub source: BTreeMap<String, u64>,
    pub destination: BTreeMap<String, u64>,
}

impl Logs {
    /// What the source (first) and the destination say from now on.
    pub fn from_now(logs: [&Path; 2]) -> anyhow::Result<Self> {
        let end = |path: &Path| Ok::<_, std::io::Error>((path.to_owned(), path.metadata()?.len()));
        Ok(Self([end(logs[0])?, end(logs[1])?]))
    }

    /// What they have said.
    pub fn split(&self) -> anyhow::Result<Split> {
        let [source, destination] = &self.0;
        let said = |(path, from): &(PathBuf, u64), what| {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(*from))?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(last(&text, what))
        };
        Ok(Split { source: said(source, SENT)?, destination: said(destination, RECEIVED)? })
    }
}

/// The numbers in the last line that says this.
fn last(text: &str, what: &str) -> BTreeMap<String, u64> {
    let line = text.lines().rev().find(|line| line.contains(what)).unwrap_or_default();
    let number = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    line.split_whitespace().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_and_only_numbers_are_taken() {
        let text = "x INFO a VM was sent vm=1-2 disk_ms=1\ny INFO a VM was sent vm=1-2 disk_ms=3 rest_ms=4\nz other disk_ms=9\n";
        let wanted = [("disk_ms".to_owned(), 3), ("rest_ms".to_owned(), 4)];
        assert_eq!(last(text, SENT), BTreeMap::from(wanted));
        assert_eq!(last(text, RECEIVED), BTreeMap::new());
    }
}
