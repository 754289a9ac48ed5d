//! Two cloudlets, a handheld, and the service that it uses.

use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;
use simulations::lab::Host;

use super::air::{Air, CLOUDLETS, HANDHELD};
use super::demo_support::cloudlet::Cloudlet;
use super::demo_support::handheld::Handheld;
use super::demo_support::{LIMIT, built_images, mission, program};
use super::process::Process;

/// Name of the mission.
const NAME: &str = "bench-handoff";

/// All of it. Ends with this.
pub struct Fleet<'a> {
    serving: Child,
    /// Where the handheld serves.
    pub address: SocketAddr,
    /// The instance.
    pub vm: String,
    pub cloudlets: [Cloudlet; 2],
    pub daemons: [Process; 2],
    pub logs: [PathBuf; 2],
    pub air: &'a Air,
}

impl<'a> Fleet<'a> {
    /// Starts everything; the service has answered when this returns.
    pub fn start(air: &'a Air, directory: &Path, service: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let images = built_images()?;
        let lab = &air.lab;
        mission::enroll(directory, NAME, &CLOUDLETS)?;
        let start = |name: &str| Cloudlet::start(lab, directory, name, images.clone(), &[]);
        let cloudlets = [start(CLOUDLETS[0])?, start(CLOUDLETS[1])?];
        cloudlets.iter().try_for_each(|one| one.wait_until(|seen| seen.there == 2, LIMIT))?;
        let daemon = |name: &str| Process::of_daemon(&directory.join(name));
        let daemons = [daemon(CLOUDLETS[0])?, daemon(CLOUDLETS[1])?];
        Handheld::pair(lab, directory, HANDHELD, &cloudlets[0])?;
        let (serving, said) = serve(air.hand()?, &directory.join(HANDHELD), service)?;
        let text = |name: &str| said[name].as_str().with_context(|| format!("no {name} in {said}"));
        let address = text("address")?.parse()?;
        let vm = text("instance")?.to_owned();
        let logs = CLOUDLETS.map(|name| directory.join(format!("{name}.log")));
        Ok(Self { serving, address, vm, cloudlets, daemons, logs, air })
    }

    /// Number of the cloudlet on which the service runs.
    pub fn owner(&self) -> anyhow::Result<usize> {
        for (number, cloudlet) in self.cloudlets.iter().enumerate() {
            let instances = cloudlet.ask(&["vm", "list"])?;
            let instances = instances["instances"].as_array().context("a list of instances")?;
            if instances.iter().any(|instance| instance["id"] == self.vm.as_str()) {
                return Ok(number);
            }
        }
        bail!("the instance {} is nowhere", self.vm)
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        let _ = self.serving.kill();
        let _ = self.serving.wait();
    }
}

/// Has the handheld serve, and gives what it says first.
fn serve(host: Host<'_>, state: &Path, service: &str) -> anyhow::Result<(Child, Value)> {
    let mut command: Command = host.command(program("handheld")?);
    command.arg("--state-dir").arg(state).args(["--json", "serve", service]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("its output")?;
    let said = serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter().next();
    match said {
        Some(Ok(said)) => Ok((child, said)),
        _ => {
            child.kill()?;
            child.wait()?;
            bail!("'handheld serve' has ended before it served")
        }
    }
}
