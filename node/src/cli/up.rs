//! `cloudlet up`: the daemon, in the foreground.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{Global, Up};
use super::output::{Failure, Output};
use super::{logging, setting, signals};
use crate::config::Config;
use crate::daemon::{self, Parts, Ready, StateDir};
use crate::hypervisor::{self, DAEMON_ROOT};
use crate::trust;

/// How long calls to the hypervisor that the daemon has given up may hold its end up. Guess; what they leave behind is
/// found by the next start.
const LAST_CALLS_LIMIT: Duration = Duration::from_secs(3);

pub(super) fn run(flags: &Up, global: &Global, output: Output) -> Result<(), Failure> {
    let own = [("--listen", "api.listen", &flags.listen), ("--name", "node.name", &flags.name)];
    let mut settings: Vec<_> = own
        .into_iter()
        .filter_map(|(flag, field, value)| Some(setting(flag, field, value.as_ref()?)))
        .collect();
    if flags.insecure {
        settings.push(setting("--insecure", "trust.insecure", "true"));
    }
    if flags.no_multicast {
        settings.push(setting("--no-multicast", "mission.quiet", "true"));
    }
    let config = super::load(global, settings)?.config;
    logging::start_daemon(global, &config.log, config.trust.insecure);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    signals::on_first(move || stopping.cancel())?;
    // Taken for a moment: a second daemon is told so at once, and a new directory is closed to others from the start.
    drop(StateDir::lock(&config.node.state_dir)?);
    // The daemon says so as well, but only after the hypervisor was opened, which takes seconds.
    if !config.trust.insecure && config.trust_home().load().map_err(trust::Error::Store)?.is_none() {
        return Err(trust::Error::NoMission.into());
    }
    let store = super::image::open(&config)?;
    port_is_free(config.api.listen)?;
    // Holds the lock of the embedded libvirt until the end.
    let opened = open_hypervisor(&config, output)?;
    let parts = Parts::new(Arc::new(opened.hypervisor), store);
    if stop.is_cancelled() {
        return Ok(());
    }
    let name = config.node.name.clone();
    let announced = |ready: &Ready| announce(ready, &name, output);
    let result = runtime.block_on(daemon::run(config, parts, stop, announced)).map_err(Failure::from);
    runtime.shutdown_timeout(LAST_CALLS_LIMIT);
    result
}

/// Said before the hypervisor is opened, which takes seconds. The daemon says the rest of what can be wrong.
fn port_is_free(listen: SocketAddr) -> Result<(), daemon::Error> {
    match TcpListener::bind(listen) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(daemon::Error::PortTaken(listen)),
        _ => Ok(()),
    }
}

fn open_hypervisor(config: &Config, output: Output) -> Result<hypervisor::Opened, Failure> {
    let progress = output.progress();
    progress.step("opening the hypervisor");
    let opened = hypervisor::open(config, DAEMON_ROOT)
        .map_err(|error| Failure::failed(error, "'cloudlet doctor' says what this machine lacks"))?;
    progress.done();
    Ok(opened)
}

/// Says where it answers. A daemon does its work also where nobody reads that.
fn announce(ready: &Ready, name: &str, output: Output) {
    let scheme = if ready.tls { "https" } else { "http" };
    let text = || {
        let quiet = if ready.quiet { "; quiet: it sends no multicast" } else { "" };
        format!("cloudlet '{name}' answers at {scheme}://{} (node {}){quiet}", ready.listen, ready.node)
    };
    let json = || {
        let node = ready.node.to_string();
        json!({"name": name, "listen": ready.listen, "node_id": node, "tls": ready.tls, "quiet": ready.quiet})
    };
    let _ = output.result(text, json);
}
