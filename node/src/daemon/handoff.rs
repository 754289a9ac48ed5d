//! Handoffs in the daemon: what an earlier one left is settled before anything else touches a VM; the rest is started with
//! the mesh, and ended before it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh::NodeId;
use migration::handoff::Limits;
use migration::hypervisor::{Host, Moving};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vm_images::Store;

use super::{Error, blocking};
use crate::config;
use crate::exchange::Exchange;
use crate::handoff::{Estate, Handoffs, Journal, SwarmWays, Tools, accept_swarm, settle};
use crate::instances::Instances;
use crate::peers::Peers;
use crate::placement::{self, Placement};
use crate::standing::Standing;

/// The records, opened, and what they say.
pub(super) struct Opened {
    journal: Journal,
    estate: Estate,
    state: PathBuf,
}

impl Opened {
    /// What the instances must know of.
    pub(super) fn estate(&self) -> Estate {
        self.estate.clone()
    }
}

/// What handoffs work with.
pub(super) struct Going<'a> {
    pub(super) config: &'a config::Handoff,
    pub(super) standing: Standing,
    pub(super) node: NodeId,
    pub(super) hypervisor: Arc<dyn Moving>,
    pub(super) host: Host,
    pub(super) instances: Instances,
    pub(super) store: Store,
    pub(super) bind: IpAddr,
}

/// What runs them.
pub(super) struct Running {
    pub(super) handoffs: Handoffs,
    pub(super) placement: Placement,
    deciding: JoinHandle<()>,
    accepting: JoinHandle<bool>,
    stop: CancellationToken,
    standing: Standing,
    /// How long an orderly end may send instances away; `None`: it does not.
    evacuate: Option<Duration>,
}

/// Opens the records and lets VMs run on that are ours.
pub(super) async fn open(state: &Path, hypervisor: &Arc<dyn Moving>) -> Result<Opened, Error> {
    let (state, hypervisor) = (state.to_owned(), Arc::clone(hypervisor));
    blocking(move || {
        let journal = Journal::open(&state.join("handoffs"))?;
        let estate = settle(&journal, &*hypervisor)?;
        Ok(Opened { journal, estate, state })
    })
    .await?
}

/// Starts handoffs, where there are other cloudlets.
pub(super) fn start(
    opened: Opened,
    going: Going<'_>,
    exchange: Option<Exchange>,
    peers: Option<&Peers>,
) -> Result<Option<Running>, Error> {
    let Some(peers) = peers else { return Ok(None) };
    let Opened { journal, estate, state } = opened;
    let Going { config, standing, node, hypervisor, host, instances, store, bind } = going;
    let mesh = peers.handle().clone();
    let tools = Tools {
        node,
        hypervisor,
        host,
        instances: instances.clone(),
        store,
        ways: Arc::new(SwarmWays(mesh.clone())),
        exchange,
        journal,
        directory: state.join("instances"),
        own: state.join("handoff"),
        bind,
        limits: Limits::default(),
    };
    let handoffs = Handoffs::start(tools, &estate)?;
    let stop = CancellationToken::new();
    let accepting = tokio::spawn(accept_swarm(handoffs.clone(), mesh, stop.clone()));
    let (settings, range_m) = (config.settings(), config.radio_range_m);
    let tools = placement::Tools {
        handoffs: handoffs.clone(),
        instances,
        standing: standing.clone(),
        settings,
        range_m,
    };
    let (placement, deciding) = Placement::start(tools, stop.clone());
    let evacuate = config.evacuate_on_shutdown.then(|| Duration::from_secs(config.evacuate_limit_s));
    Ok(Some(Running { handoffs, placement, deciding, accepting, stop, standing, evacuate }))
}

impl Running {
    /// Sends instances away, if that is configured, and ends the rest: what is not committed is taken back.
    pub(super) async fn stop(self) {
        if let Some(limit) = self.evacuate {
            self.evacuate(limit).await;
        }
        self.handoffs.stop().await;
        self.stop.cancel();
        if let Err(panic) = self.deciding.await {
            tracing::error!(%panic, "deciding where instances should be panicked");
        }
        match self.accepting.await {
            Ok(true) => {}
            Ok(false) => tracing::error!("somebody else took the streams of handoffs"),
            Err(panic) => tracing::error!(%panic, "taking streams of handoffs panicked"),
        }
    }
}

impl Running {
    async fn evacuate(&self, limit: Duration) {
        let was_draining = self.standing.is_draining();
        match self.placement.evacuated(limit).await {
            Ok(evacuation) => tracing::info!(%evacuation, "before the end"),
            // One that somebody began ends with the daemon.
            Err(error) => tracing::warn!(%error, "instances are not sent away before the end"),
        }
        let standing = self.standing.clone();
        // The next daemon takes users as this one did; this one takes none any more, whatever is written down.
        let kept = tokio::task::spawn_blocking(move || standing.drain(was_draining)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "the next start may take nobody new; 'cloudlet drain off' ends that");
        }
    }
}
