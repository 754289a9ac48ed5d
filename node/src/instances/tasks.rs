//! What the core wants done, each as a future that ends with one input for the core.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use migration::VmId;
use migration::hypervisor::{Error as HypervisorError, Hypervisor};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Tools, clock, health, host, journal};
use crate::causes::chain;
use crate::lifecycle::{Input, Patience, Seen, Service};
use crate::reach;

/// Pause before the guest's agent is asked again. It answers some 150 ms after the guest's waking up (measured).
const AGENT_PAUSE: Duration = Duration::from_millis(10);

/// Runs something that blocks; a panic in it becomes text.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(format!("internal error: {error}")),
    }
}

/// The directory of an instance.
pub(crate) fn directory(all: &Path, vm: VmId) -> PathBuf {
    all.join(vm.to_string())
}

/// Wakes a clone up and forwards its service's port.
///
/// The record that names the VM is on its way to the disk; meanwhile the image is checked and the overlay made, but the VM
/// is only started when the record is there.
pub(crate) async fn start_vm(
    tools: Tools,
    all: PathBuf,
    bind: IpAddr,
    vm: VmId,
    service: Arc<Service>,
    recorded: oneshot::Receiver<Result<(), journal::Error>>,
    cancel: CancellationToken,
) -> Input {
    let begin = clock::Clock::start();
    let image = service.image;
    let (images, into) = (tools.images, directory(&all, vm));
    let prepared = blocking(move || {
        std::fs::create_dir_all(&into)
            .map_err(|error| format!("cannot create {}: {error}", into.display()))?;
        images.prepare(image, vm, &into).map_err(|error| chain(&*error))
    });
    let recorded = async {
        match recorded.await {
            Ok(result) => result.map_err(|error| chain(&error)),
            Err(_) => Err("its record could not be written: the daemon is ending".to_owned()),
        }
    };
    let spec = match tokio::try_join!(prepared, recorded) {
        Ok((spec, ())) => spec,
        Err(reason) => return Input::VmFailed { vm, reason },
    };
    let prepared_ms = begin.now().as_secs_f64() * 1000.0;
    if cancel.is_cancelled() {
        return Input::VmFailed { vm, reason: "it was given up before its VM was started".to_owned() };
    }
    let hypervisor = tools.hypervisor;
    let port = service.guest_port;
    let started = blocking(move || {
        Hypervisor::clone_from(&*hypervisor, &spec).map_err(|error| chain(&error))?;
        let cloned_ms = begin.now().as_secs_f64() * 1000.0;
        let address = hypervisor.forward_port(vm, bind, 0, port).map_err(|error| chain(&error))?;
        let forwarded_ms = begin.now().as_secs_f64() * 1000.0;
        tracing::debug!(%vm, prepared_ms, cloned_ms, forwarded_ms, %address, "VM runs");
        Ok(address)
    });
    match started.await {
        Ok(address) => Input::VmStarted { vm, address },
        Err(reason) => Input::VmFailed { vm, reason },
    }
}

/// Sets the guest's clock as soon as its agent answers.
pub(crate) async fn set_clock(tools: Tools, vm: VmId, limit: Duration, cancel: CancellationToken) -> Input {
    let begin = clock::Clock::start();
    let failed = |reason| Input::ClockFailed { vm, reason: format!("its clock could not be set: {reason}") };
    loop {
        let hypervisor = tools.hypervisor.clone();
        // The time is read in the thread that sends it: a queue of blocking calls would make it old.
        let set = move || Ok(hypervisor.agent_set_time(vm, clock::unix()));
        match blocking(set).await {
            Ok(Ok(())) => return Input::ClockSet { vm },
            Ok(Err(error @ HypervisorError::AgentSilent { .. })) if begin.now() >= limit => {
                return failed(chain(&error));
            }
            Ok(Err(HypervisorError::AgentSilent { .. })) => {}
            Ok(Err(error)) => return failed(chain(&error)),
            Err(reason) => return failed(reason),
        }
        tokio::select! {
            () = cancel.cancelled() => return failed("the instance was given up".to_owned()),
            () = tokio::time::sleep(AGENT_PAUSE) => {}
        }
    }
}

/// Asks the service whether it can work.
pub(crate) async fn check_health(
    vm: VmId,
    address: SocketAddr,
    path: String,
    patience: Patience,
    cancel: CancellationToken,
) -> Input {
    let address = reach::from_here(address);
    let result = match patience {
        Patience::Until(limit) => health::until_ok(address, &path, limit, &cancel).await,
        Patience::Once => tokio::select! {
            () = cancel.cancelled() => Err("the check was given up".to_owned()),
            result = health::once(address, &path) => result,
        },
    };
    match result {
        Ok(()) => Input::HealthOk { vm },
        Err(reason) => Input::HealthFailed { vm, reason },
    }
}

/// Stops the VM and removes its files.
pub(crate) async fn stop_vm(tools: Tools, all: PathBuf, vm: VmId) -> Input {
    match blocking(move || stop_now(&*tools.hypervisor, &all, vm)).await {
        Ok(()) => Input::VmStopped { vm },
        Err(reason) => {
            tracing::error!(%vm, reason, "cannot stop a VM; it is tried again");
            Input::StopFailed { vm, reason }
        }
    }
}

/// Stops a VM and removes its files; blocks.
pub(crate) fn stop_now(hypervisor: &dyn Hypervisor, all: &Path, vm: VmId) -> Result<(), String> {
    hypervisor.stop(vm).map_err(|error| chain(&error))?;
    remove_directory(all, vm)
}

/// Removes an instance's files; blocks.
pub(crate) fn remove_directory(all: &Path, vm: VmId) -> Result<(), String> {
    let path = directory(all, vm);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Asks the hypervisor what runs. `None` if it does not say: then nothing is concluded.
pub(crate) async fn list(tools: Tools, asked_at: Duration) -> Option<Input> {
    let listed = blocking(move || {
        let running = tools.hypervisor.list().map_err(|error| chain(&error))?;
        let seen = |vm: migration::hypervisor::Running| {
            let backed_bytes = vm.process_id.and_then(host::private_bytes).unwrap_or(0);
            (vm.vm, Seen { executing: vm.executing, backed_bytes })
        };
        Ok(running.into_iter().map(seen).collect::<BTreeMap<_, _>>())
    });
    match listed.await {
        Ok(running) => Some(Input::Listed { asked_at, running }),
        Err(reason) => {
            tracing::warn!(
                reason,
                "the hypervisor does not list its VMs; dead ones are not noticed meanwhile"
            );
            None
        }
    }
}
