//! `cloudlet-lab up`.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use simulations::lab::{self, Lab, Topology, control};

use super::arguments::Up;
use super::{say, show};

/// What the background process prints when the lab is up.
const READY: &str = "up";

pub fn run(up: &Up) -> anyhow::Result<()> {
    let mut topology = Topology::load(&up.topology)?;
    topology.seed = up.seed.unwrap_or(topology.seed);
    if up.detach {
        return detach(up, &topology.name);
    }
    // Before any thread is made, so that all threads have them blocked and only `wait` below takes them.
    let mut ends = SigSet::empty();
    ends.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    ends.thread_block().context("cannot block signals")?;
    if up.detached {
        rustix::process::setsid().context("cannot leave the terminal")?;
    }
    let lab = Lab::start(&topology)?;
    if up.detached {
        let log = lab::log(lab.name());
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        rustix::stdio::dup2_stderr(&file).context("cannot redirect messages to the log")?;
        say(&format!("{READY}\n"))?;
    } else {
        announce(up, &lab.status()?)?;
    }
    ends.wait().context("cannot wait for a signal")?;
    Ok(())
}

fn announce(up: &Up, status: &control::Status) -> anyhow::Result<()> {
    let text = if up.json { serde_json::to_string_pretty(status)? + "\n" } else { show::up(status) };
    Ok(say(&text)?)
}

/// Starts this program again, in the background, and waits until its lab is up or has failed.
fn detach(up: &Up, name: &str) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.arg("up").arg("--detached").arg(&up.topology);
    if let Some(seed) = up.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the background process")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context("cannot hear the background process")?;
    }
    if line.trim() == READY {
        return announce(up, &control::status(name)?);
    }
    let mut message = String::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(64 * 1024).read_to_string(&mut message).context("cannot hear the background process")?;
    }
    child.wait().context("cannot wait for the background process")?;
    bail!("{}", message.trim().trim_start_matches("cloudlet-lab: "));
}
