//! Results as Markdown.

use std::fmt::Write;

use super::arguments::System;
use super::report::{Daemons, Move, Report, Row};

/// What cloudlets took, then what the others took beside them, then the aims.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    let ours: Vec<&Row> = report.rows.iter().filter(|row| row.system == System::Cloudlets).collect();
    if !ours.is_empty() {
        writeln!(
            text,
            "| workload | link | total, s: median (most) | standing still, ms: median (most) | a client waited, ms | kB on the wire: median (most) | cores, source / destination | MiB more, source / destination | moves |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|---|---|---|")?;
        ours.iter().try_for_each(|row| line(text, row))?;
        writeln!(text)?;
    }
    if report.rows.iter().any(|row| row.system != System::Cloudlets) {
        beside(text, &report.rows)?;
        writeln!(text)?;
    }
    for aim in &report.aims {
        let met = if aim.met { "met" } else { "MISSED" };
        writeln!(text, "- {}: {:.2} {} (aim: {}): {met}", aim.what, aim.found, aim.unit, aim.bound)?;
    }
    Ok(())
}

fn link(row: &Row) -> String {
    format!("{} Mbit/s, {} ms, {} %", row.link.rate_mbit, row.link.rtt_ms, row.link.loss_percent)
}

fn line(text: &mut String, row: &Row) -> std::fmt::Result {
    write!(text, "| {} | {} ", row.workload, link(row))?;
    let both = |of: fn(&Move) -> f64, digits: usize| {
        let of = |moved: &Move| Some(of(moved));
        match (row.median(of), row.most(of)) {
            (Some(median), Some(most)) => format!("{median:.digits$} ({most:.digits$})"),
            _ => "-".to_owned(),
        }
    };
    let two = |source: fn(&Daemons) -> f64, destination: fn(&Daemons) -> f64, digits: usize| {
        let median = |of: fn(&Daemons) -> f64| row.median(|moved| moved.daemons.as_ref().map(of));
        match (median(source), median(destination)) {
            (Some(source), Some(destination)) => format!("{source:.digits$} / {destination:.digits$}"),
            _ => "-".to_owned(),
        }
    };
    write!(text, "| {} ", both(|moved| moved.total_ms as f64 / 1000.0, 2))?;
    write!(text, "| {} ", both(|moved| moved.downtime_ms as f64, 0))?;
    write!(text, "| {} ", client(row))?;
    write!(text, "| {} ", both(|moved| moved.wire_bytes as f64 / 1000.0, 0))?;
    write!(text, "| {} ", two(|it| it.source_cores, |it| it.destination_cores, 2))?;
    write!(
        text,
        "| {} ",
        two(
            |it| it.source_memory_bytes as f64 / 1_048_576.0,
            |it| it.destination_memory_bytes as f64 / 1_048_576.0,
            0
        )
    )?;
    let failed = row.failed.as_ref().map_or(String::new(), |why| format!(", then: {why}"));
    writeln!(text, "| {}{failed} |", row.moves.len())
}

fn client(row: &Row) -> String {
    let longest = row.moves.iter().filter_map(|moved| moved.client_ms).max();
    longest.map_or("-".to_owned(), |ms| ms.to_string())
}

/// One line for each workload and link, with a column for each system.
fn beside(text: &mut String, rows: &[Row]) -> std::fmt::Result {
    let mut systems: Vec<System> = Vec::new();
    let mut places = Vec::new();
    for row in rows {
        if !systems.contains(&row.system) {
            systems.push(row.system);
        }
        if !places.contains(&(row.workload, row.link)) {
            places.push((row.workload, row.link));
        }
    }
    writeln!(
        text,
        "Total s / standing still ms / a client waited ms / MB on the wire (times the total, times the bytes of cloudlets):\n"
    )?;
    let names: Vec<String> = systems.iter().map(System::to_string).collect();
    writeln!(text, "| workload | link | {} |", names.join(" | "))?;
    writeln!(text, "|---|---|{}", "---|".repeat(systems.len()))?;
    for place in places {
        let of = |system| rows.iter().find(|row| row.system == system && (row.workload, row.link) == place);
        let ours = of(System::Cloudlets);
        let cells: Vec<String> =
            systems.iter().map(|system| of(*system).map_or("-".to_owned(), |row| cell(row, ours))).collect();
        let link = of(systems[0]).map_or(String::new(), link);
        writeln!(text, "| {} | {link} | {} |", place.0, cells.join(" | "))?;
    }
    Ok(())
}

fn cell(row: &Row, ours: Option<&Row>) -> String {
    let total = |row: &Row| row.median(|moved| Some(moved.total_ms as f64 / 1000.0));
    let megabytes = row.bytes().unwrap_or(f64::NAN) / 1e6;
    let times = |theirs: Option<f64>, ours: Option<f64>| match (theirs, ours) {
        (Some(theirs), Some(ours)) if ours > 0.0 => format!("×{:.1}", theirs / ours),
        _ => "-".to_owned(),
    };
    let ours = ours.filter(|_| row.system != System::Cloudlets);
    let bytes = times(row.bytes(), ours.and_then(Row::bytes));
    let mut text = match (total(row), &row.unfinished) {
        (Some(seconds), _) => {
            let still = row.median(|moved| Some(moved.downtime_ms as f64)).unwrap_or(f64::NAN);
            let mut text = format!("{seconds:.2} / {still:.0} / {} / {megabytes:.2}", client(row));
            if ours.is_some() {
                let _ = write!(text, " ({}, {bytes})", times(Some(seconds), ours.and_then(total)));
            }
            text
        }
        (None, Some(unfinished)) => {
            let seconds = unfinished.after_ms as f64 / 1000.0;
            let mut text = format!("not finished after {seconds:.0} s, {megabytes:.1} MB");
            if ours.is_some() {
                let _ = write!(text, " ({bytes})");
            }
            text
        }
        (None, None) => String::new(),
    };
    if let Some(why) = &row.failed {
        let _ = write!(text, " failed: {why}");
    }
    text
}
