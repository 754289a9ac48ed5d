//! Results on standard output, progress on standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::CommandFactory;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::task::JoinHandle;

/// A step that takes longer than this is shown.
const SHOW_AFTER: Duration = Duration::from_secs(1);
/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Writes one JSON document.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// Writes text; a reader that has gone away is an error here, and success in `main`.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// A table with a head, columns as wide as their widest cell. Cells come from the network: control characters, which
/// could steer the terminal, are replaced.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in &rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// The text without control characters.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::Arguments::command(), "handheld", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Shows what takes long, on a terminal only.
#[derive(Debug, Default)]
pub struct Spinner {
    shown: Mutex<Option<Shown>>,
}

/// A step under way: the task that shows it after a while, and what it then shows.
#[derive(Debug)]
struct Shown {
    task: JoinHandle<()>,
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Spinner {
    /// Another step begins; it is shown once it takes longer than a second.
    pub fn step(&self, what: &str) {
        self.clear();
        if !io::stderr().is_terminal() {
            return;
        }
        let (bar, message) = (Arc::new(Mutex::new(None)), format!("{what} …"));
        let slot = Arc::clone(&bar);
        let task = tokio::spawn(async move {
            tokio::time::sleep(SHOW_AFTER).await;
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
            let spinner = ProgressBar::new_spinner().with_elapsed(SHOW_AFTER).with_message(message);
            if let Ok(style) = style {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(TICK);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(spinner);
        });
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(Shown { task, bar });
    }

    /// The same step is farther; said where it is shown.
    pub fn tell(&self, what: &str) {
        if let Some(shown) = &*self.shown.lock().unwrap_or_else(PoisonError::into_inner)
            && let Some(bar) = &*shown.bar.lock().unwrap_or_else(PoisonError::into_inner)
        {
            bar.set_message(format!("{what} …"));
        }
    }

    /// Nothing is being done any more.
    pub fn clear(&self) {
        if let Some(Shown { task, bar }) = self.shown.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
            if let Some(bar) = bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
                bar.finish_and_clear();
            }
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cannot_steer_the_terminal() {
        let rows =
            vec![vec!["alpha".to_owned(), "1".to_owned()], vec!["\u{1b}[2J".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME   N\nalpha  1\n\u{fffd}[2J   22\n");
    }
}
