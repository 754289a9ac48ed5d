//! Services that move to other cloudlets by themselves.

use std::time::Duration;

use mesh::placement::{self, Settings};
use serde::{Deserialize, Serialize};

/// Services that move to other cloudlets by themselves; see [`mesh::placement`] for what the figures mean together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Handoff {
    /// Whether they do. Default: `dry-run`.
    pub automatic: Automatic,
    /// How far it is looked ahead, seconds, 30 to 3600. Default: 300.
    pub horizon_s: u64,
    /// Least gain, seconds of service within the horizon, 1 to 3600. Default: 5.
    pub least_gain_s: u64,
    /// Least gain beyond that, as a share of the service that there would be without a move, percent, 0 to 100. Default: 10.
    pub margin_percent: u64,
    /// How long an instance stays where it came to, seconds, 0 to 86400. Default: 60.
    pub stay_s: u64,
    /// How long a destination must have been worth it, seconds, 0 to 3600. Default: 5.
    pub settle_s: u64,
    /// How long each move makes the next one of the same instance harder, seconds, 0 to 86400. Default: 600.
    pub remember_s: u64,
    /// A battery with no more than this counts as about to be empty, percent, 0 to 100. Default: 15.
    pub power_low_percent: u64,
    /// Most handoffs that go out at a time, 1 to 16. Default: 1.
    pub at_once: u64,
}

/// What the policy may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Automatic {
    /// Nothing.
    Disabled,
    /// Say what it would do.
    DryRun,
    /// Move instances.
    Enabled,
}

impl Default for Handoff {
    /// As [`Settings::default`], where the sources of the figures are.
    fn default() -> Self {
        let usual = Settings::default();
        Self {
            automatic: match usual.mode {
                placement::Mode::Disabled => Automatic::Disabled,
                placement::Mode::DryRun => Automatic::DryRun,
                placement::Mode::Enabled => Automatic::Enabled,
            },
            horizon_s: usual.horizon.as_secs(),
            least_gain_s: usual.least_gain.as_secs(),
            // A percentage of a default that is one.
            margin_percent: (usual.margin * 100.0).round() as u64,
            stay_s: usual.stay.as_secs(),
            settle_s: usual.settle.as_secs(),
            remember_s: usual.remember.as_secs(),
            power_low_percent: usual.power_low_percent.into(),
            at_once: usual.at_once.try_into().unwrap_or(1),
        }
    }
}

impl Handoff {
    /// What the policy goes by.
    pub fn settings(&self) -> Settings {
        Settings {
            mode: match self.automatic {
                Automatic::Disabled => placement::Mode::Disabled,
                Automatic::DryRun => placement::Mode::DryRun,
                Automatic::Enabled => placement::Mode::Enabled,
            },
            horizon: Duration::from_secs(self.horizon_s),
            least_gain: Duration::from_secs(self.least_gain_s),
            margin: self.margin_percent as f64 / 100.0,
            stay: Duration::from_secs(self.stay_s),
            settle: Duration::from_secs(self.settle_s),
            remember: Duration::from_secs(self.remember_s),
            power_low_percent: self.power_low_percent.min(100).try_into().unwrap_or(100),
            at_once: self.at_once.try_into().unwrap_or(usize::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_policy() {
        assert_eq!(Handoff::default().settings(), Settings::default());
    }
}
