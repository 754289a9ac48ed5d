//! Looking at the machine. Every look leaves it as it was.

mod host;
mod images;
mod multicast;
mod port;
mod virtualisation;

pub use host::TOOLS;

use super::Facts;
use super::facts::Discovery;
use crate::config::Config;

/// Looks at everything, for a cloudlet with this configuration. Takes seconds; `step` is told what is being done.
pub fn facts(config: &Config, step: &mut dyn FnMut(&str)) -> Facts {
    let virtualisation = virtualisation::virtualisation(config, step);
    step("looking at the network");
    // What cannot be read is said elsewhere; then nothing is sent, which harms nobody.
    let by_mission = |trust: mesh::trust::Trust| trust.with(|mission| mission.rules().quiet);
    let quiet = config.mission.quiet
        || !config.trust.insecure
            && config.trust_home().load().map_or(true, |trust| trust.is_some_and(by_mission));
    let discovery = Discovery {
        quiet,
        enabled: config.discovery.enabled,
        wanted: config.discovery.interfaces.clone(),
        // Looking means sending.
        interfaces: if quiet { Ok(Vec::new()) } else { multicast::interfaces() },
    };
    let port = (config.api.listen, port::state(config.api.listen, config.local_api()));
    step("reading the images");
    let images = images::images(config);
    Facts {
        virtualisation,
        memory: host::memory(config),
        disks: host::disks(config),
        discovery,
        port,
        tools: host::tools(),
        state_dir: host::state_dir(&config.node.state_dir),
        now_unix_s: host::now_unix_s(),
        images,
    }
}
