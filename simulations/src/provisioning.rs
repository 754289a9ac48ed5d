//! What it takes until an application is ready, by what the cloudlet holds.
//!
//! The figures are Table I of the seed paper ("Tactical Cloudlets: Moving Cloud Computing to the Edge", Lewis et al.,
//! 2014): Core i7-3960X, handheld on 802.11n with 65 Mbit/s. Its application-ready time includes sending the
//! payload. To let links differ, the time that the payload takes on the paper's link is taken out, at the link's nominal
//! rate, and the time that it takes on the scenario's link is put in. That the paper's link carried its nominal rate
//! is a guess; a slower one would leave less time to the cloudlet.

use std::time::Duration;

use serde::Deserialize;

/// How a cloudlet that holds certain things gets a Service VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// It holds the Service VM.
    CachedVm,
    /// It holds a guest that matches the server code; the handheld sends the code with its dependencies.
    ApplicationVirtualization,
    /// It holds the base VM; the handheld sends the overlay.
    VmSynthesis,
    /// It holds what a provisioning script needs; the handheld sends the script.
    OnDemand,
}

/// An application that the paper measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Application {
    /// Face recognition, Windows.
    Face,
    /// Object recognition, Linux.
    Object,
    /// Speech recognition, Windows.
    SpeechWindows,
    /// Speech recognition, Linux.
    SpeechLinux,
}

/// Where the time of a Cached VM comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CachedVm {
    /// This project's technique, measured; see [`MEASURED_CACHED_VM`].
    #[default]
    Measured,
    /// The paper's Table I.
    Paper,
}

/// Start of a Cached VM by this project's technique through embedded libvirt: 370 to 440 ms measured (QEMU 10.0.2
/// under TCG, 2 cores, 256 MiB guest, service warm in the image).
pub const MEASURED_CACHED_VM: Duration = Duration::from_millis(400);

/// Link of the paper's test-bed, bytes per second: 65 Mbit/s nominal.
pub const PAPER_LINK_BYTES_PER_S: u64 = 65_000_000 / 8;

/// What an application needs before it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// What the handheld sends to the cloudlet.
    pub payload_bytes: u64,
    /// What the cloudlet does beside receiving.
    pub work: Duration,
}

/// Payload of the mechanisms whose payload the paper gives as below 1 KB.
const SMALL_PAYLOAD_BYTES: u64 = 1000;

/// A row of Table I: payload in MB (0 stands for [`SMALL_PAYLOAD_BYTES`]) and application-ready time in milliseconds.
type Row = (u64, u64);

impl Application {
    fn row(self, mechanism: Mechanism) -> Row {
        let [synthesis, virtualization, cached, on_demand] = match self {
            Self::Face => [(55, 53_400), (14, 14_300), (0, 8_200), (0, 112_700)],
            Self::Object => [(332, 175_700), (29, 21_900), (0, 11_600), (0, 211_000)],
            Self::SpeechWindows => [(194, 85_900), (66, 62_500), (0, 12_200), (0, 237_600)],
            Self::SpeechLinux => [(147, 99_000), (68, 38_300), (0, 12_200), (0, 94_100)],
        };
        match mechanism {
            Mechanism::VmSynthesis => synthesis,
            Mechanism::ApplicationVirtualization => virtualization,
            Mechanism::CachedVm => cached,
            Mechanism::OnDemand => on_demand,
        }
    }

    /// What the application needs under `mechanism`.
    pub fn cost(self, mechanism: Mechanism, cached_vm: CachedVm) -> Cost {
        let (payload_mb, ready_ms) = self.row(mechanism);
        let payload_bytes = if payload_mb == 0 { SMALL_PAYLOAD_BYTES } else { payload_mb * 1_000_000 };
        let work = match (mechanism, cached_vm) {
            (Mechanism::CachedVm, CachedVm::Measured) => MEASURED_CACHED_VM,
            _ => Duration::from_millis(ready_ms)
                .saturating_sub(transfer(payload_bytes, PAPER_LINK_BYTES_PER_S)),
        };
        Cost { payload_bytes, work }
    }
}

/// Time that `bytes` take on a link of `rate_bytes_per_s`, rounded up to a microsecond; for ever at rate 0.
pub fn transfer(bytes: u64, rate_bytes_per_s: u64) -> Duration {
    if rate_bytes_per_s == 0 {
        return Duration::MAX;
    }
    let microseconds = (u128::from(bytes) * 1_000_000).div_ceil(rate_bytes_per_s.into());
    u64::try_from(microseconds).map_or(Duration::MAX, Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Application; 4] =
        [Application::Face, Application::Object, Application::SpeechWindows, Application::SpeechLinux];

    #[test]
    fn on_the_papers_link_the_papers_times_come_out() {
        let ready_ms = |application: Application, mechanism| {
            let cost = application.cost(mechanism, CachedVm::Paper);
            (cost.work + transfer(cost.payload_bytes, PAPER_LINK_BYTES_PER_S)).as_millis()
        };
        assert_eq!(ready_ms(Application::SpeechLinux, Mechanism::VmSynthesis), 99_000);
        assert_eq!(ready_ms(Application::SpeechLinux, Mechanism::CachedVm), 12_200);
        assert_eq!(ready_ms(Application::Object, Mechanism::OnDemand), 211_000);
        assert_eq!(ready_ms(Application::Face, Mechanism::ApplicationVirtualization), 14_300);
        // The payloads fit into the paper's times, or the decomposition would be nonsense.
        for application in ALL {
            let cost = application.cost(Mechanism::VmSynthesis, CachedVm::Paper);
            assert!(cost.work > Duration::from_secs(40), "{application:?} {cost:?}");
        }
    }

    #[test]
    fn a_slow_link_tells_on_payloads_only() {
        let slow = 125_000;
        let cost = Application::SpeechLinux.cost(Mechanism::VmSynthesis, CachedVm::Paper);
        assert_eq!(transfer(cost.payload_bytes, slow), Duration::from_secs(1176));
        let cached = Application::SpeechLinux.cost(Mechanism::CachedVm, CachedVm::Measured);
        assert_eq!(cached.work + transfer(cached.payload_bytes, slow), Duration::from_millis(408));
        assert_eq!(transfer(1, 0), Duration::MAX);
    }
}
