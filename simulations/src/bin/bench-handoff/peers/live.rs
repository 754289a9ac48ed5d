//! QEMU's own live migration with storage, tuned for a thin link: what libvirt would tell two QEMUs, in its order.
//!
//! The destination has an empty layer over the same disks. A mirror (`sync=top`) copies what the guest has written into QEMU's
//! own NBD server there and keeps it up to date; then memory moves. Before the switch (`pause-before-switchover`) the guest
//! stands still, the mirror is brought to its end, and the rest of memory and the devices go. What one QEMU says reaches
//! the other by way of this program, not of the link, at once; a real peer waits a round trip for each.

use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::super::demo_support::now;
use super::guest::{DISK, Guest};
use super::qmp::{Event, Qmp};
use super::{Moved, Outcome};

/// Ports of the destination.
const MEMORY_PORT: u16 = 4444;
const DISK_PORT: u16 = 10809;
/// How long QEMU may let the guest stand still, ms: as long as a cloudlet's move may.
const DOWNTIME_LIMIT_MS: u64 = 700;
/// zstd's level for pages: at 10 Mbit/s the link is the narrow place up to here, and higher levels gain little.
const ZSTD_LEVEL: u8 = 9;
/// Pages that are remembered so that changes can be sent: all of the guest's.
const XBZRLE_CACHE_BYTES: u64 = 256 << 20;

/// How memory moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Several connections, each compressing with zstd.
    Multifd,
    /// Differences to what was sent of a page before.
    Xbzrle,
    /// One pass while the guest runs; then it runs at the destination and fetches what it touches.
    Postcopy,
}

impl Way {
    fn capabilities(self) -> &'static [&'static str] {
        match self {
            Self::Multifd => &["events", "pause-before-switchover", "auto-converge", "multifd"],
            Self::Xbzrle => &["events", "pause-before-switchover", "auto-converge", "xbzrle"],
            Self::Postcopy => &["events", "pause-before-switchover", "postcopy-ram", "postcopy-preempt"],
        }
    }

    fn parameters(self) -> Value {
        match self {
            Self::Multifd => {
                json!({ "downtime-limit": DOWNTIME_LIMIT_MS, "multifd-channels": 2, "multifd-compression": "zstd", "multifd-zstd-level": ZSTD_LEVEL })
            }
            Self::Xbzrle => {
                json!({ "downtime-limit": DOWNTIME_LIMIT_MS, "xbzrle-cache-size": XBZRLE_CACHE_BYTES })
            }
            Self::Postcopy => json!({ "downtime-limit": DOWNTIME_LIMIT_MS }),
        }
    }

    fn tell(self, monitor: &mut Qmp) -> anyhow::Result<()> {
        let on = |name: &&str| json!({ "capability": name, "state": true });
        let capabilities: Vec<_> = self.capabilities().iter().map(on).collect();
        monitor.ask("migrate-set-capabilities", json!({ "capabilities": capabilities }))?;
        monitor.ask("migrate-set-parameters", self.parameters()).map(drop)
    }
}

/// Moves the guest; calls `moved` when it runs at the destination.
pub fn migrate(
    way: Way,
    source: &mut Guest,
    target: &mut Guest,
    until: Instant,
    moved: impl FnOnce(),
) -> anyhow::Result<Outcome> {
    let begun = now();
    let went = go(way, source, target, until, moved)?;
    let total = begun.elapsed();
    let qemu = source.monitor.ask("query-migrate", json!({}))?;
    if qemu["status"] == "failed" {
        bail!("QEMU gave the migration up: {qemu}");
    }
    Ok(match went {
        Some(downtime) => Outcome::Moved(Moved { total, downtime, qemu: Some(qemu) }),
        None => Outcome::Unfinished { after: total, qemu: Some(qemu) },
    })
}

/// How long the guest stood still; `None` if it is `until` before all is done.
fn go(
    way: Way,
    source: &mut Guest,
    target: &mut Guest,
    until: Instant,
    moved: impl FnOnce(),
) -> anyhow::Result<Option<std::time::Duration>> {
    if !mirror(source, target, until)? {
        return Ok(None);
    }
    way.tell(&mut target.monitor)?;
    way.tell(&mut source.monitor)?;
    let place = format!("tcp:{}:{MEMORY_PORT}", target.address.ip());
    target.monitor.ask("migrate-incoming", json!({ "uri": place }))?;
    source.monitor.ask("migrate", json!({ "uri": place }))?;
    let Some(stopped) = pre_copy(way, &mut source.monitor, until)? else { return Ok(None) };
    if !end_mirror(source, target, until)? {
        return Ok(None);
    }
    source.monitor.ask("migrate-continue", json!({ "state": "pre-switchover" }))?;
    let resumed = target.monitor.wait(until, |event| (event.name == "RESUME").then_some(event.at));
    let Some(resumed) = resumed.context("the destination")? else { return Ok(None) };
    moved();
    let ended = source.monitor.wait(until, |event| ended(event, "completed"))?;
    ended.map(|ended| ended.map(|()| resumed.saturating_sub(stopped))).transpose()
}

/// Copies the disk; false if that is not done in time.
fn mirror(source: &mut Guest, target: &mut Guest, until: Instant) -> anyhow::Result<bool> {
    let server =
        json!({ "type": "inet", "host": target.address.ip().to_string(), "port": DISK_PORT.to_string() });
    target.monitor.ask("nbd-server-start", json!({ "addr": { "type": "inet", "data": { "host": target.address.ip().to_string(), "port": DISK_PORT.to_string() } } }))?;
    target.monitor.ask(
        "block-export-add",
        json!({ "type": "nbd", "id": "far", "node-name": DISK, "writable": true, "name": "far" }),
    )?;
    source.monitor.ask(
        "blockdev-add",
        json!({ "driver": "nbd", "node-name": "far", "server": server, "export": "far" }),
    )?;
    // Changes are noted by page of the guest, which sends the least again.
    source.monitor.ask(
        "blockdev-mirror",
        json!({ "job-id": "mirror", "device": DISK, "target": "far", "sync": "top", "granularity": 4096 }),
    )?;
    let ready = source.monitor.wait(until, |event| match event.name.as_str() {
        "BLOCK_JOB_READY" => Some(Ok(())),
        "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_ERROR" => Some(Err(anyhow::anyhow!("{event:?}"))),
        _ => None,
    })?;
    Ok(ready.transpose().context("the disk's mirror")?.is_some())
}

/// Memory moves while the guest runs; gives when it came to stand still.
fn pre_copy(way: Way, monitor: &mut Qmp, until: Instant) -> anyhow::Result<Option<std::time::Duration>> {
    let mut stopped = None;
    loop {
        let next = monitor.wait(until, |event| match event.name.as_str() {
            "STOP" => {
                stopped = Some(event.at);
                None
            }
            "MIGRATION_PASS" if way == Way::Postcopy && event.data["pass"] == 2 => Some(Ok(false)),
            _ => ended(event, "pre-switchover").map(|ended| ended.map(|()| true)),
        })?;
        match next.transpose()? {
            None => return Ok(None),
            Some(false) => drop(monitor.ask("migrate-start-postcopy", json!({}))?),
            Some(true) => return stopped.context("QEMU did not say when the guest stopped").map(Some),
        }
    }
}

fn end_mirror(source: &mut Guest, target: &mut Guest, until: Instant) -> anyhow::Result<bool> {
    source.monitor.ask("block-job-cancel", json!({ "device": "mirror" }))?;
    let done = |event: &Event| (event.name == "BLOCK_JOB_COMPLETED").then_some(());
    if source.monitor.wait(until, done)?.is_none() {
        return Ok(false);
    }
    // The guest could not have its disk as long as somebody else may write to it.
    target.monitor.ask("nbd-server-stop", json!({}))?;
    Ok(true)
}

/// Whether the migration has come to this, or has failed.
fn ended(event: &Event, wanted: &str) -> Option<anyhow::Result<()>> {
    if event.name != "MIGRATION" {
        return None;
    }
    match event.data["status"].as_str() {
        Some(status) if status == wanted => Some(Ok(())),
        Some("failed" | "cancelled" | "postcopy-paused") => {
            Some((|| bail!("QEMU gave the migration up: {}", event.data))())
        }
        _ => None,
    }
}
