//! All rows, one after the other.

use std::path::Path;

use anyhow::Context;

use super::air::{Air, Link};
use super::arguments::{Arguments, System, Workload};
use super::demo_support::cloudlet;
use super::fleet::Fleet;
use super::report::Row;
use super::{moves, peers};

/// Measures; gives each row as it is done.
pub fn all(arguments: &Arguments, mut done: impl FnMut(Row) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("handoff-").tempdir_in("/tmp")?;
    let directory = arguments.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let air = Air::start()?;
    let result = rows(&air, directory, arguments, &mut done);
    if result.is_err() {
        cloudlet::show_logs(directory);
    }
    result
}

fn rows(
    air: &Air,
    directory: &Path,
    arguments: &Arguments,
    done: &mut impl FnMut(Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for &system in &arguments.systems {
        // Only while it is measured: others have the machine to themselves.
        let fleet = match system {
            System::Cloudlets => Some(Fleet::start(air, directory)?),
            _ => None,
        };
        for &workload in &arguments.workloads {
            for &rate_mbit in &arguments.rates {
                for &loss_percent in &arguments.loss {
                    let link = Link { rate_mbit, rtt_ms: arguments.rtt_ms, loss_percent };
                    air.set(link)?;
                    let row = match &fleet {
                        Some(fleet) => of_cloudlets(fleet, arguments, workload, link),
                        None => peers::row(air, arguments, directory, system, workload, link),
                    };
                    say(&row);
                    done(row)?;
                }
            }
        }
    }
    Ok(())
}

fn of_cloudlets(fleet: &Fleet<'_>, arguments: &Arguments, workload: Workload, link: Link) -> Row {
    let mut row = Row::new(System::Cloudlets, workload, link);
    for number in 1..=arguments.moves {
        match moves::one(fleet, arguments, workload, number == arguments.moves) {
            Ok(moved) => row.moves.push(moved),
            Err(error) => {
                row.failed = Some(format!("{error:#}"));
                break;
            }
        }
    }
    row
}

fn say(row: &Row) {
    let Row { system, workload, link, .. } = row;
    let what = format!("{system}, {workload}, {} Mbit/s, {} %", link.rate_mbit, link.loss_percent);
    for moved in &row.moves {
        eprintln!(
            "{what}: {} ms, still {} ms, {} bytes",
            moved.total_ms, moved.downtime_ms, moved.wire_bytes
        );
        if let Some(daemons) = &moved.daemons {
            eprintln!("    {:?}", daemons.split);
        }
    }
    if let Some(unfinished) = &row.unfinished {
        eprintln!("{what}: given up after {} ms and {} bytes", unfinished.after_ms, unfinished.wire_bytes);
    }
    if let Some(why) = &row.failed {
        eprintln!("{what}: {why}");
    }
}
