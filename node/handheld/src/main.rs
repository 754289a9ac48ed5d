//! `handheld`: find cloudlets and use their services from the command line.
//!
//! Results go to standard output, trouble to standard error. Exit code 0: done, 1: failed, 2: wrong usage.

#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use clap::Parser;
use handheld::{RunError, speech};

mod cli;

use cli::args::{Arguments, Command};

fn main() -> ExitCode {
    // Clap ends the process with code 2 on wrong usage and 0 after --help.
    let arguments = Arguments::parse();
    start_log(arguments.verbose);
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Command::Completions { shell } = arguments.command {
        return cli::output::completions(shell);
    }
    // One thread is enough for a client, and leaves a handheld's others alone.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(cli::run(arguments))
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        .init();
}

/// Whoever reads our output has seen enough of it (`handheld discover | head -1`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

/// The whole chain of causes, then what to do next.
fn report(error: &anyhow::Error) {
    eprintln!("handheld: {error}");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // A transparent wrapper says the same as what it wraps.
        if text != last {
            eprintln!("  because: {text}");
        }
        last = text;
    }
    if let Some(next) = error.chain().find_map(next_step) {
        eprintln!("  next: {next}");
    }
}

fn next_step(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<handheld::Error>() {
        return error.next_step();
    }
    if let Some(RunError::Service(error)) = cause.downcast_ref::<RunError<speech::Error>>() {
        return error.next_step();
    }
    if let Some(error) = cause.downcast_ref::<handheld::PairError>() {
        return error.next_step();
    }
    if cause.is::<cli::pair::NotPaired>() {
        return Some(cli::pair::NotPaired::next_step());
    }
    cause.downcast_ref::<cli::run::BadFile>().and_then(cli::run::BadFile::next_step)
}
