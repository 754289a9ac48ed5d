//! All rows, one after the other.

use std::path::Path;

use anyhow::Context;

use super::air::{Air, Link};
use super::arguments::{Arguments, System, Workload};
use super::demo_support::cloudlet;
use super::fleet::Fleet;
use super::report::Row;
use super::{moves, peers};

/// What moves.
const IMAGES: [&str; 2] = ["speech", "writer"];

/// A row that is to be measured.
pub type Wanted = (System, Workload, Link);

/// Measures what is wanted of all that the arguments say; gives each row as it is done.
pub fn all(
    arguments: &Arguments,
    is_wanted: impl Fn(&Wanted) -> bool,
    mut done: impl FnMut(Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("handoff-").tempdir_in("/tmp")?;
    let directory = arguments.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let air = Air::start()?;
    let result = rows(&air, directory, arguments, &is_wanted, &mut done);
    if result.is_err() {
        IMAGES.iter().for_each(|image| cloudlet::show_logs(&directory.join(image)));
    }
    result
}

fn rows(
    air: &Air,
    directory: &Path,
    arguments: &Arguments,
    is_wanted: &impl Fn(&Wanted) -> bool,
    done: &mut impl FnMut(Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for &system in &arguments.systems {
        for image in IMAGES {
            let workloads = arguments.workloads.iter().filter(|workload| workload.image() == image);
            let all = workloads.flat_map(|it| links(arguments).map(move |link| (system, *it, link)));
            let wanted: Vec<Wanted> = all.filter(is_wanted).collect();
            // Only while it is measured: others have the machine to themselves.
            let fleet = match system {
                System::Cloudlets if !wanted.is_empty() => {
                    Some(Fleet::start(air, &directory.join(image), image)?)
                }
                _ => None,
            };
            for (system, workload, link) in wanted {
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
    Ok(())
}

fn links(arguments: &Arguments) -> impl Iterator<Item = Link> {
    let Arguments { rates, loss, rtt_ms, .. } = arguments;
    let link = |rate_mbit, loss_percent| Link { rate_mbit, rtt_ms: *rtt_ms, loss_percent };
    rates.iter().flat_map(move |rate| loss.iter().map(move |loss| link(*rate, *loss)))
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
