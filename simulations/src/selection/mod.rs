//! Choices against an oracle: what [`mesh::selection`] picks, and what would have been best.
//!
//! ```text
//! scenario + tracks + seed ──record──► decisions: what the handheld saw │ what each alternative would have come to
//!                                                      │ policies see this │ only the oracle sees this
//!                                                      └───────── regret ──┘
//! ```
//!
//! Truth is not the model that [`mesh::selection::completion()`] reckons with. Vehicles turn at crossings; radios reach
//! farther or less far than their nominal range; links fade and change with distance while a task runs; other clients come
//! and go after the advert, which is up to an interval old, and more of them may want the cores than there are; what is
//! measured is off; starting takes longer or shorter than usual. [`world`] has it all, [`scenario::Hidden`] says how much.
//!
//! Recordings of the scenarios in `scenarios/selection/` are kept beside them. Nothing here calls the platform's
//! mathematical library, so a seed gives the same recording everywhere.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub mod recording;
pub mod regret;
pub mod scenario;
pub mod tracks;
pub mod world;

pub use recording::{Decision, record};
pub use regret::{Line, ours, table};
pub use scenario::Scenario;

/// Longest recording that is read, bytes.
pub const MAX_RECORDING_BYTES: usize = 64 * 1024 * 1024;

/// What `cloudlet-sim select-regret` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Scenario files of choices (TOML).
    #[arg(required = true)]
    pub scenarios: Vec<PathBuf>,
    /// Record anew with these seeds instead of reading the recordings beside the scenarios.
    #[arg(long, value_delimiter = ',', value_name = "SEED")]
    pub seeds: Vec<u64>,
    /// Write the recordings, with the scenarios' own seeds, beside the scenarios.
    #[arg(long, conflicts_with = "seeds")]
    pub write: bool,
    /// Print the table as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or written.
    #[error("cannot read or write {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// It is no good scenario.
    #[error("bad scenario {}", .0.display())]
    Scenario(PathBuf, #[source] scenario::Error),
    /// It is no good recording.
    #[error("line {line} of the recording {} is none", .file.display())]
    Recording {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A line of a recording has not one truth for each candidate.
    #[error("line {line} of the recording {} has not one truth for each candidate", .file.display())]
    Truth {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A survey of a recording.
    #[error("a survey in the recording of {} is not good", .0.display())]
    Survey(PathBuf, #[source] mesh::selection::record::BadSurvey),
    /// The output is gone.
    #[error("cannot print")]
    Print(#[source] io::Error),
}

/// Prints a table for each scenario.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let mut together = Vec::new();
    for file in &arguments.scenarios {
        let decisions = if arguments.seeds.is_empty() && !arguments.write {
            read_recording(&recording_of(file))?
        } else {
            let (scenario, tracks) = load(file)?;
            let own = [scenario.seed];
            let seeds = if arguments.write { &own[..] } else { &arguments.seeds };
            let mut all = Vec::new();
            for seed in seeds {
                let one = record(&scenario, *seed, tracks.as_deref());
                all.extend(one.map_err(|source| Error::Scenario(file.clone(), source))?);
            }
            all
        };
        if arguments.write {
            let recording = recording_of(file);
            std::fs::write(&recording, to_lines(&decisions))
                .map_err(|source| Error::File(recording, source))?;
        }
        let lines = table(&decisions).map_err(|source| Error::Survey(file.clone(), source))?;
        print(&mut out, &file.display().to_string(), &lines, arguments.json).map_err(Error::Print)?;
        together.extend(decisions);
    }
    if arguments.scenarios.len() > 1 {
        let lines = table(&together).map_err(|source| Error::Survey(PathBuf::from("all"), source))?;
        print(&mut out, "all together", &lines, arguments.json).map_err(Error::Print)?;
    }
    out.flush().map_err(Error::Print)
}

/// The recording beside a scenario.
pub fn recording_of(scenario: &Path) -> PathBuf {
    scenario.with_extension("recording.jsonl")
}

/// A scenario and the text of its tracks.
pub fn load(file: &Path) -> Result<(Scenario, Option<String>), Error> {
    let bad = |source| Error::Scenario(file.to_owned(), source);
    let scenario = Scenario::from_toml(&read(file, scenario::MAX_BYTES)?).map_err(bad)?;
    let tracks = match &scenario.tracks {
        None => None,
        Some(name) => {
            Some(read(&file.parent().unwrap_or(Path::new(".")).join(name), scenario::MAX_TRACK_BYTES)?)
        }
    };
    Ok((scenario, tracks))
}

/// One decision a line.
pub fn to_lines(decisions: &[Decision]) -> String {
    // A decision is numbers and names, which JSON can always hold.
    decisions.iter().filter_map(|one| serde_json::to_string(one).ok()).map(|line| line + "\n").collect()
}

/// Reads a recording.
pub fn read_recording(file: &Path) -> Result<Vec<Decision>, Error> {
    let text = read(file, MAX_RECORDING_BYTES)?;
    let mut decisions = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let decision: Decision = serde_json::from_str(text).map_err(|source| Error::Recording {
            file: file.to_owned(),
            line,
            source,
        })?;
        if decision.truth.len() != decision.survey.candidates.len() {
            return Err(Error::Truth { file: file.to_owned(), line });
        }
        decisions.push(decision);
    }
    Ok(decisions)
}

/// The text of `file`; one byte more than `limit` is read, so that the parser can say that it is too long.
fn read(file: &Path, limit: usize) -> Result<String, Error> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(limit as u64 + 1).read_to_string(&mut text))
        .map_err(|source| Error::File(file.to_owned(), source))?;
    Ok(text)
}

fn print(out: &mut impl Write, title: &str, lines: &[Line], json: bool) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, &serde_json::json!({ "scenario": title, "lines": lines }))?;
        return writeln!(out);
    }
    writeln!(out, "{}: {} choices", title, lines.first().map_or(0, |line| line.choices))?;
    writeln!(
        out,
        "  {:<28}{:>12}{:>10}{:>10}{:>9}{:>9}",
        "", "mean regret", "total", "worst", "right", "broken"
    )?;
    for line in lines {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        writeln!(
            out,
            "  {:<28}{:>12}{:>10}{:>10}{:>9}{:>9}",
            line.chooser,
            percent(line.mean),
            percent(line.total),
            percent(line.worst),
            percent(line.right),
            percent(line.broken)
        )?;
    }
    Ok(())
}
