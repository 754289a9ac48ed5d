//! The daemon: puts the parts together, starts them in order and ends them in order.
//!
//! Start: state directory locked, port bound, records opened, instances of an earlier daemon picked up, API served,
//! name published. Whatever fails before the instances are picked up leaves everything as it was.
//!
//! End: instances sent to other cloudlets if that is configured, images fetched no more, no new connections, listeners told goodbye, name unpublished, instances stopped (they are transient copies), records
//! closed, everything joined.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh::NodeId;
use migration::hypervisor::{Error as HypervisorError, Moving};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use vm_images::Store;

use crate::api::{self, About, Api};
use crate::config::Config;
use crate::exchange::Shelf;
use crate::instances::{self, Instances, Journal, Meter, Settings, StoreImages, SystemMeter, Tools};
use crate::lifecycle::{Keep, Limits};
use crate::peers::{self, Local};
use crate::standing::{self, Standing};
use crate::trust::{self, Membership};

mod announce;
mod exchange;
mod handoff;
pub mod state_dir;

pub use state_dir::StateDir;

/// Longest wait for requests under way when the daemon ends. Each is answered within milliseconds; guess.
const FAREWELL_LIMIT: Duration = Duration::from_secs(3);

/// What the daemon is made of.
#[derive(Clone)]
pub struct Parts {
    /// Runs the VMs.
    pub hypervisor: Arc<dyn Moving>,
    /// Keeps the images.
    pub store: Store,
    /// Reads what the host has free.
    pub meter: Arc<dyn Meter>,
    /// What becomes of ready instances when the daemon ends.
    pub keep: Keep,
}

impl Parts {
    /// A daemon that measures this host and stops its instances when it ends.
    pub fn new(hypervisor: Arc<dyn Moving>, store: Store) -> Self {
        Self { hypervisor, store, meter: Arc::new(SystemMeter::new()), keep: Keep::Nothing }
    }
}

/// A daemon that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Address and port that it listens on; the port is the real one, also if 0 was configured.
    pub listen: SocketAddr,
    /// Its node id.
    pub node: NodeId,
    /// Whether it speaks TLS with the members of a mission only.
    pub tls: bool,
    /// Whether it sends no multicast.
    pub quiet: bool,
}

/// Why the daemon did not start, or did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory cannot be used. Nothing was started.
    #[error(transparent)]
    StateDir(#[from] state_dir::Error),
    /// The node id cannot be read or made. Nothing was started.
    #[error("this node has no id")]
    NodeId(#[from] mesh::node_id::FileError),
    /// This cloudlet belongs to no mission, or no longer. Nothing was started.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// The port is taken. Nothing was started.
    #[error(
        "{0} is in use by another program, perhaps another cloudlet; stop that, or choose another port with --listen \
             (port 0 takes any free one)"
    )]
    PortTaken(SocketAddr),
    /// The address cannot be listened on. Nothing was started.
    #[error("cannot listen on {address}; choose an address of this host with --listen")]
    Listen {
        /// What was configured.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The hypervisor does not say what it can run. Nothing was started.
    #[error("the hypervisor does not answer; `cloudlet doctor` says what is missing")]
    Hypervisor(#[source] HypervisorError),
    /// The mesh cannot be started. Instances of an earlier daemon run on.
    #[error(transparent)]
    Peers(#[from] peers::Error),
    /// What this cloudlet kept of its circumstances cannot be read. Nothing was started.
    #[error(transparent)]
    Standing(#[from] standing::Error),
    /// The records cannot be opened. Nothing was started.
    #[error(transparent)]
    Journal(#[from] instances::journal::Error),
    /// What handoffs left cannot be read. Nothing was started or stopped.
    #[error(transparent)]
    Handoffs(#[from] crate::handoff::JournalError),
    /// What handoffs left cannot be settled. Nothing was stopped.
    #[error(transparent)]
    Settle(#[from] crate::handoff::SettleError),
    /// Instances of an earlier daemon cannot be picked up. They run on.
    #[error(transparent)]
    PickUp(#[from] instances::StartError),
    /// A part ended before it was told to, or panicked. Everything else was ended in order.
    #[error("the {part} ended by itself")]
    Ended {
        /// Which part.
        part: &'static str,
        /// Its panic, if it was one.
        #[source]
        source: Option<JoinError>,
    },
    /// A blocking call panicked while starting.
    #[error("internal error while starting")]
    Panic(#[source] JoinError),
}

/// Runs a cloudlet until `stop` is cancelled; `on_ready` is called once, when it answers.
pub async fn run(
    config: Config,
    parts: Parts,
    stop: CancellationToken,
    on_ready: impl FnOnce(&Ready),
) -> Result<(), Error> {
    let state = StateDir::lock(&config.node.state_dir)?;
    let node = state_dir::node_id(state.path())?;
    let goodbye = CancellationToken::new();
    let membership = Membership::open(&config, node, goodbye.clone())?;
    let rules = membership.as_ref().map(Membership::rules).unwrap_or_default();
    let config = config.obeying(&rules);
    if config.mission.quiet {
        tracing::info!(
            "a quiet mission: no multicast; handhelds come by QR code or address, cloudlets by mesh.peers"
        );
    }
    parts.store.lend_trust(rules.image_signers);
    let listener = bind(config.api.listen).await?;
    let quiet = config.mission.quiet;
    let listen =
        listener.local_addr().map_err(|source| Error::Listen { address: config.api.listen, source })?;
    let hypervisor = parts.hypervisor.clone();
    let host = blocking(move || hypervisor.host()).await?.map_err(Error::Hypervisor)?;
    let about = About {
        node_id: node.to_string(),
        name: config.node.name.clone(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        accelerator: host.accelerator.to_string(),
    };
    let accelerator = host.accelerator;
    let standing = Standing::open(&config, state.path(), host.clone())?;
    let path = state_dir::records(state.path());
    let journal = blocking(move || Journal::open(&path)).await??;
    let handoffs = handoff::open(state.path(), &parts.hypervisor).await?;
    let tools = Tools {
        hypervisor: parts.hypervisor.clone(),
        images: Arc::new(StoreImages::new(parts.store.clone(), host.clone())),
        meter: parts.meter,
    };
    let mut settings = settings(&config, &*tools.meter, state.path().join("instances"));
    // Nobody could reach an instance once this cloudlet's certificate has expired.
    let certified = membership.as_ref().map(|membership| Duration::from_secs(membership.ends_unix_s()));
    settings.mission_ends = settings.mission_ends.into_iter().chain(certified).min();
    if membership.is_some() {
        // Members come through the API; on any other address the port would serve strangers as well.
        settings.bind = Ipv4Addr::LOCALHOST.into();
    }
    let bind = settings.bind;
    let (instances, owner) = instances::start_after(settings, tools, journal, handoffs.estate()).await?;
    if standing.is_draining() {
        tracing::warn!("this cloudlet is being emptied and takes nobody new; 'cloudlet drain off' ends that");
        // An owner that is gone already says why when it is waited for.
        let _ = instances.drain(true).await;
    }
    let power = tokio::spawn(standing.clone().watch_power(goodbye.clone()));

    let tls = membership.is_some();
    let mesh = match &membership {
        Some(membership) if config.mesh.enabled => {
            let mission = membership.trust().with(|mission| mission.name().to_owned());
            let name = config.node.name.clone();
            let shelf = Shelf::new(parts.store.clone());
            let local = Local::new(node, name, mission, listen, standing.clone(), instances.clone(), shelf);
            Some(peers::start(&config.mesh, config.mesh_listen(), membership, local, goodbye.clone())?)
        }
        _ => None,
    };
    let (peers, mesh) = mesh.unzip();
    let (images, exchange) = exchange::start(&config, parts.store.clone(), peers.as_ref());
    instances.fetch_from(images.clone());
    let going = handoff::Going {
        config: &config.handoff,
        standing: standing.clone(),
        node,
        hypervisor: parts.hypervisor,
        host,
        instances: instances.clone(),
        store: parts.store,
        bind,
    };
    let moving = handoff::start(handoffs, going, images.clone(), peers.as_ref())?;
    let (handoffs, placement) =
        moving.as_ref().map(|moving| (moving.handoffs.clone(), moving.placement.clone())).unzip();
    let api = Api::new(about, instances.clone(), standing, goodbye.clone(), membership);
    let api = api.among(peers).exchanging(images).handing_off(handoffs, placement);
    let server = tokio::spawn(api::serve(listener, api.clone(), goodbye.clone()));
    let announcement = announce::Announcement { name: config.node.name, listen, node, accelerator, tls };
    let announcer = tokio::spawn(announce::run(announcement, config.discovery, api, goodbye.clone()));
    let keep = parts.keep;
    let running =
        Running { server, announcer, power, exchange, moving, mesh, owner, instances, goodbye, keep };
    tracing::info!(%listen, %node, "cloudlet is ready");
    on_ready(&Ready { listen, node, tls, quiet });
    running.until(stop).await
    // `state` is unlocked here, when nothing of the daemon runs any more.
}

struct Running {
    server: JoinHandle<io::Result<()>>,
    announcer: JoinHandle<()>,
    power: JoinHandle<()>,
    exchange: Option<exchange::Running>,
    moving: Option<handoff::Running>,
    mesh: Option<peers::Running>,
    owner: instances::Running,
    instances: Instances,
    goodbye: CancellationToken,
    keep: Keep,
}

impl Running {
    /// Waits for the end and brings it about in order. A part that ended by itself ends the others.
    async fn until(mut self, stop: CancellationToken) -> Result<(), Error> {
        let (mut server, mut owner) = (None, None);
        tokio::select! {
            () = stop.cancelled() => {}
            ended = &mut self.server => server = Some(ended.err()),
            ended = self.owner.ended() => owner = Some(ended.err()),
        }
        tracing::info!("cloudlet shuts down");
        // While the mesh still carries words: what is not committed is taken back.
        if let Some(moving) = self.moving {
            moving.stop().await;
        }
        let serving = match self.exchange {
            Some(exchange) => Some(exchange.stop().await),
            None => None,
        };
        self.goodbye.cancel();
        let served = async {
            if server.is_none() && tokio::time::timeout(FAREWELL_LIMIT, &mut self.server).await.is_err() {
                tracing::warn!("some connections did not end in time and are cut");
                self.server.abort();
            }
        };
        let stopped = async {
            if owner.is_some() {
                return None;
            }
            // An owner that ends meanwhile says why below.
            let _ = self.instances.shutdown(self.keep).await;
            self.owner.ended().await.err()
        };
        let left = async {
            if let Some(mesh) = self.mesh {
                mesh.ended().await;
            }
            if let Some(serving) = serving {
                exchange::served(serving).await;
            }
        };
        let ((), panic, announcer, power, ()) =
            tokio::join!(served, stopped, self.announcer, self.power, left);
        let ended = |part, source| Err(Error::Ended { part, source });
        match (server, owner, panic, announcer.and(power)) {
            (Some(source), ..) => ended("HTTP server", source),
            (_, Some(source), ..) => ended("instances' owner", source),
            (_, _, Some(panic), _) => ended("instances' owner", Some(panic)),
            (.., Err(panic)) => ended("announcer or the watch of the power supply", Some(panic)),
            (None, None, None, Ok(())) => Ok(()),
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortTaken(address),
        _ => Error::Listen { address, source },
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::Panic)
}

fn settings(config: &Config, meter: &dyn Meter, directory: PathBuf) -> Settings {
    let instances = &config.instances;
    let promised = f64::from(meter.cpu_total_millis()) * instances.cpu_overcommit;
    let limits = Limits {
        max_instances: instances.max,
        memory_total_bytes: meter.memory().total_bytes,
        memory_reserve_bytes: instances.memory_reserve_mib.saturating_mul(1 << 20),
        // Saturates at the ends, as `as` does; the configuration allows 0.1 to 100.
        cpu_millis: promised as u64,
        idle_stop: Duration::from_secs(instances.idle_stop_s),
        user_timeout: Some(instances.user_timeout_s).filter(|&s| s > 0).map(Duration::from_secs),
        start_limit: Duration::from_secs(instances.start_limit_s),
    };
    Settings {
        limits,
        bind: config.api.listen.ip(),
        directory,
        mission_ends: config.mission.ends_unix_s().map(Duration::from_secs),
    }
}
