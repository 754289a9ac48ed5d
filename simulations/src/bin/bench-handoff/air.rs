//! The lab, and the links in it.

use std::time::Duration;

use simulations::lab::{Host, Lab, Topology};
use simulations::medium::Change;
use simulations::medium::units::Span;

/// The cloudlets.
pub const CLOUDLETS: [&str; 2] = ["one", "two"];
/// Source and destination of the peers: hosts of their own, so that what cloudlets say to each other is not counted.
pub const PEERS: [&str; 2] = ["here", "there"];
/// Where the clients are.
pub const HANDHELD: &str = "hand";
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
name = "here"
[[hosts]]
name = "there"
[[hosts]]
name = "hand"
"#;

/// A link between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Link {
    pub rate_mbit: u32,
    pub rtt_ms: u64,
    pub loss_percent: u8,
}

/// A running lab.
pub struct Air {
    pub lab: Lab,
}

impl Air {
    pub fn start() -> anyhow::Result<Self> {
        Ok(Self { lab: Lab::start(&Topology::from_toml(TOPOLOGY)?)? })
    }

    /// Where the clients are.
    pub fn hand(&self) -> anyhow::Result<Host<'_>> {
        Ok(self.lab.host(HANDHELD)?)
    }

    /// Makes the link between the two cloudlets, and that between the two peers, this one.
    pub fn set(&self, link: Link) -> anyhow::Result<()> {
        let change = Change {
            rate: Some(format!("{}M", link.rate_mbit).parse()?),
            delay: Some(Span(Duration::from_millis(link.rtt_ms) / 2)),
            loss: Some(format!("{}%", link.loss_percent).parse()?),
            ..Change::default()
        };
        for [one, other] in [CLOUDLETS, PEERS] {
            self.lab.set(one, other, change)?;
        }
        Ok(())
    }

    /// IP bytes that went between two hosts since the start, both ways.
    pub fn wire_bytes(&self, [one, other]: [&str; 2]) -> anyhow::Result<u64> {
        let counters = self.lab.counters()?;
        let bytes = |from, to| counters.pair(from, to).map_or(0, |pair| pair.offered.ip_bytes);
        Ok(bytes(one, other) + bytes(other, one))
    }
}
