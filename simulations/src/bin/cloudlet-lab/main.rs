//! `cloudlet-lab`: real programs on emulated radio. The library's module `lab` says how.

#![forbid(unsafe_code)]

mod arguments;
mod show;
mod up;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use nix::sched::{CloneFlags, setns};
use simulations::lab::control::{self, Command as Order};
use simulations::lab::{self, check};

use arguments::{Arguments, Command, Pair};

/// Exit code for wrong usage and topologies that cannot be; clap's own too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cloudlet-lab: {error:#}");
            let usage = error.chain().any(|cause| {
                cause.is::<lab::BadTopology>()
                    || matches!(cause.downcast_ref(), Some(lab::Error::Topology(_)))
            });
            if usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(up) => up::run(&up)?,
        Command::Down { lab } => {
            let ended = lab::down(&lab.name()?)?;
            say(&show::ended(&lab.name()?, ended))?;
        }
        Command::Cut { lab, pair } => {
            let orders = pair.both(|from, to| Order::Cut { from, to });
            control::command(&lab.name()?, orders)?;
        }
        Command::Heal { lab, hosts, one_way } => {
            let orders = match <[String; 2]>::try_from(hosts) {
                Ok([a, b]) => Pair { a, b, one_way }.both(|from, to| Order::Heal { from, to }),
                Err(_) => vec![Order::HealAll],
            };
            control::command(&lab.name()?, orders)?;
        }
        Command::Split { lab, groups } => {
            let groups = groups.iter().map(|group| group.split(',').map(str::to_owned).collect()).collect();
            control::command(&lab.name()?, vec![Order::Split { groups }])?;
        }
        Command::Set { lab, pair, settings } => {
            let change = settings.change();
            if change == Default::default() {
                eprintln!(
                    "cloudlet-lab: set changes nothing: give --rate, --delay, --jitter, --loss, --reorder or --queue"
                );
                return Ok(ExitCode::from(USAGE));
            }
            control::command(&lab.name()?, pair.both(|from, to| Order::Set { from, to, change }))?;
        }
        Command::Status { lab, json } => {
            let status = control::status(&lab.name()?)?;
            say(&if json { serde_json::to_string_pretty(&status)? + "\n" } else { show::status(&status) })?;
        }
        Command::Exec { lab, host, command } => return execute(&lab.name()?, &host, &command),
        Command::Check { json } => {
            let report = check::measure()?;
            say(&if json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() })?;
            return Ok(if report.good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes `command` inside a host.
fn execute(lab: &str, host: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let status = control::status(lab)?;
    let Some(found) = status.hosts.iter().find(|it| it.name == host) else {
        let names: Vec<&str> = status.hosts.iter().map(|host| host.name.as_str()).collect();
        bail!("lab '{lab}' has no host '{host}', but {}", names.join(", "));
    };
    let namespace = std::fs::File::open(&found.namespace)
        .with_context(|| format!("cannot enter host '{host}': are you root?"))?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter host '{host}': are you root?"))?;
    let Some((program, arguments)) = command.split_first() else { bail!("no command was given") };
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run '{program}' in host '{host}'"))
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
