//! Picks up what an earlier daemon left, then starts the owner.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use migration::VmId;
use migration::hypervisor::{Error as HypervisorError, Hypervisor};
use tokio::sync::{SetOnce, mpsc};
use tokio::task::JoinHandle;

use super::clock::Clock;
use super::owner::Owner;
use super::{ASKS, Catalogue, Instances, Journal, Settings, Tools, journal, tasks};
use crate::causes::chain;
use crate::handoff::Estate;
use crate::lifecycle::{Adoptable, Core, Instance, Plan, Reading, SavedPhase, reconcile, standing_still};

/// Why the instances of an earlier daemon cannot be picked up. Nothing was stopped or removed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The records cannot be read.
    #[error("cannot read what an earlier daemon left")]
    Journal(#[from] journal::Error),
    /// The hypervisor does not say what runs.
    #[error(
        "the hypervisor does not list its VMs, so none can be taken over; `cloudlet doctor` checks the hypervisor"
    )]
    List(#[source] HypervisorError),
    /// The instances' directory cannot be read or made.
    #[error("cannot use the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A thread panicked.
    #[error("internal error while picking up instances")]
    Panic(#[source] tokio::task::JoinError),
}

/// The owner task. It ends after [`Instances::shutdown`].
pub struct Running(JoinHandle<()>);

impl Running {
    /// Waits for its end; a panic in it is the error. To be asked no more once it has said so.
    pub async fn ended(&mut self) -> Result<(), tokio::task::JoinError> {
        (&mut self.0).await
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Takes over what runs, cleans what was half made, and starts the owner.
pub async fn start(
    settings: Settings,
    tools: Tools,
    journal: Journal,
) -> Result<(Instances, Running), StartError> {
    start_after(settings, tools, journal, Estate::default()).await
}

/// The same, after it was found out what handoffs have left.
pub async fn start_after(
    settings: Settings,
    tools: Tools,
    journal: Journal,
    estate: Estate,
) -> Result<(Instances, Running), StartError> {
    let clock = Clock::start();
    let (found_with, directory, limits) = (tools.clone(), settings.directory.clone(), settings.limits);
    let bind = settings.bind;
    let held = estate.held.clone();
    let look = move || {
        let mut found = find(&journal, &*found_with.hypervisor, &directory, bind, &estate)?;
        let still = found.standing_still(clock.now(), &estate);
        let mut plan = reconcile(clock.now(), &limits, &found.records, &found.running, &found.directories);
        plan.stop.retain(|vm| !estate.held.contains(vm));
        plan.remove_dirs.retain(|vm| !estate.held.contains(vm));
        plan.forget.extend(estate.gone.iter().copied());
        clean(&plan, &*found_with.hypervisor, &directory);
        plan.instances.extend(still);
        Ok::<_, StartError>((journal, plan))
    };
    let (journal, plan) = tokio::task::spawn_blocking(look).await.map_err(StartError::Panic)??;
    let writer = journal.into_writer();
    for vm in &plan.forget {
        writer.remove(*vm).await;
    }
    let mut core = Core::new(settings.limits);
    let mut effects = Vec::new();
    let held: Vec<_> =
        plan.instances.iter().map(|instance| instance.vm).filter(|vm| held.contains(vm)).collect();
    core.restore(clock.now(), plan.instances, &mut effects);
    for vm in held {
        core.hold(vm);
    }

    let exchange = Arc::new(SetOnce::new());
    let (sender, receiver) = mpsc::channel(ASKS);
    let instances = Instances {
        asks: sender,
        catalogue: Catalogue::new(tools.images.clone()),
        meter: tools.meter.clone(),
        exchange: exchange.clone(),
    };
    let owner = Owner::new(core, clock, settings, tools, writer, exchange);
    Ok((instances, Running(tokio::spawn(owner.run(effects, receiver)))))
}

struct Found {
    records: BTreeMap<VmId, Reading>,
    running: BTreeMap<VmId, Adoptable>,
    directories: BTreeSet<VmId>,
}

impl Found {
    /// Takes out what handoffs have in their hands.
    fn standing_still(&mut self, now: Duration, estate: &Estate) -> Vec<Instance> {
        let mut still = Vec::new();
        for vm in &estate.held {
            self.running.remove(vm);
            if let Some(Reading::Good(saved)) = self.records.remove(vm) {
                still.push(standing_still(now, &saved));
            }
        }
        still
    }
}

fn find(
    journal: &Journal,
    hypervisor: &dyn Hypervisor,
    directory: &Path,
    bind: IpAddr,
    estate: &Estate,
) -> Result<Found, StartError> {
    let mut records = journal.read()?;
    records.retain(|vm, _| !estate.gone.contains(vm));
    for (vm, saved) in &estate.arrived {
        records.entry(*vm).or_insert_with(|| Reading::Good(Box::new(saved.clone())));
    }
    let running = hypervisor.list().map_err(StartError::List)?;
    for vm in running.iter().map(|running| running.vm).filter(|vm| estate.held.contains(vm)) {
        if let Err(error) = hypervisor.adopt(vm) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(%vm, error, "a VM in the middle of a handoff cannot be taken over");
        }
    }
    let adoptable =
        running.into_iter().map(|vm| (vm.vm, adopt(hypervisor, vm.vm, records.get(&vm.vm), bind))).collect();
    Ok(Found { records, running: adoptable, directories: directories(directory)? })
}

/// Only a VM that is to run on is taken over. Of its forwarded ports those count that could be opened now: one that was open
/// to everybody before this cloudlet was in a mission must not stay so.
fn adopt(hypervisor: &dyn Hypervisor, vm: VmId, record: Option<&Reading>, bind: IpAddr) -> Adoptable {
    match record {
        Some(Reading::Good(saved)) if saved.phase == SavedPhase::Ready => match hypervisor.adopt(vm) {
            Ok(mut running) => {
                running.forwards.retain(|(address, _)| !bind.is_loopback() || address.ip().is_loopback());
                Adoptable::Adopted { executing: running.executing, forwards: running.forwards }
            }
            Err(error) => Adoptable::NotAdopted(chain(&error)),
        },
        _ => Adoptable::NotAdopted("it is not to run on".to_owned()),
    }
}

fn directories(path: &Path) -> Result<BTreeSet<VmId>, StartError> {
    let failed = |source| StartError::Directory { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(failed)?;
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        match name.to_str().and_then(|name| name.parse().ok()) {
            Some(vm) => drop(found.insert(vm)),
            None => tracing::warn!(?name, "not an instance's directory; it is left alone"),
        }
    }
    Ok(found)
}

fn clean(plan: &Plan, hypervisor: &dyn Hypervisor, directory: &Path) {
    for vm in &plan.stop {
        tracing::warn!(%vm, "a VM without a readable record is stopped");
        if let Err(reason) = tasks::stop_now(hypervisor, directory, *vm) {
            tracing::error!(%vm, reason, "a VM without a readable record cannot be stopped; stop it by hand");
        }
    }
    for vm in &plan.remove_dirs {
        tracing::info!(%vm, "files that belong to no instance are removed");
        if let Err(reason) = tasks::remove_directory(directory, *vm) {
            tracing::warn!(%vm, reason, "files that belong to no instance cannot be removed");
        }
    }
}
