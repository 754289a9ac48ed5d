//! What was seen, and how long it took.

use std::fmt;

use super::now;

/// The steps so far.
#[derive(Default)]
pub struct Report {
    lines: Vec<(String, f64)>,
}

impl Report {
    /// Does a step, says so, and notes how long it took.
    pub fn step<T>(&mut self, what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        eprintln!("* {what}");
        let begin = now();
        let result = work();
        let took = begin.elapsed().as_secs_f64();
        eprintln!("  {} after {took:.2} s", if result.is_ok() { "done" } else { "FAILED" });
        self.lines.push((what.to_owned(), took));
        result
    }

    /// Shows what a program printed.
    pub fn say(text: &str) {
        text.lines().for_each(|line| eprintln!("    {line}"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n      S  STEP")?;
        self.lines.iter().try_for_each(|(what, took)| writeln!(f, "{took:7.2}  {what}"))
    }
}
