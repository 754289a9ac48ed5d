//! Handoffs in the daemon: what an earlier one left is settled before anything else touches a VM; the rest is started with
//! the mesh, and ended before it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh::NodeId;
use migration::handoff::Limits;
use migration::hypervisor::{Host, Moving};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vm_images::Store;

use super::{Error, blocking};
use crate::exchange::Exchange;
use crate::handoff::{Estate, Handoffs, Journal, SwarmWays, Tools, accept_swarm, settle};
use crate::instances::Instances;
use crate::peers::Peers;

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
pub(super) struct Going {
    pub(super) node: NodeId,
    pub(super) hypervisor: Arc<dyn Moving>,
    pub(super) host: Host,
    pub(super) instances: Instances,
    pub(super) store: Store,
    pub(super) bind: IpAddr,
}

/// What runs them.
pub(super) struct Running {
    handoffs: Handoffs,
    accepting: JoinHandle<bool>,
    stop: CancellationToken,
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
    going: Going,
    exchange: Option<Exchange>,
    peers: Option<&Peers>,
) -> Result<(Option<Handoffs>, Option<Running>), Error> {
    let Some(peers) = peers else { return Ok((None, None)) };
    let Opened { journal, estate, state } = opened;
    let Going { node, hypervisor, host, instances, store, bind } = going;
    let mesh = peers.handle().clone();
    let tools = Tools {
        node,
        hypervisor,
        host,
        instances,
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
    Ok((Some(handoffs.clone()), Some(Running { handoffs, accepting, stop })))
}

impl Running {
    /// Ends them: what is not committed is taken back.
    pub(super) async fn stop(self) {
        self.handoffs.stop().await;
        self.stop.cancel();
        match self.accepting.await {
            Ok(true) => {}
            Ok(false) => tracing::error!("somebody else took the streams of handoffs"),
            Err(panic) => tracing::error!(%panic, "taking streams of handoffs panicked"),
        }
    }
}
