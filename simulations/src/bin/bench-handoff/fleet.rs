//! Two cloudlets, a handheld, and the service that it uses.

use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use simulations::lab::{Host, Lab, Topology};
use simulations::medium::Change;
use simulations::medium::units::Span;

use super::demo_support::cloudlet::Cloudlet;
use super::demo_support::handheld::Handheld;
use super::demo_support::{LIMIT, built_images, mission, program};
use super::process::Process;

/// The cloudlets.
pub const CLOUDLETS: [&str; 2] = ["one", "two"];
const HANDHELD: &str = "hand";
/// Name of the mission.
const NAME: &str = "bench-handoff";
/// Links of the handheld: so good that nothing of what is measured is theirs.
const TOPOLOGY: &str = r#"
name = "bench-handoff"
seed = 1
[link]
rate = "1G"
delay = "500us"
[[hosts]]
name = "one"
[[hosts]]
name = "two"
[[hosts]]
name = "hand"
"#;

/// All of it. Ends with this.
pub struct Fleet {
    serving: Child,
    /// Where the handheld serves.
    pub address: SocketAddr,
    /// The instance.
    pub vm: String,
    pub cloudlets: [Cloudlet; 2],
    pub daemons: [Process; 2],
    pub logs: [PathBuf; 2],
    pub lab: Lab,
}

/// The link between the cloudlets.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Link {
    pub rate_mbit: u32,
    pub rtt_ms: u64,
    pub loss_percent: u8,
}

impl Fleet {
    /// Starts everything; the service has answered when this returns.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let images = built_images()?;
        let lab = Lab::start(&Topology::from_toml(TOPOLOGY)?)?;
        mission::enroll(directory, NAME, &CLOUDLETS)?;
        let start = |name: &str| Cloudlet::start(&lab, directory, name, images.clone(), &[]);
        let cloudlets = [start(CLOUDLETS[0])?, start(CLOUDLETS[1])?];
        cloudlets.iter().try_for_each(|one| one.wait_until(|seen| seen.there == 2, LIMIT))?;
        let daemon = |name: &str| Process::of_daemon(&directory.join(name));
        let daemons = [daemon(CLOUDLETS[0])?, daemon(CLOUDLETS[1])?];
        Handheld::pair(&lab, directory, HANDHELD, &cloudlets[0])?;
        let (serving, said) = serve(lab.host(HANDHELD)?, &directory.join(HANDHELD))?;
        let text = |name: &str| said[name].as_str().with_context(|| format!("no {name} in {said}"));
        let address = text("address")?.parse()?;
        let vm = text("instance")?.to_owned();
        let logs = CLOUDLETS.map(|name| directory.join(format!("{name}.log")));
        Ok(Self { serving, address, vm, cloudlets, daemons, logs, lab })
    }

    /// Where the clients are.
    pub fn hand(&self) -> anyhow::Result<Host<'_>> {
        Ok(self.lab.host(HANDHELD)?)
    }

    /// Makes the link between the cloudlets this one.
    pub fn set(&self, link: Link) -> anyhow::Result<()> {
        let change = Change {
            rate: Some(format!("{}M", link.rate_mbit).parse()?),
            delay: Some(Span(Duration::from_millis(link.rtt_ms) / 2)),
            loss: Some(format!("{}%", link.loss_percent).parse()?),
            ..Change::default()
        };
        Ok(self.lab.set(CLOUDLETS[0], CLOUDLETS[1], change)?)
    }

    /// IP bytes that went between the cloudlets since the start, both ways.
    pub fn wire_bytes(&self) -> anyhow::Result<u64> {
        let counters = self.lab.counters()?;
        let [one, two] = CLOUDLETS;
        let bytes = |from, to| counters.pair(from, to).map_or(0, |pair| pair.offered.ip_bytes);
        Ok(bytes(one, two) + bytes(two, one))
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

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.serving.kill();
        let _ = self.serving.wait();
    }
}

/// Has the handheld serve, and gives what it says first.
fn serve(host: Host<'_>, state: &Path) -> anyhow::Result<(Child, Value)> {
    let mut command: Command = host.command(program("handheld")?);
    command.arg("--state-dir").arg(state).args(["--json", "serve", "speech"]);
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
