//! What is printed for people.

use std::fmt::Write;

use simulations::lab::Ended;
use simulations::lab::control::Status;
use simulations::medium::counters::Tally;

/// A lab that has come up.
pub fn up(status: &Status) -> String {
    let mut text =
        format!("lab '{}' is up: {} hosts, process {}\n", status.name, status.hosts.len(), status.pid);
    for host in &status.hosts {
        let _ = writeln!(text, "  {:<16} {}", host.name, host.address);
    }
    text
}

/// What `down` did.
pub fn ended(name: &str, ended: Ended) -> String {
    let first = match ended.was_running {
        true => format!("lab '{name}' has ended"),
        false => format!("lab '{name}' was not running"),
    };
    match ended.leftovers {
        0 => format!("{first}\n"),
        count => format!("{first}; ended {count} programs that were left in it\n"),
    }
}

fn tally(tally: Tally) -> String {
    format!("{:>9} {:>12}", tally.frames, tally.ip_bytes)
}

/// Hosts, links and their counters.
pub fn status(status: &Status) -> String {
    // Writing to a string cannot fail.
    let mut text = format!(
        "lab '{}', process {}, up for {:.1} s; a frame was late by {:.1} ms at most since the last status\n\n",
        status.name,
        status.pid,
        status.uptime_ms as f64 / 1e3,
        status.worst_lateness_us as f64 / 1e3,
    );
    if status.overload_frames > 0 {
        let _ = writeln!(
            text,
            "OVERLOAD: {} frames were dropped, too many were on their way\n",
            status.overload_frames
        );
    }
    let wide = status.hosts.iter().map(|host| host.name.len()).max().unwrap_or(0).max(4);
    let _ = writeln!(
        text,
        "{:wide$} {:<15} {:>9} {:>12} {:>9} {:>12} {:>7} {:>7}",
        "host", "address", "sent", "IP bytes", "received", "IP bytes", "unreach", "overrun"
    );
    for host in &status.hosts {
        let counters = &host.counters;
        let _ = writeln!(
            text,
            "{:wide$} {:<15} {} {} {:>7} {:>7}",
            host.name,
            host.address.to_string(),
            tally(counters.sent),
            tally(counters.received),
            counters.unreachable,
            host.overrun_frames,
        );
    }
    let _ = writeln!(
        text,
        "\n{:wide$}    {:wide$} {:<4} {:>9} {:>8} {:>8} {:<6} {:>9} {:>9} {:>12} {:>7} {:>7} {:>7}",
        "from",
        "to",
        "",
        "rate",
        "delay",
        "jitter",
        "loss",
        "offered",
        "arrived",
        "IP bytes",
        "lost",
        "queue",
        "cut"
    );
    for link in &status.links {
        let (settings, counters) = (&link.settings, &link.counters);
        let _ = writeln!(
            text,
            "{:wide$} -> {:wide$} {:<4} {:>9} {:>8} {:>8} {:<6} {:>9} {} {:>7} {:>7} {:>7}",
            link.from,
            link.to,
            if link.up { "up" } else { "CUT" },
            settings.rate.unwrap_or_default(),
            settings.delay.unwrap_or_default(),
            settings.jitter.unwrap_or_default(),
            settings.loss.unwrap_or_default(),
            counters.offered.frames,
            tally(counters.delivered),
            counters.dropped.loss,
            counters.dropped.queue,
            counters.dropped.cut,
        );
    }
    text
}
