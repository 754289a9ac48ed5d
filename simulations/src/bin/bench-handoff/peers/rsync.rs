//! Suspend, `rsync -z`, resume.
//!
//! The guest stands still, QEMU writes memory and devices to a file, and rsync brings this file and the disk's layer up to
//! date at the destination, which holds those of the Service VM as it was suspended: the best that rsync could find there.
//! Its daemon is used, without encryption. All the time the guest stands still.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use simulations::lab::Host;

use super::super::demo_support::now;
use super::guest::{Guest, Image};
use super::{DISK_FILE, Moved, Outcome};

/// QEMU's state of the guest, in the directory of each side.
pub const STATE_FILE: &str = "state";
const PORT: u16 = 8730;
/// rsync's unit: a page with its head in QEMU's stream.
const BLOCK_BYTES: u32 = 4096 + 8;
/// zstd's level, as for QEMU's own migration.
const ZSTD_LEVEL: u8 = 9;

/// rsync's daemon at the destination; ends with this.
pub struct Daemon<'a> {
    child: Child,
    host: Host<'a>,
    directory: PathBuf,
}

impl<'a> Daemon<'a> {
    pub fn start(host: Host<'a>, directory: &Path) -> anyhow::Result<Self> {
        let config = directory.with_extension("rsyncd");
        let text = format!(
            "use chroot = no\nuid = 0\ngid = 0\nreverse lookup = no\n[there]\npath = {}\nread only = no\n",
            directory.display()
        );
        std::fs::write(&config, text)?;
        let mut command = host.command("rsync");
        command.args(["--daemon", "--no-detach", &format!("--port={PORT}")]);
        command.arg(format!("--address={}", host.address())).arg("--config").arg(config);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Self { child, host, directory: directory.to_owned() })
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Moves the guest, whose files are in `from`; gives it at the destination, if that was done in time.
pub fn transfer(
    source: &mut Guest,
    (host, from): (Host<'_>, &Path),
    to: &Daemon<'_>,
    image: &Image,
    until: Instant,
) -> anyhow::Result<(Outcome, Option<Guest>)> {
    let begun = now();
    source.monitor.ask("stop", json!({}))?;
    source.save(&from.join(STATE_FILE))?;
    if !copy(host, from, to, until)? {
        return Ok((Outcome::Unfinished { after: begun.elapsed(), qemu: None }, None));
    }
    let mut target = Guest::start(to.host, image, false, &to.directory.join(DISK_FILE))?;
    target.load(&to.directory.join(STATE_FILE))?;
    target.resume()?;
    let total = begun.elapsed();
    Ok((Outcome::Moved(Moved { total, downtime: total, qemu: None }), Some(target)))
}

/// Runs rsync; false if it is not done in time.
fn copy(host: Host<'_>, from: &Path, to: &Daemon<'_>, until: Instant) -> anyhow::Result<bool> {
    let mut command = host.command("rsync");
    command.args(["--ignore-times", "--no-whole-file", "--compress", "--compress-choice=zstd"]);
    command.args([format!("--compress-level={ZSTD_LEVEL}"), format!("--block-size={BLOCK_BYTES}")]);
    command.args([from.join(STATE_FILE), from.join(DISK_FILE)]);
    command.arg(format!("rsync://{}:{PORT}/there/", to.host.address()));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    while now() < until {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "rsync ended with {status}");
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}
