//! The systems that are compared: how a node is started and told to change, and what its lines mean.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use simulations::lab::Host;
use simulations::medium::Settings;
use simulations::medium::units::{Rate, Share};

use crate::arguments::Arguments;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Ours.
    Cloudlets,
    Serf {
        profile: Profile,
        is_sealed: bool,
    },
    /// A word that names nothing; refused by [`System::check`].
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Lan,
    Wan,
}

/// The links between all pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Radio {
    Full,
    Narrow,
    Rough,
}

impl fmt::Display for Radio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Narrow => "narrow",
            Self::Rough => "rough",
        })
    }
}

impl Radio {
    pub fn settings(self) -> anyhow::Result<Settings> {
        let rate = |text: &str| text.parse::<Rate>().map_err(|error| anyhow::anyhow!("{error}"));
        let lossy = |delay_ms: u64, loss: &str| {
            let loss = loss.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
            let delay = Duration::from_millis(delay_ms);
            anyhow::Ok(Settings {
                rate: rate("64k")?,
                delay,
                loss,
                reorder: Share::default(),
                ..Settings::default()
            })
        };
        Ok(match self {
            Self::Full => {
                Settings { rate: rate("100M")?, delay: Duration::from_millis(1), ..Settings::default() }
            }
            Self::Narrow => lossy(50, "5%")?,
            Self::Rough => lossy(150, "20% burst 4")?,
        })
    }
}

/// What a line that a node printed means.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// This is what the others call me.
    Iam(String),
    /// What I was told to change, I have begun to spread.
    Began,
    /// That node is there; ours also say its name, which is what changes.
    Here { node: String, name: Option<String> },
    /// The change of this name is known.
    Heard(String),
    /// That node is not there any more.
    Gone(String),
    /// My link to that node has gone; whether because nothing was heard of it.
    Parted { node: String, is_silent: bool },
    /// I have so many links.
    Links(usize),
}

/// What the event `bench-mesh` is called in serf; a number follows.
const SERF_EVENT: &str = "user-event: ";
/// Any key does: it is what encryption costs that counts. 32 bytes, as `serf keygen` makes them today.
const SERF_KEY: &str = "Zm9yIG1lYXN1cmluZyBvbmx5LCBub3QgYSBzZWNyZXQ=";
/// Bytes in serf's event; as many as the event in `design/peers.md` had.
const SERF_PAYLOAD: usize = 100;

impl System {
    pub fn named(word: &str) -> Self {
        let serf = |profile, is_sealed| Self::Serf { profile, is_sealed };
        match word {
            "cloudlets" => Self::Cloudlets,
            "lan" => serf(Profile::Lan, false),
            "wan" => serf(Profile::Wan, false),
            "lan+key" => serf(Profile::Lan, true),
            "wan+key" => serf(Profile::Wan, true),
            _ => Self::Unknown,
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Cloudlets => "cloudlets",
            Self::Serf { profile: Profile::Lan, is_sealed: false } => "serf LAN, open",
            Self::Serf { profile: Profile::Wan, is_sealed: false } => "serf WAN, open",
            Self::Serf { profile: Profile::Lan, is_sealed: true } => "serf LAN, encrypted",
            Self::Serf { profile: Profile::Wan, is_sealed: true } => "serf WAN, encrypted",
            Self::Unknown => "unknown",
        }
    }

    /// For names of labs and files.
    pub fn slug(self) -> String {
        self.title().replace(", ", "-").replace(' ', "-").to_lowercase()
    }

    /// Whether it can be run.
    pub fn check(self, arguments: &Arguments) -> anyhow::Result<()> {
        match self {
            Self::Cloudlets if !arguments.node.exists() => bail!(
                "there is no {}; build it with: cargo build --release -p mesh --example mesh_node",
                arguments.node.display()
            ),
            Self::Cloudlets => Ok(()),
            Self::Serf { .. } => {
                let version = Command::new("serf").arg("version").stdout(Stdio::null()).status();
                version.map(drop).context("cannot run serf; install it with: apt-get install serf")
            }
            Self::Unknown => {
                bail!("a system is not known; write cloudlets, lan, wan, lan+key or wan+key")
            }
        }
    }

    /// The node's process. `mission` holds a home for each node, made by [`System::prepare`].
    pub fn command(
        self,
        program: &Path,
        mission: &Path,
        host: Host<'_>,
        index: usize,
        first: Host<'_>,
    ) -> Command {
        match self {
            Self::Serf { profile, is_sealed } => {
                let mut command = host.command("serf");
                let address = host.address();
                command
                    .arg("agent")
                    .arg(format!("-node={}", host.name()))
                    .arg(format!("-bind={address}:7946"));
                command.args(["-rpc-addr=127.0.0.1:7373", "-log-level=info", "-retry-interval=2s"]);
                command.arg(format!("-profile={}", if profile == Profile::Lan { "lan" } else { "wan" }));
                if index > 0 {
                    command.arg(format!("-retry-join={}", first.address()));
                }
                if is_sealed {
                    command.arg(format!("-encrypt={SERF_KEY}"));
                }
                command
            }
            Self::Cloudlets | Self::Unknown => {
                let mut command = host.command(program);
                command.arg("node").arg(mission.join(index.to_string())).arg("--hail");
                command
            }
        }
    }

    /// Makes what `count` nodes need before they start.
    pub fn prepare(self, program: &Path, mission: &Path, count: usize) -> anyhow::Result<()> {
        if self != Self::Cloudlets {
            return Ok(());
        }
        let status = Command::new(program).arg("mission").arg(mission).arg(count.to_string()).status();
        let status = status.with_context(|| format!("cannot run {}", program.display()))?;
        if !status.success() {
            bail!("{} could not make a mission: {status}", program.display());
        }
        Ok(())
    }

    /// What a line of the node's output means.
    pub fn understand(self, line: &str) -> Option<Said> {
        match self {
            Self::Cloudlets => understand_cloudlet(line),
            Self::Serf { .. } => understand_serf(line),
            Self::Unknown => None,
        }
    }

    /// Whether the node is told what to do on its standard input. serf has a command for that.
    pub fn listens(self) -> bool {
        self == Self::Cloudlets
    }
}

/// serf's command that spreads `tag`. serf holds events back for at least a second to tell the last of many once,
/// unless it is told not to.
pub fn serf_event(host: Host<'_>, tag: &str, holds_back: bool) -> Command {
    let mut command = host.command("serf");
    command.arg("event").arg(format!("-coalesce={holds_back}")).arg(tag).arg("x".repeat(SERF_PAYLOAD));
    command
}

fn understand_cloudlet(line: &str) -> Option<Said> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let node = || line["node"].as_str().map(str::to_owned);
    Some(match line["event"].as_str()? {
        "started" => Said::Iam(node()?),
        "said" => Said::Began,
        "joined" | "changed" => Said::Here { node: node()?, name: line["name"].as_str().map(str::to_owned) },
        "left" | "unreachable" => Said::Gone(node()?),
        "neighbour-down" => Said::Parted { node: node()?, is_silent: line["why"] == "silent" },
        "status" => Said::Links(line["neighbours"].as_array()?.len()),
        _ => return None,
    })
}

fn understand_serf(line: &str) -> Option<Said> {
    let (_, line) = line.split_once("[INFO] ")?;
    let node = |rest: &str| rest.split(' ').next().map(str::to_owned);
    if let Some(rest) = line.strip_prefix("serf: EventMemberJoin: ") {
        Some(Said::Here { node: node(rest)?, name: None })
    } else if let Some(rest) = line.strip_prefix("serf: EventMemberFailed: ") {
        Some(Said::Gone(node(rest)?))
    } else if let Some(rest) = line.strip_prefix("agent: Received event: ") {
        Some(Said::Heard(rest.strip_prefix(SERF_EVENT)?.trim().to_owned()))
    } else {
        line.starts_with("agent.ipc: Accepted client").then_some(Said::Began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_serf_are_understood() {
        let serf = System::named("lan");
        let said = |line: &str| serf.understand(&format!("    2026/11/23 14:11:46 {line}"));
        let here = Said::Here { node: "n3".to_owned(), name: None };
        assert_eq!(said("[INFO] serf: EventMemberJoin: n3 10.77.0.3"), Some(here));
        assert_eq!(said("[INFO] serf: EventMemberFailed: n3 10.77.0.3"), Some(Said::Gone("n3".to_owned())));
        assert_eq!(
            said("[INFO] agent: Received event: user-event: c17"),
            Some(Said::Heard("c17".to_owned()))
        );
        assert_eq!(said("[INFO] agent.ipc: Accepted client: 127.0.0.1:35578"), Some(Said::Began));
        assert_eq!(said("[INFO] agent: Received event: member-join"), None);
        assert_eq!(said("[WARN] serf: EventMemberFailed: n3 10.77.0.3"), None);
    }

    #[test]
    fn lines_of_cloudlets_are_understood() {
        let said = |line: &str| System::Cloudlets.understand(line);
        let here = |name: &str| Said::Here { node: "ab".to_owned(), name: Some(name.to_owned()) };
        assert_eq!(said(r#"{"event":"changed","node":"ab","name":"c2","members":3}"#), Some(here("c2")));
        assert_eq!(said(r#"{"event":"unreachable","node":"ab"}"#), Some(Said::Gone("ab".to_owned())));
        let parted = |is_silent| Some(Said::Parted { node: "ab".to_owned(), is_silent });
        assert_eq!(said(r#"{"event":"neighbour-down","node":"ab","why":"crowded"}"#), parted(false));
        assert_eq!(said(r#"{"event":"neighbour-down","node":"ab","why":"silent"}"#), parted(true));
        assert_eq!(said(r#"{"event":"status","neighbours":["a","b"]}"#), Some(Said::Links(2)));
        assert_eq!(said("not JSON"), None);
    }
}
