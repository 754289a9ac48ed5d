//! Where the log goes: stderr, filtered.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::args::Global;
use crate::config;

/// Starts logging for a command other than `up`: warnings, or what `-v` and `-q` say.
pub(super) fn start(global: &Global) {
    let filter = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    install(EnvFilter::new(filter), global.json);
}

/// Starts logging for the daemon: as configured, unless `-v` or `-q` say otherwise.
pub(super) fn start_daemon(global: &Global, log: &config::Log) {
    let filter = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => &log.filter,
        (false, 1) => "debug",
        (false, _) => "trace",
    };
    install(EnvFilter::new(filter), log.json || global.json);
}

fn install(filter: EnvFilter, json: bool) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Fails only if a log was started before, which then stays.
    let _ = if json { builder.json().try_init() } else { builder.with_target(true).try_init() };
}
