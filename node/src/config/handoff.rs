//! Services that move to other cloudlets by themselves.

use std::time::Duration;

use mesh::placement::{self, Settings};
use serde::{Deserialize, Serialize};

/// Services that move to other cloudlets by themselves; see [`mesh::placement`] for what the figures mean together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Nominal range of the radio between cloudlets, metres, 1 to 1000000. Default: 300 (guess: 802.11 with antennas of vehicles).
    pub radio_range_m: f64,
    /// Whether an orderly end sends instances to other cloudlets first. Default: false.
    pub evacuate_on_shutdown: bool,
    /// How long that may take, seconds, 1 to 3600. Default: 30 (guess: less than what systemd waits before it kills, 90 s).
    pub evacuate_limit_s: u64,
}

/// The most that `remember_s` may be, seconds.
pub const REMEMBER_MOST_S: u32 = 86_400;
/// As handhelds assume it.
const RADIO_RANGE_M: f64 = handheld::selection::Here::USUAL_RANGE_M;

/// What the policy may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Automatic {
    /// Nothing.
    Off,
    /// Say what it would do.
    DryRun,
    /// Move instances.
    On,
}

impl Default for Handoff {
    /// As [`Settings::default`], where the sources of the figures are.
    fn default() -> Self {
        let usual = Settings::default();
        Self {
            automatic: match usual.mode {
                placement::Mode::Disabled => Automatic::Off,
                placement::Mode::DryRun => Automatic::DryRun,
                placement::Mode::Enabled => Automatic::On,
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
            radio_range_m: RADIO_RANGE_M,
            evacuate_on_shutdown: false,
            evacuate_limit_s: 30,
        }
    }
}

impl Handoff {
    /// What the policy goes by.
    pub fn settings(&self) -> Settings {
        Settings {
            mode: match self.automatic {
                Automatic::Off => placement::Mode::Disabled,
                Automatic::DryRun => placement::Mode::DryRun,
                Automatic::On => placement::Mode::Enabled,
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
