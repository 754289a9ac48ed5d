//! Results as Markdown.

use std::fmt::Write;

use crate::report::{Changes, Phase, Report, Split};

/// Tables of everything, then the aims.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, report);
    text
}

fn seconds(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

fn changes(changes: &Changes) -> String {
    let times = &changes.seconds;
    let missed = if changes.missed == 0 { String::new() } else { format!(", {} missed", changes.missed) };
    format!("{} / {} / {}{missed}", seconds(times.median), seconds(times.p95), seconds(times.last))
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    if !report.phases.is_empty() {
        writeln!(
            text,
            "| nodes, radio | system | joined, s (kB sent per node) | idle, B/s sent per node (most) | change known, s: median / p95 / last | not held back | bytes per change, all nodes | crash known, s: neighbours / everybody (last) | false alarms, links given up | load |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|---|---|---|---|")?;
        report.phases.iter().try_for_each(|phase| row(text, phase))?;
        writeln!(text)?;
    }
    if !report.splits.is_empty() {
        writeln!(
            text,
            "| split | system | idle while split, B/s per node | first contact, s | all one again, s | changes meanwhile |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|")?;
        report.splits.iter().try_for_each(|split| split_row(text, split))?;
        writeln!(text)?;
    }
    if !report.aims.is_empty() {
        writeln!(text, "| aim | at most | found | |\n|---|---|---|---|")?;
    }
    for aim in &report.aims {
        let found = aim.found.map_or("-".to_owned(), |found| format!("{found:.2} {}", aim.unit));
        let verdict = if aim.met { "met" } else { "**MISSED**" };
        writeln!(text, "| {} | {:.2} {} | {found} | {verdict} |", aim.what, aim.most, aim.unit)?;
    }
    Ok(())
}

fn row(text: &mut String, phase: &Phase) -> std::fmt::Result {
    let Phase { idle, crashes, .. } = phase;
    let missed = if crashes.missed == 0 { String::new() } else { format!(", {} missed", crashes.missed) };
    writeln!(
        text,
        "| {}, {} | {} | {} ({:.0}) | {:.0} ({:.0}) | {} | {} | {:.0} | {} / {}{missed} | {}, {} | {:.1} |",
        phase.nodes,
        phase.radio,
        phase.system,
        phase.joined_s.map_or("never".to_owned(), |value| format!("{value:.1}")),
        phase.bytes_before_idle / 1e3,
        idle.bytes_per_s_mean,
        idle.bytes_per_s_most,
        changes(&phase.changes),
        phase.changes_at_once.as_ref().map_or("-".to_owned(), changes),
        phase.bytes_per_change,
        seconds(crashes.neighbours.as_ref().and_then(|it| it.last)),
        seconds(crashes.everybody.last),
        idle.false_alarms,
        idle.links_given_up,
        phase.load[0],
    )
}

fn split_row(text: &mut String, split: &Split) -> std::fmt::Result {
    writeln!(
        text,
        "| {} nodes, {:.0} s{} | {} | {:.0} | {} | {} | {} |",
        split.nodes,
        split.split_s,
        if split.halves_were_right { "" } else { ", halves not right" },
        split.system,
        split.idle.bytes_per_s_mean,
        seconds(split.first_s),
        seconds(split.converged_s),
        split.changes,
    )
}
