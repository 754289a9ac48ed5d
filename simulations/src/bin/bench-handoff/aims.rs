//! What was promised of a handoff over 10 Mbit/s and 50 ms to a cloudlet that holds the Service VM.

use super::moves::Move;
use super::report::{Aim, Row};

/// A figure of a move, and the most that its median may be.
struct Promise {
    what: &'static str,
    unit: &'static str,
    most: f64,
    of: fn(&Move) -> f64,
}

const PROMISES: [Promise; 4] = [
    Promise { what: "total", unit: "ms", most: 2000.0, of: |moved| moved.total_ms as f64 },
    Promise { what: "downtime", unit: "ms", most: 700.0, of: |moved| moved.downtime_ms as f64 },
    Promise {
        what: "processor",
        unit: "cores",
        most: 1.0,
        of: |moved| moved.source_cores.max(moved.destination_cores),
    },
    Promise {
        what: "memory beyond the VM",
        unit: "MiB",
        most: 64.0,
        of: |moved| moved.source_memory_bytes.max(moved.destination_memory_bytes) as f64 / 1_048_576.0,
    },
];

/// Whether they were kept, where that can be said.
pub fn judge(rows: &[Row]) -> Vec<Aim> {
    let judged = |row: &&Row| row.link.rate_mbit == 10 && row.link.rtt_ms == 50 && row.link.loss_percent == 0;
    rows.iter().filter(judged).flat_map(of_row).collect()
}

fn of_row(row: &Row) -> Vec<Aim> {
    let aim = |promise: &Promise| {
        let found = row.median(promise.of)?;
        let what = format!("{}, median of {}", promise.what, row.workload);
        Some(Aim { what, most: promise.most, unit: promise.unit, found, met: found <= promise.most })
    };
    PROMISES.iter().filter_map(aim).collect()
}
