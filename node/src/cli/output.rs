//! What commands print: results on stdout, trouble on stderr under the program's name.

use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Value as Json, json};

use super::progress::Progress;

/// Exit code: it failed, or a check found something.
const FAILED: u8 = 1;
/// Exit code: usage or configuration error.
const USAGE: u8 = 2;

/// Why a command did not end well.
#[derive(Debug)]
pub enum Failure {
    /// Nobody reads the output any more (`cloudlet … | head`). No error.
    NobodyReads,
    /// A check found something, which the command has printed.
    Found,
    /// The command line is wrong, and clap has said how.
    Usage,
    /// It failed.
    Error {
        /// The cause, with its chain.
        error: anyhow::Error,
        /// What to do next.
        next: Option<String>,
        /// Whether it is about usage or configuration.
        usage: bool,
    },
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error { error: error.into(), next: None, usage: false }
    }
}

impl Failure {
    /// A mistake in the command line or the configuration.
    pub fn usage(error: impl Into<anyhow::Error>, next: impl Into<String>) -> Self {
        Self::Error { error: error.into(), next: Some(next.into()), usage: true }
    }

    /// Something that did not work.
    pub fn failed(error: impl Into<anyhow::Error>, next: impl Into<String>) -> Self {
        Self::Error { error: error.into(), next: Some(next.into()), usage: false }
    }

    /// Tells the user, if there is something to tell, and says how to exit.
    pub fn report(&self, json: bool) -> ExitCode {
        match self {
            Self::NobodyReads => ExitCode::SUCCESS,
            Self::Found => ExitCode::from(FAILED),
            Self::Usage => ExitCode::from(USAGE),
            Self::Error { error, next, usage } => {
                let text =
                    if json { as_json(error, next.as_deref()) } else { as_text(error, next.as_deref()) };
                // Where even stderr is closed, the exit code has to do.
                let _ = io::stderr().lock().write_all(text.as_bytes());
                ExitCode::from(if *usage { USAGE } else { FAILED })
            }
        }
    }
}

fn as_text(error: &anyhow::Error, next: Option<&str>) -> String {
    let mut text = String::new();
    let mut said = String::new();
    for (depth, cause) in error.chain().map(ToString::to_string).enumerate() {
        // Errors that are transparent repeat the words of their source.
        if depth > 0 && said == cause {
            continue;
        }
        for line in cause.lines() {
            text += &if depth == 0 { format!("cloudlet: {line}\n") } else { format!("  because: {line}\n") };
        }
        said = cause;
    }
    if let Some(next) = next {
        text += &format!("next: {next}\n");
    }
    text
}

fn as_json(error: &anyhow::Error, next: Option<&str>) -> String {
    let mut causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.dedup();
    format!("{}\n", json!({"error": causes.join(": "), "causes": &causes[1..], "next": next}))
}

/// How a command tells its results.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// As one JSON document.
    pub json: bool,
    /// Without progress.
    pub quiet: bool,
}

impl Output {
    /// Prints a result in the wanted form. Only the wanted one is made.
    ///
    /// # Errors
    ///
    /// [`Failure::NobodyReads`] if stdout is a pipe that was closed.
    pub fn result(self, text: impl FnOnce() -> String, json: impl FnOnce() -> Json) -> Result<(), Failure> {
        let out = if self.json { format!("{:#}", json()) } else { text() };
        Self::print(&out)
    }

    /// Prints this to stdout, with a newline at its end.
    ///
    /// # Errors
    ///
    /// [`Failure::NobodyReads`] if stdout is a pipe that was closed.
    pub fn print(text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.write_all(newline.as_bytes()))
            .and_then(|()| stdout.flush())
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => Failure::NobodyReads,
                _ => Failure::failed(
                    anyhow::Error::new(error).context("cannot write to stdout"),
                    "check where the output goes",
                ),
            })
    }

    /// A way to tell how far a long command is; silent with `--json` and `-q`.
    pub fn progress(self) -> Progress {
        if self.json || self.quiet { Progress::silent() } else { Progress::on_stderr() }
    }
}

/// Columns of text, each as wide as its widest cell. The last one is not padded.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(heads.get(column).map(|head| head.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut out = line(&mut heads.iter().copied());
    for row in rows {
        out += &line(&mut row.iter().map(String::as_str));
    }
    out
}

/// Bytes for people: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", count as f64 / *size as f64),
        None => format!("{count} B"),
    }
}

/// A moment for people, in UTC: `2026-11-23 09:34`.
pub fn utc(unix_s: u64) -> String {
    let (days, of_day) = (unix_s / 86_400, unix_s % 86_400);
    // Gregorian calendar with years that begin in March, so that the leap day comes last; day 0 is 0000-03-01.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day_of_month:02} {:02}:{:02}", of_day / 3600, of_day / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> anyhow::Error {
        anyhow::Error::new(io::Error::other("disk on fire"))
            .context("cannot read\nthe file")
            .context("cannot start")
    }

    #[test]
    fn text_has_the_programs_name_every_cause_and_what_to_do() {
        assert_eq!(
            as_text(&error(), Some("call somebody")),
            "cloudlet: cannot start\n  because: cannot read\n  because: the file\n  because: disk on fire\nnext: call somebody\n"
        );
    }

    #[test]
    fn json_has_the_same_in_one_line() {
        let line = as_json(&error(), None);
        assert_eq!(line.lines().count(), 1);
        let value: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(value["error"], "cannot start: cannot read\nthe file: disk on fire");
        assert_eq!(value["causes"].as_array().unwrap().len(), 2);
        assert!(value["next"].is_null());
    }

    #[test]
    fn a_cause_that_repeats_its_error_is_told_once() {
        let repeated = anyhow::Error::new(io::Error::other("x")).context("x");
        assert_eq!(as_text(&repeated, None), "cloudlet: x\n");
    }

    #[test]
    fn tables_line_up() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), String::new()]];
        assert_eq!(table(&["X", "Y"], &rows), "X    Y\na    bb\nccc\n");
    }

    #[test]
    fn bytes_have_the_largest_unit_that_fits() {
        assert_eq!([0, 1023, 1024, 3 << 29].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
    }

    // Expected values are those of `date -u -d @SECONDS`.
    #[test]
    fn moments_agree_with_date() {
        assert_eq!(utc(0), "1970-01-01 00:00");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34");
        assert_eq!(utc(1_796_104_800), "2026-12-01 06:00");
        assert_eq!(utc(4_107_542_399), "2100-02-28 23:59");
    }
}
