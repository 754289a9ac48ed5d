//! Results as Markdown.

use std::fmt::Write;

use super::report::{Report, Row};

/// A table of all rows, then the aims.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        text,
        "| workload | link | system | total, s: median (most) | standing still, ms: median (most) | a client waited, ms | kB on the wire: median (most) | cores, source / destination | MiB more, source / destination | moves |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|---|")?;
    report.rows.iter().try_for_each(|row| line(text, row))?;
    writeln!(text)?;
    for aim in &report.aims {
        let met = if aim.met { "met" } else { "MISSED" };
        writeln!(text, "- {}: {:.2} {} (aim: {}): {met}", aim.what, aim.found, aim.unit, aim.most)?;
    }
    Ok(())
}

fn line(text: &mut String, row: &Row) -> std::fmt::Result {
    let link = format!("{} Mbit/s, {} ms, {} %", row.link.rate_mbit, row.link.rtt_ms, row.link.loss_percent);
    write!(text, "| {} | {link} | {} ", row.workload, row.system)?;
    let both = |of: fn(&super::moves::Move) -> f64, digits: usize| match (row.median(of), row.most(of)) {
        (Some(median), Some(most)) => format!("{median:.digits$} ({most:.digits$})"),
        _ => "-".to_owned(),
    };
    let two = |source: fn(&super::moves::Move) -> f64,
               destination: fn(&super::moves::Move) -> f64,
               digits: usize| {
        match (row.median(source), row.median(destination)) {
            (Some(source), Some(destination)) => format!("{source:.digits$} / {destination:.digits$}"),
            _ => "-".to_owned(),
        }
    };
    let client = row.moves.iter().filter_map(|moved| moved.client_ms).max();
    write!(text, "| {} ", both(|moved| moved.total_ms as f64 / 1000.0, 2))?;
    write!(text, "| {} ", both(|moved| moved.downtime_ms as f64, 0))?;
    write!(text, "| {} ", client.map_or("-".to_owned(), |ms| ms.to_string()))?;
    write!(text, "| {} ", both(|moved| moved.wire_bytes as f64 / 1000.0, 0))?;
    write!(text, "| {} ", two(|moved| moved.source_cores, |moved| moved.destination_cores, 2))?;
    write!(
        text,
        "| {} ",
        two(
            |moved| moved.source_memory_bytes as f64 / 1_048_576.0,
            |moved| moved.destination_memory_bytes as f64 / 1_048_576.0,
            0
        )
    )?;
    let failed = row.failed.as_ref().map_or(String::new(), |why| format!(", then: {why}"));
    writeln!(text, "| {}{failed} |", row.moves.len())
}
