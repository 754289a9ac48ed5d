//! `bench-mesh`: what the mesh costs when nothing happens, and how fast it is when something does, beside serf.
//!
//! For each size and radio, one lab per system stands at the same time, with the same hosts, links and counters. In
//! each host runs one process: the mesh's example program `mesh_node` (libp2p, certificates of a mission), or a serf
//! agent. The stages go side by side: join, settle, idle, then changes (one at a time in all labs, so that nobody's
//! burst disturbs another's times), then crashes. The long split has labs of its own beside all that.
//!
//! Bytes are those of IP packets that a host put on the air, counted by the lab. Times are of this process: a line that
//! a node prints counts when it is read here, for all systems alike.
//!
//! Ends with 0 if all aims that could be judged are met, with 1 if one is missed or it failed, with 2 on wrong usage.
//! What a killed run leaves behind in its labs, the next one ends (or `cloudlet-lab down bench-full-cloudlets` and so on).

#![forbid(unsafe_code)]

mod aims;
mod arguments;
mod clock;
mod fleet;
mod machine;
mod plan;
mod report;
mod split;
mod stages;
mod system;
mod table;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use arguments::Arguments;
use report::{Phase, Report, Split};

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-mesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints, writes; whether no aim was missed.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let systems = arguments.systems();
    for system in systems.iter().chain(&arguments.split_systems()) {
        system.check(arguments)?;
    }
    let machine = machine::look();
    println!("{machine}");
    // The program's place on the machine is nobody's business.
    let command = [env!("CARGO_BIN_NAME").to_owned()].into_iter().chain(std::env::args().skip(1));
    let command = command.collect::<Vec<_>>().join(" ");
    let report = |phases: &[Phase], splits: &[Split]| Report {
        machine: machine.clone(),
        command: command.clone(),
        phases: phases.to_vec(),
        splits: splits.to_vec(),
        aims: aims::judge(phases, splits),
    };
    let write = |report: &Report| match &arguments.json {
        Some(path) => report.write(path).with_context(|| format!("cannot write {}", path.display())),
        None => Ok(()),
    };
    let (phases, splits) = std::thread::scope(|scope| {
        let splits = scope.spawn(|| split::all(arguments));
        let phases = plan::all(arguments, &systems, |phases| write(&report(phases, &[])));
        let splits = splits.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        anyhow::Ok((phases?, splits?))
    })?;
    let report = report(&phases, &splits);
    write(&report)?;
    print!("\n{}", table::markdown(&report));
    if let Some(path) = &arguments.json {
        println!("\nraw results: {}", path.display());
    }
    Ok(report.aims.iter().all(|aim| aim.met))
}
