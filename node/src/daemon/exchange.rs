//! The exchange of images over the mesh: started with it, ended before it.

use std::sync::Arc;
use std::time::Duration;

use mesh::exchange::policy::Profile;
use tokio::task::JoinHandle;
use vm_images::Store;

use crate::config::Config;
use crate::exchange::{self, Exchange, SwarmPeers, serve_swarm};
use crate::peers::Peers;

/// What runs it.
pub(super) struct Running {
    fetching: exchange::Running,
    serving: JoinHandle<bool>,
}

/// Serves this store's images to members and fetches what is missing. Without a mesh there is nobody to do either with,
/// which is said if the configuration wants it.
pub(super) fn start(
    config: &Config,
    store: Store,
    peers: Option<&Peers>,
) -> (Option<Exchange>, Option<Running>) {
    let Some(peers) = peers else {
        let replicate = &config.mission.replicate;
        if !replicate.is_empty() {
            let services: Vec<&str> = replicate.iter().map(|service| service.as_str()).collect();
            tracing::warn!(
                services = services.join(", "),
                "mission.replicate wants services, but without a mission and mesh.enabled nobody can be asked for them"
            );
        }
        return (None, None);
    };
    let handle = peers.handle().clone();
    let (exchange, fetching) =
        Exchange::start(store, Arc::new(SwarmPeers::new(handle.clone())), settings(config));
    let serving = tokio::spawn(serve_swarm(exchange.clone(), handle));
    (Some(exchange), Some(Running { fetching, serving }))
}

impl Running {
    /// Ends fetching; what came stays for the next start. To be called while the mesh still runs.
    pub(super) async fn stop(self) -> JoinHandle<bool> {
        self.fetching.stop().await;
        self.serving
    }
}

/// Waits for the end of serving, which comes with that of the mesh.
pub(super) async fn served(serving: JoinHandle<bool>) {
    match serving.await {
        Ok(true) => {}
        Ok(false) => {
            tracing::error!("images were not served: somebody else took the streams of other cloudlets")
        }
        Err(panic) => tracing::error!(%panic, "serving images panicked"),
    }
}

fn settings(config: &Config) -> exchange::Config {
    let settings = &config.exchange;
    exchange::Config {
        rate_limit_bytes_per_s: Some(settings.rate_limit_kib_per_s)
            .filter(|rate| *rate > 0)
            .map(|rate| rate.saturating_mul(1024)),
        profile: Profile {
            replicate: config.mission.replicate.clone(),
            reserve_bytes: settings.reserve_mib.saturating_mul(1 << 20),
        },
        patience: Duration::from_secs(settings.patience_s),
        on_demand: settings.on_demand,
        ..exchange::Config::default()
    }
}
