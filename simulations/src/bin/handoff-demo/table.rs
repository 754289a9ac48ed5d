//! What was seen, a row for each step.

use std::fmt;

use anyhow::ensure;
use serde::Serialize;

/// A step.
#[derive(Debug, Serialize)]
pub struct Row {
    pub step: String,
    /// From the order to its end, as the cloudlet says where one is asked.
    pub total_s: f64,
    /// How long the VM stood still, as the cloudlet says.
    pub downtime_ms: Option<u64>,
    /// How often the move was tried.
    pub attempts: Option<u32>,
    /// Longest time that a new connection on the handheld's host waited for its answer.
    pub pause_ms: u64,
    /// IP packets between the vehicles, both ways.
    pub wire_bytes: u64,
    /// Recognitions asked for, and connections that were lost.
    pub requests: u64,
    /// Recognitions with the right words.
    pub right: u64,
    /// Why there was no answer, of each request and connection without one.
    pub lost: Vec<String>,
}

/// All steps so far.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    pub rows: Vec<Row>,
}

impl Table {
    /// An error if a request was lost or answered wrongly.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.rows.is_empty(), "nothing was shown");
        for row in &self.rows {
            ensure!(
                row.right > 0 && row.requests == row.right,
                "requests were lost, or answered wrongly: {row:?}"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTOTAL S  DOWN MS  PAUSE MS  TRIES      BYTES  SENT  RIGHT  LOST  STEP")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        write!(
            f,
            "{:7.2}  {:>7}  {:8}  {:>5}  {:9}  {:4}  {:5}  {:4}  {}",
            self.total_s,
            known(self.downtime_ms),
            self.pause_ms,
            known(self.attempts.map(u64::from)),
            self.wire_bytes,
            self.requests,
            self.right,
            self.lost.len(),
            self.step
        )
    }
}
