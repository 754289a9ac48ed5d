//! What was promised of a handoff of the speech service over 10 Mbit/s and 50 ms to a cloudlet that holds the Service VM.

use super::arguments::System;
use super::report::{Aim, Daemons, Move, Row};

/// A figure of a move, and the most that its median may be.
struct Promise {
    what: &'static str,
    unit: &'static str,
    most: f64,
    of: fn(&Move) -> Option<f64>,
}

const PROMISES: [Promise; 4] = [
    Promise { what: "total", unit: "ms", most: 2000.0, of: |moved| Some(moved.total_ms as f64) },
    Promise { what: "downtime", unit: "ms", most: 700.0, of: |moved| Some(moved.downtime_ms as f64) },
    Promise {
        what: "processor",
        unit: "cores",
        most: 1.0,
        of: |moved| moved.daemons.as_ref().map(|it| it.source_cores.max(it.destination_cores)),
    },
    Promise {
        what: "memory beyond the VM",
        unit: "MiB",
        most: 64.0,
        of: |moved| {
            let most = |it: &Daemons| it.source_memory_bytes.max(it.destination_memory_bytes);
            moved.daemons.as_ref().map(|it| most(it) as f64 / 1_048_576.0)
        },
    },
];

/// How many times fewer bytes than QEMU's own live migration, at least; whichever of its ways takes the fewest.
const FEWER: f64 = 50.0;

/// Whether they were kept, where that can be said.
pub fn judge(rows: &[Row]) -> Vec<Aim> {
    let judged = |row: &&Row| row.link.rate_mbit == 10 && row.link.rtt_ms == 50 && row.link.loss_percent == 0;
    // Nothing was promised of a guest that writes for the sake of writing.
    let ours = |row: &&Row| row.system == System::Cloudlets && row.workload.rates().is_none();
    let peers: Vec<&Row> = rows.iter().filter(judged).filter(|row| row.system.is_live_migration()).collect();
    rows.iter().filter(judged).filter(ours).flat_map(|row| of_row(row, &peers)).collect()
}

fn of_row(row: &Row, peers: &[&Row]) -> Vec<Aim> {
    let aim = |promise: &Promise| {
        let found = row.median(promise.of)?;
        let what = format!("{}, median of {}", promise.what, row.workload);
        Some(Aim { what, bound: promise.most, unit: promise.unit, found, met: found <= promise.most })
    };
    PROMISES.iter().filter_map(aim).chain(fewer_bytes(row, peers)).collect()
}

fn fewer_bytes(row: &Row, peers: &[&Row]) -> Option<Aim> {
    let theirs = peers.iter().filter(|peer| peer.workload == row.workload);
    let least = theirs.filter_map(|peer| peer.bytes()).min_by(f64::total_cmp)?;
    let found = least / row.bytes()?;
    let what = format!("fewer bytes than any live migration, {}", row.workload);
    Some(Aim { what, bound: FEWER, unit: "times", found, met: found >= FEWER })
}

#[cfg(test)]
mod tests {
    use super::super::air::Link;
    use super::super::arguments::Workload;
    use super::super::report::Unfinished;
    use super::*;

    #[test]
    fn bytes_are_compared_with_the_best_live_migration_even_if_none_finished() {
        let link = Link { rate_mbit: 10, rtt_ms: 50, loss_percent: 0 };
        let row = |system| Row::new(system, Workload::Speech, link);
        let mut ours = row(System::Cloudlets);
        ours.moves.push(Move {
            from: "one".to_owned(),
            total_ms: 1500,
            downtime_ms: 800,
            client_ms: None,
            wire_bytes: 1_000_000,
            load: 0.0,
            daemons: None,
            qemu: None,
        });
        let given_up = |system, wire_bytes| {
            let unfinished = Some(Unfinished { after_ms: 180_000, wire_bytes, qemu: None });
            Row { unfinished, ..row(system) }
        };
        let peers = [
            given_up(System::Multifd, 49_000_000),
            given_up(System::Postcopy, 90_000_000),
            row(System::Rsync),
        ];
        let aims = judge(&[&[ours][..], &peers].concat());
        let told: Vec<_> = aims.iter().map(|aim| (aim.found, aim.met)).collect();
        assert_eq!(told, [(1500.0, true), (800.0, false), (49.0, false)]);
    }
}
