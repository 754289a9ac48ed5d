//! All rows, one after the other.

use anyhow::Context;

use super::arguments::Arguments;
use super::demo_support::cloudlet;
use super::fleet::{Fleet, Link};
use super::moves;
use super::report::Row;

/// Measures; gives each row as it is done.
pub fn all(arguments: &Arguments, mut done: impl FnMut(Row) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("handoff-").tempdir_in("/tmp")?;
    let directory = arguments.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let result = Fleet::start(directory).and_then(|fleet| rows(&fleet, arguments, &mut done));
    if result.is_err() {
        cloudlet::show_logs(directory);
    }
    result
}

fn rows(
    fleet: &Fleet,
    arguments: &Arguments,
    done: &mut impl FnMut(Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for &workload in &arguments.workloads {
        for &rate_mbit in &arguments.rates {
            for &loss_percent in &arguments.loss {
                let link = Link { rate_mbit, rtt_ms: arguments.rtt_ms, loss_percent };
                fleet.set(link)?;
                let mut row = Row { system: "cloudlets", workload, link, moves: Vec::new(), failed: None };
                for number in 1..=arguments.moves {
                    match moves::one(fleet, arguments, workload, number == arguments.moves) {
                        Ok(moved) => {
                            eprintln!(
                                "{workload}, {rate_mbit} Mbit/s, {loss_percent} %: {} ms, still {} ms, {} bytes",
                                moved.total_ms, moved.downtime_ms, moved.wire_bytes
                            );
                            eprintln!("    {:?}", moved.split);
                            row.moves.push(moved);
                        }
                        Err(error) => {
                            eprintln!("{workload}, {rate_mbit} Mbit/s, {loss_percent} %: {error:#}");
                            row.failed = Some(format!("{error:#}"));
                            break;
                        }
                    }
                }
                done(row)?;
            }
        }
    }
    Ok(())
}
