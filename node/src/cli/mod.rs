//! The `cloudlet` command line.
//!
//! Every command prints its result on stdout (one JSON document with `--json`) and trouble on stderr. A command is a
//! function from its flags, the configuration and an [`Output`]; only [`run`] knows about exit codes.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

pub mod args;
mod build;
mod config;
mod demo;
mod doctor;
mod evacuate;
mod fetch;
mod handoff;
mod image;
mod live;
mod logging;
mod mesh;
mod mission;
pub mod output;
mod placement;
mod plan;
pub mod progress;
mod signals;
mod standing;
mod up;
mod vm;

use crate::config as configuration;
use args::{Cli, Command, Global};
use output::{Failure, Output};

/// Does what the arguments say, the first of which is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Wanted even where the rest cannot be parsed.
    let json = arguments.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--json");
    let result = match Cli::try_parse_from(arguments) {
        Ok(cli) => command(cli),
        Err(error) => unparsed(&error, json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

fn command(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let output = Output { json: global.json, quiet: global.quiet };
    if !matches!(command, Command::Up(_)) {
        logging::start(&global);
    }
    match command {
        Command::Up(flags) => up::run(&flags, &global, output),
        Command::Image(action) => image::run(action, &global, output),
        Command::Mission(action) => mission::run(action, &global, output),
        Command::Vm(vm) => vm::run(vm, &global, output),
        Command::Handoff(wanted) => handoff::run(wanted, &global, output),
        Command::Evacuate(wanted) => evacuate::run(&wanted, &global, output),
        Command::Reintegrate { api } => handoff::reintegrate(api.as_deref(), &global, output),
        Command::Placement { api } => placement::run(api.as_deref(), &global, output),
        Command::Mesh { api } => mesh::run(api.as_deref(), &global, output),
        Command::Position(position) => standing::position(position, &global, output),
        Command::Drain { state, api } => standing::drain(state, api.as_deref(), &global, output),
        Command::Demo => demo::run(&global, output),
        Command::Doctor => doctor::run(&global, output),
        Command::Config(action) => config::run(action, &global, output),
        Command::Completions { shell } => completions(shell, output),
    }
}

/// Help and versions, which clap treats as errors, and real errors.
fn unparsed(error: &clap::Error, json: bool) -> Result<(), Failure> {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayVersion if json => Output::print(&format!("{:#}", args::versions())),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Colours, where stdout is a terminal, are clap's business; a reader that has gone is none of ours.
            match error.print() {
                Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::NobodyReads),
                other => Ok(other?),
            }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !json => {
            // Goes to stderr; where even that is closed, the exit code has to do.
            let _ = error.print();
            Err(Failure::Usage)
        }
        _ => {
            let (message, usage) = usage_error(&error.render().to_string());
            Err(Failure::usage(anyhow::anyhow!(message), format!("{usage}see 'cloudlet --help'")))
        }
    }
}

/// Of what clap says about a wrong command line, the message and the usage.
fn usage_error(rendered: &str) -> (String, String) {
    if !rendered.starts_with("error: ") {
        return ("a command is missing".to_owned(), String::new());
    }
    let text = rendered.trim_start_matches("error: ");
    let (message, rest) = text.split_once("\n\nUsage: ").unwrap_or((text, ""));
    let message =
        message.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("For more information"));
    let usage = rest.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
    let usage = if usage.is_empty() { usage } else { format!("{usage}; ") };
    (message.collect::<Vec<_>>().join("\n"), usage)
}

fn completions(shell: clap_complete::Shell, output: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cloudlet", &mut script);
    let script = String::from_utf8_lossy(&script);
    output.result(
        || script.clone().into_owned(),
        || serde_json::json!({"shell": shell.to_string(), "script": script}),
    )
}

/// The configuration, with what the flags of a command and the global ones set.
fn load(
    global: &Global,
    mut flags: Vec<configuration::Setting>,
) -> Result<configuration::Effective, Failure> {
    for (flag, field, value) in [
        ("--state-dir", "node.state_dir", &global.state_dir),
        ("--image-store", "node.image_store", &global.image_store),
    ] {
        if let Some(value) = value {
            // Flags are typed where the shell stands; files and variables are read anywhere.
            let absolute = std::path::absolute(value).ok().and_then(|path| path.to_str().map(str::to_owned));
            flags.push(setting(flag, field, absolute.as_ref().unwrap_or(value)));
        }
    }
    flags.extend(global.set.iter().cloned());
    let sources = configuration::Sources::here(global.config.clone(), flags);
    configuration::load(&sources).map_err(|error| {
        let next = error.next();
        Failure::usage(error, next)
    })
}

fn setting(flag: &str, field: &str, value: &str) -> configuration::Setting {
    configuration::Setting { flag: flag.to_owned(), field: field.to_owned(), value: value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage_of(line: &str) -> (String, String) {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        usage_error(&error.render().to_string())
    }

    #[test]
    fn usage_errors_are_short_and_say_the_usage() {
        let (message, usage) = usage_of("cloudlet image build base --forse");
        assert!(message.starts_with("unexpected argument '--forse' found\n  tip: "), "{message}");
        assert_eq!(usage, "cloudlet image build --force <RECIPE>; ");
        let (message, usage) = usage_of("cloudlet vm start");
        assert!(message.contains("<SERVICE>") && message.contains("not provided"), "{message}");
        assert!(usage.starts_with("cloudlet vm start"), "{usage}");
        let (message, _) = usage_of("cloudlet --set nonsense config show");
        assert!(message.contains("write SECTION.FIELD=VALUE") && !message.contains("For more"), "{message}");
        assert_eq!(usage_of("cloudlet vm"), ("a command is missing".to_owned(), String::new()));
    }
}
