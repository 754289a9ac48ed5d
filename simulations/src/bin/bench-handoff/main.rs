//! `bench-handoff`: a running Service VM moves to and fro between two cloudlets in the lab.
//!
//! One lab with two cloudlets (the real daemon) and a handheld that keeps a local address for the service
//! (`handheld serve`). The link between the cloudlets has the rate, delay and loss of each row; the handheld's links are
//! fast, so that what it sees of a move is the move.
//!
//! Bytes are IP packets between the two cloudlets, both ways, counted by the lab: mesh, encryption, transport and all.
//! Total and downtime are what the source says; in the last move of a row a client asks for the service's health again and
//! again, and the longest answer is what it saw of the move. What the daemons say in their logs tells where the time went.
//!
//! The same is measured of QEMU's own live migration and of rsync, on two more hosts of the lab (see `peers`).
//!
//! Ends with 0 if all aims that could be judged are met, with 1 if one is missed or it failed, with 2 on wrong usage.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;

mod aims;
mod air;
mod arguments;
mod client;
#[path = "../demo_support/mod.rs"]
mod demo_support;
mod fleet;
mod machine;
mod moves;
mod peers;
mod process;
mod report;
mod rows;
mod split;
mod table;

use arguments::Arguments;
use report::{Report, Row};

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-handoff: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints, writes; whether no aim was missed.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "the lab needs root: sudo make bench-handoff");
    let machine = machine::look();
    println!("{machine}");
    // The program's place on the machine is nobody's business.
    let command = [env!("CARGO_BIN_NAME").to_owned()].into_iter().chain(std::env::args().skip(1));
    let command = command.collect::<Vec<_>>().join(" ");
    let earlier = match &arguments.json {
        Some(path) if arguments.resume => {
            Report::rows_of(path).with_context(|| format!("cannot go on with {}", path.display()))?
        }
        _ => Vec::new(),
    };
    let known: Vec<rows::Wanted> = earlier.iter().map(|row| (row.system, row.workload, row.link)).collect();
    println!("{} rows are known", known.len());
    let commit = machine.commit.clone();
    let mut report = Report { machine, command, aims: aims::judge(&earlier), rows: earlier };
    rows::all(
        arguments,
        |wanted| !known.contains(wanted),
        |row| {
            report.rows.push(Row { commit: commit.clone(), ..row });
            report.aims = aims::judge(&report.rows);
            match &arguments.json {
                Some(path) => report.write(path).with_context(|| format!("cannot write {}", path.display())),
                None => Ok(()),
            }
        },
    )?;
    print!("\n{}", table::markdown(&report));
    if let Some(path) = &arguments.json {
        println!("\nraw results: {}", path.display());
    }
    Ok(report.aims.iter().all(|aim| aim.met))
}
