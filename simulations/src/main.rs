//! `cloudlet-sim`: runs a scenario and prints what came of it.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use simulations::{Scenario, contacts, scenario, world};

/// Simulates missions of tactical cloudlets.
#[derive(Parser)]
#[command(name = "cloudlet-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a scenario and prints its report.
    Run(Run),
    /// Compares choices of a cloudlet with those of an oracle.
    SelectRegret(simulations::selection::Arguments),
    /// Compares services that move after their users with those that never move, and with an oracle.
    Placement(simulations::placement::Arguments),
}

#[derive(clap::Args)]
struct Run {
    /// Scenario file (TOML).
    scenario: PathBuf,
    /// Seed of everything random, instead of the scenario's.
    #[arg(long)]
    seed: Option<u64>,
    /// Recorded contacts, instead of the file that the scenario names.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Write the event log here, one event a line: seconds, what, who.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(run) => execute(&run),
        Command::SelectRegret(arguments) => simulations::selection::run(&arguments).map_err(Into::into),
        Command::Placement(arguments) => simulations::placement::run(&arguments).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cloudlet-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(run: &Run) -> anyhow::Result<()> {
    let scenario = load(&run.scenario)?;
    let trace = match (&scenario.trace, &run.trace) {
        (None, None) => None,
        (None, Some(_)) => {
            bail!("--trace is given, but the scenario has no [trace] that says who is a cloudlet")
        }
        (Some(_), Some(file)) => Some(file.clone()),
        (Some(named), None) => Some(run.scenario.parent().unwrap_or(Path::new(".")).join(&named.file)),
    };
    let trace = trace.map(|file| read(&file, contacts::MAX_TRACE_BYTES)).transpose()?;
    let outcome = world::run(&scenario, run.seed.unwrap_or(scenario.seed), trace.as_deref())?;
    if let Some(file) = &run.log {
        std::fs::write(file, &outcome.log)
            .with_context(|| format!("cannot write the event log to {}", file.display()))?;
    }
    let mut out = io::stdout().lock();
    if run.json {
        serde_json::to_writer_pretty(&mut out, &outcome.report)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", outcome.report)?;
    }
    Ok(out.flush()?)
}

fn load(file: &Path) -> anyhow::Result<Scenario> {
    let text = read(file, scenario::MAX_BYTES)?;
    Scenario::from_toml(&text).with_context(|| format!("bad scenario {}", file.display()))
}

/// The text of `file`; one byte more than `limit` is read, so that the parser can say that it is too long.
fn read(file: &Path, limit: usize) -> anyhow::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(limit as u64 + 1).read_to_string(&mut text))
        .with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
