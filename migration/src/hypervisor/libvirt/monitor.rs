//! QEMU's monitor, through libvirt: the few commands that libvirt itself has no call for.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use virt::domain::Domain;
use virt::sys;

use super::wait::{Deadline, poll};
use super::{Error, libvirt_error};

/// Migration bandwidth that QEMU is told, bytes per second: no limit in practice, the other end takes what it can.
pub(super) const UNLIMITED_BYTES_PER_S: u64 = 1 << 40;
/// How often QEMU is asked whether it has finished. Loading a device stream takes 20 to 50 ms (measured).
const POLL_EVERY: Duration = Duration::from_millis(3);

/// Runs one QMP command and gives what it returns.
pub(super) fn command(
    domain: &Domain,
    doing: &'static str,
    name: &str,
    arguments: Value,
) -> Result<Value, Error> {
    let command = json!({ "execute": name, "arguments": arguments }).to_string();
    let answer = domain.qemu_monitor_command(&command, 0).map_err(|error| libvirt_error(doing, &error))?;
    let mut answer: Value = serde_json::from_str(&answer).map_err(|error| Error::Hypervisor {
        doing,
        message: format!("QEMU answered '{name}' with something that is not JSON: {error}"),
    })?;
    if let Some(error) = answer.get("error") {
        let message = error["desc"].as_str().unwrap_or("QEMU gave no reason").to_owned();
        return Err(Error::Hypervisor { doing, message });
    }
    Ok(answer["return"].take())
}

/// Runs one command for people (HMP) and gives what it prints; it has no other way to report an error.
pub(super) fn human(domain: &Domain, doing: &'static str, line: &str) -> Result<String, Error> {
    domain
        .qemu_monitor_command(line, sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        .map_err(|error| libvirt_error(doing, &error))
}

/// Starts writing the paused guest's migration stream to a unix socket.
pub(super) fn migrate_to_socket(domain: &Domain, socket: &Path) -> Result<(), Error> {
    let doing = "cannot write the guest out";
    command(domain, doing, "migrate-set-parameters", json!({ "max-bandwidth": UNLIMITED_BYTES_PER_S }))?;
    command(domain, doing, "migrate", json!({ "uri": format!("unix:{}", socket.display()) }))?;
    Ok(())
}

/// Loads a device stream into a guest that was started to wait for one, and waits until that is done.
pub(super) fn load(domain: &Domain, device_stream: &Path, limit: Duration) -> Result<(), Error> {
    let doing = "cannot load the device stream";
    let uri = format!("file:{}", device_stream.display());
    // By default QEMU exits where a stream does not fit, and takes the reason with it.
    command(domain, doing, "migrate-incoming", json!({ "uri": uri, "exit-on-error": false }))?;
    wait_migrated(domain, doing, limit).map_err(|error| match error {
        Error::Hypervisor { doing, message } => Error::Hypervisor {
            doing,
            message: format!(
                "{message} ({} is damaged, or was written with other devices; rebuild the image)",
                device_stream.display()
            ),
        },
        error => error,
    })
}

/// Waits until a migration, of either direction, has completed.
pub(super) fn wait_migrated(domain: &Domain, doing: &'static str, limit: Duration) -> Result<(), Error> {
    let deadline = Deadline::after(limit);
    poll(deadline, POLL_EVERY, || {
        let state = command(domain, doing, "query-migrate", json!({}))?;
        match state["status"].as_str() {
            Some("completed") => Ok(Some(())),
            Some("failed" | "cancelled") => Err(Error::Hypervisor {
                doing,
                message: state["error-desc"].as_str().unwrap_or("QEMU gave no reason").to_owned(),
            }),
            _ => Ok(None),
        }
    })?
    .ok_or(Error::TooSlow { doing, limit })
}
