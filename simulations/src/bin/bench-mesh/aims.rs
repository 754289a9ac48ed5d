//! What the mesh is held to, and whether it keeps it. The figures are those of the project's plan for the mesh, derived
//! from what serf takes: the bytes of its WAN profile with the speed of its LAN profile.

use crate::report::{Aim, Phase, Split};
use crate::system::System;

/// Bytes per second that an idle node sends, at 30 nodes.
const IDLE_BYTES_PER_S: f64 = 75.0;
/// Seconds until half of the nodes know a change, at 30 nodes.
const MEDIAN_S: f64 = 1.2;
/// Seconds until all know it, at 30 nodes.
const LAST_S: f64 = 2.0;
/// What 50 nodes may take of all that.
const AT_50: f64 = 1.2;
/// Seconds until the neighbours of a crashed node know.
const CRASH_S: f64 = 10.0;
/// Seconds after contact until two halves are one.
const MERGE_S: f64 = 5.0;

/// All aims that what was measured says something about.
pub fn judge(phases: &[Phase], splits: &[Split]) -> Vec<Aim> {
    let mut aims = Vec::new();
    let ours =
        phases.iter().filter(|phase| phase.system == System::Cloudlets.title() && phase.radio == "full");
    for phase in ours {
        let n = phase.nodes;
        let factor = match n {
            30 => Some(1.0),
            50 => Some(AT_50),
            _ => None,
        };
        if let Some(factor) = factor {
            // Who never heard makes the last infinitely late.
            let all_heard = phase.changes.missed == 0;
            let last = phase.changes.seconds.last.filter(|_| all_heard);
            aims.push(aim(
                format!("{n} nodes: sent per idle node"),
                IDLE_BYTES_PER_S * factor,
                "B/s",
                Some(phase.idle.bytes_per_s_mean),
            ));
            aims.push(aim(
                format!("{n} nodes: a change is known, median"),
                MEDIAN_S * factor,
                "s",
                phase.changes.seconds.median,
            ));
            aims.push(aim(format!("{n} nodes: a change is known, last"), LAST_S * factor, "s", last));
        }
        if phase.crashes.count > 0 {
            let found = phase.crashes.neighbours.as_ref().and_then(|it| it.last);
            aims.push(aim(format!("{n} nodes: neighbours know of a crash, last"), CRASH_S, "s", found));
        }
    }
    for split in splits.iter().filter(|split| split.system == System::Cloudlets.title()) {
        let what = format!("{} nodes: one again after a split of {:.0} s", split.nodes, split.split_s);
        aims.push(aim(what, MERGE_S, "s", split.converged_s.filter(|_| split.halves_were_right)));
    }
    aims
}

fn aim(what: String, most: f64, unit: &'static str, found: Option<f64>) -> Aim {
    let met = found.is_some_and(|found| found <= most);
    Aim { what, most, unit, found, met }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_found_is_not_met() {
        assert!(aim(String::new(), 2.0, "s", Some(2.0)).met);
        assert!(!aim(String::new(), 2.0, "s", Some(2.01)).met);
        assert!(!aim(String::new(), 2.0, "s", None).met);
        assert!(!aim(String::new(), 2.0, "s", Some(f64::NAN)).met);
    }
}
