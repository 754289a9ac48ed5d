//! What else could move the VM: the same Service VM, woken up from the same files, doing the same work, over a link like that
//! between the cloudlets.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

mod guest;
mod live;
mod qmp;
mod rsync;

use super::air::{Air, Link, PEERS};
use super::arguments::{Arguments, System, Workload};
use super::client::{self, Service};
use super::demo_support::now;
use super::machine;
use super::report::{Move, Row, Unfinished};
use guest::{Guest, Image, SERVICE_PORT};
use live::Way;
use rsync::Daemon;

/// The guest's layer of the disk, in the directory of each side.
const DISK_FILE: &str = "disk.qcow2";

/// What a peer did.
enum Outcome {
    Moved(Moved),
    /// Given up.
    Unfinished {
        after: Duration,
        qemu: Option<Value>,
    },
}

struct Moved {
    total: Duration,
    downtime: Duration,
    /// What QEMU says of it.
    qemu: Option<Value>,
}

/// Measures one row.
pub fn row(
    air: &Air,
    arguments: &Arguments,
    directory: &Path,
    system: System,
    workload: Workload,
    link: Link,
) -> Row {
    let mut row = Row::new(system, workload, link);
    for _ in 0..arguments.peer_moves {
        if let Err(error) = one(air, arguments, directory, &mut row) {
            row.failed = Some(format!("{error:#}"));
            break;
        }
    }
    row
}

/// Moves a VM once, and notes it in the row.
fn one(air: &Air, arguments: &Arguments, directory: &Path, row: &mut Row) -> anyhow::Result<()> {
    let image = Image::find(row.workload.image())?;
    let room = tempfile::tempdir_in(directory)?;
    let (here, there) = (room.path().join("here"), room.path().join("there"));
    let [source_host, target_host] = PEERS.map(|name| air.lab.host(name));
    let (source_host, target_host) = (source_host?, target_host?);
    for side in [&here, &there] {
        std::fs::create_dir(side)?;
        image.overlay(&side.join(DISK_FILE))?;
    }
    let mut source = Guest::start(source_host, &image, true, &here.join(DISK_FILE))?;
    source.load(&image.directory.join("device.stream"))?;
    let way = match row.system {
        System::Multifd => Some(Way::Multifd),
        System::Xbzrle => Some(Way::Xbzrle),
        System::Postcopy => Some(Way::Postcopy),
        System::Rsync => None,
        System::Cloudlets => anyhow::bail!("a cloudlet is no peer"),
    };
    let daemon = match way {
        Some(_) => None,
        None => {
            source.save(&there.join(rsync::STATE_FILE))?;
            Some(Daemon::start(target_host, &there)?)
        }
    };
    source.resume()?;
    let mut target = match way {
        Some(_) => Some(Guest::start(target_host, &image, false, &there.join(DISK_FILE))?),
        None => None,
    };
    let places = [source_host, target_host].map(|host| (host.address(), SERVICE_PORT).into());
    let service = Service::new(air.hand()?, places);
    let begun = client::begin(&service, row.workload)?;

    let stop = AtomicBool::new(false);
    let (outcome, asked, wire_bytes) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| client::beside(&service, row.workload, true, &stop));
        std::thread::sleep(arguments.work());
        let before = air.wire_bytes(PEERS);
        let until = now() + arguments.peer_limit();
        let outcome = match (way, &mut target, &daemon) {
            (Some(way), Some(target), _) => {
                live::migrate(way, &mut source, target, until, || service.moved())
            }
            (_, _, Some(daemon)) => {
                let done = rsync::transfer(&mut source, (source_host, &here), daemon, &image, until);
                done.map(|(outcome, guest)| {
                    target = guest;
                    outcome
                })
            }
            _ => Err(anyhow::anyhow!("a peer without a way")),
        };
        if !matches!(outcome, Ok(Outcome::Unfinished { .. })) {
            service.moved();
        }
        let wire = air.wire_bytes(PEERS);
        // The source's socket is closed, so nobody waits for an answer of a guest that stands still.
        drop(source);
        stop.store(true, Ordering::Relaxed);
        if !matches!(outcome, Ok(Outcome::Moved(_))) {
            service.give_up();
        }
        let asked = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (outcome, asked, before.and_then(|before| Ok(wire? - before)))
    });
    let wire_bytes = wire_bytes?;
    match outcome? {
        Outcome::Unfinished { after, qemu } => {
            row.unfinished = Some(Unfinished { after_ms: after.as_millis() as u64, wire_bytes, qemu });
        }
        Outcome::Moved(moved) => {
            let asked = asked.context("after the move");
            row.moves.push(Move {
                from: PEERS[0].to_owned(),
                total_ms: moved.total.as_millis() as u64,
                downtime_ms: moved.downtime.as_millis() as u64,
                client_ms: asked.as_ref().ok().and_then(|asked| asked.longest_ms),
                wire_bytes,
                load: machine::load(),
                daemons: None,
                qemu: moved.qemu,
            });
            client::check(&service, row.workload, begun, &asked?).context("after the move")?;
        }
    }
    Ok(())
}
