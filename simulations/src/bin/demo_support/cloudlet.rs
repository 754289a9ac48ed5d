//! A cloudlet of a demo: the real daemon in its own namespace.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use simulations::lab::Lab;

use super::mission::output;
use super::{ASK_EVERY, now, program};

/// Where cloudlets listen unless told otherwise.
const API_PORT: u16 = 8477;
/// How many lines of each log are shown when something failed.
const SHOWN_LINES: usize = 8;

/// A running cloudlet; killed when this is dropped.
pub struct Cloudlet {
    name: String,
    child: Child,
    api: String,
    /// Command line that asks it.
    ask: Box<dyn Fn() -> Command>,
}

/// What a cloudlet knows of the mesh.
#[derive(Debug)]
pub struct Seen {
    /// Cloudlets that it can reach, itself included.
    pub there: usize,
}

impl Cloudlet {
    /// Starts it, with these fields of its configuration; returns before it answers.
    pub fn start(
        lab: &Lab,
        directory: &Path,
        name: &str,
        images: PathBuf,
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        let host = lab.host(name)?;
        let log = File::options().create(true).append(true).open(directory.join(format!("{name}.log")))?;
        let state = directory.join(name);
        std::fs::create_dir_all(&images)?;
        let mut command = host.command(program("cloudlet")?);
        command.arg("--state-dir").arg(&state).arg("--image-store").arg(&images);
        // The lab shows the mesh, not the probe of the processor, of which five at a time would be in each other's way.
        command.args(["--set", "hypervisor.accelerator=tcg"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.args(["up", "--name", name]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let (program, namespace) = (program("cloudlet")?, host.namespace());
        let ask = move || {
            let mut command = Command::new("nsenter");
            command
                .arg(format!("--net={}", namespace.display()))
                .arg(&program)
                .arg("--state-dir")
                .arg(&state)
                .arg("--image-store")
                .arg(&images);
            command
        };
        let api = format!("https://{}:{API_PORT}", host.address());
        Ok(Self { name: name.to_owned(), child, api, ask: Box::new(ask) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// URL of its API.
    pub fn api(&self) -> &str {
        &self.api
    }

    /// A command of the operator at this cloudlet.
    pub fn command(&self) -> Command {
        (self.ask)()
    }

    /// Runs a command of the operator at this cloudlet.
    pub fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = output(self.command().args(arguments).arg("--json"))?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?} printed no JSON: {text}"))
    }

    /// Waits until it knows what it should.
    pub fn wait_until(&self, good: impl Fn(&Seen) -> bool, limit: Duration) -> anyhow::Result<()> {
        let begin = now();
        let mut last = None;
        while begin.elapsed() < limit {
            // Refused while it starts.
            if let Ok(peers) = self.ask(&["mesh"]) {
                let peers = peers.as_array().context("a list of cloudlets")?;
                let seen = Seen { there: peers.iter().filter(|peer| peer["reach"] != "unreachable").count() };
                if good(&seen) {
                    return Ok(());
                }
                last = Some(seen);
            }
            std::thread::sleep(ASK_EVERY);
        }
        bail!("{} sees {last:?} after {} s", self.name, limit.as_secs())
    }

    /// Ends it in order, which says goodbye to the others.
    pub fn leave(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Ends it at once, as losing power would.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Cloudlet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ends of all logs, on standard error.
pub fn show_logs(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log")
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            eprintln!("--- {}", path.display());
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}
