//! The other cloudlets of the mission: [`mesh::swarm`] run by the daemon.
//!
//! * [`Peers`]: who is there, what they hold, and the way to them; for the API and whatever else needs peers.
//! * [`local`]: what this cloudlet says of itself.
//! * [`relay`]: connections to the APIs of cloudlets by way of others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh::NodeId;
use mesh::membership::{Event, Members};
use mesh::swarm::{self, Hail, Handle, MissionVerifier, Multiaddr};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::trust::Membership;

mod local;
mod relay;
mod view;

pub use local::Local;
pub use relay::{ByPeer, Relayed, Relays};

/// How often this cloudlet looks at its own state for something new to say; the mesh decides what of that is worth
/// sending. A guess: half of what a handheld may wait for a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long the farewell may take. A guess: it is one packet to each neighbour.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// Why the mesh could not be started. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The swarm refuses.
    #[error(
        "the mesh with other cloudlets cannot be started; choose another address with mesh.listen, or switch it off with mesh.enabled=false"
    )]
    Swarm(#[source] swarm::Error),
    /// An address is none.
    #[error("'{0}' is no address of a peer; write IP:PORT")]
    Address(String),
}

/// The other cloudlets. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    handle: Handle,
}

/// What runs it; see [`Running::ended`].
pub struct Running {
    swarm: swarm::Running,
    keeper: tokio::task::JoinHandle<()>,
}

/// Starts the mesh. It says goodbye and ends when `stop` is cancelled.
pub fn start(
    settings: &config::Mesh,
    listen: SocketAddr,
    membership: &Membership,
    local: Local,
    stop: CancellationToken,
) -> Result<(Peers, Running), Error> {
    let trust = membership.trust();
    let identity = swarm::identity(trust).map_err(Error::Swarm)?;
    // Nodes must not choose the same neighbours at the same time.
    let seed = rand::random();
    let mut config = swarm::Config::new(identity, addresses(listen), swarm::topic(trust), seed);
    config.strangers = membership.strangers();
    config.core.multicast = settings.multicast;
    config.core.rendezvous = settings.peers.iter().map(|peer| rendezvous(peer)).collect::<Result<_, _>>()?;
    if settings.multicast {
        config.hail = Some(Hail::of(trust));
    }
    let verifier = Box::new(MissionVerifier::new(trust.clone()));
    let (handle, swarm) = swarm::start(config, verifier, local.empty()).map_err(Error::Swarm)?;
    let peers = Peers { handle };
    let keeper = tokio::spawn(keep(peers.clone(), membership.clone(), local, stop));
    Ok((peers, Running { swarm, keeper }))
}

impl Running {
    /// Waits for the end of both tasks.
    pub async fn ended(self) {
        if let Err(panic) = self.keeper.await {
            tracing::error!(%panic, "the keeper of the mesh panicked");
        }
        if let Err(panic) = self.swarm.ended().await {
            tracing::error!(%panic, "the mesh panicked");
        }
    }
}

/// Tells the mesh what this cloudlet is, and keeps what it hears on disk.
async fn keep(peers: Peers, membership: Membership, local: Local, stop: CancellationToken) {
    let mut events = peers.handle.events();
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {
                // A cloudlet that cannot say how it is says nothing new.
                if let Some(advert) = local.advert().await
                    && peers.handle.set_local(advert).await.is_err() {
                    return;
                }
            }
            event = events.recv() => match event {
                Ok(event) => heard(&membership, &event).await,
                // What was missed are changes that are looked up anyway, and perhaps a revocation.
                Err(RecvError::Lagged(_)) => keep_revocations(&membership).await,
                Err(RecvError::Closed) => return,
            },
        }
    }
    if tokio::time::timeout(LEAVE_LIMIT, peers.handle.leave()).await.is_err() {
        tracing::warn!("the other cloudlets were not told that this one leaves");
    }
}

async fn heard(membership: &Membership, event: &Event) {
    match event {
        Event::Joined(node) => tracing::info!(%node, "a cloudlet is there"),
        Event::Left(node) => tracing::info!(%node, "a cloudlet has left"),
        Event::Unreachable(node) => tracing::info!(%node, "a cloudlet can no longer be reached"),
        Event::Expelled(node) => tracing::warn!(%node, "a cloudlet is no longer in the mission"),
        Event::Revocation(_) => {
            tracing::info!("certificates were revoked, another cloudlet says");
            keep_revocations(membership).await;
        }
        Event::Changed(_) | Event::Forgotten(_) | Event::NeighbourUp(_) | Event::NeighbourDown(..) => {}
    }
}

async fn keep_revocations(membership: &Membership) {
    let membership = membership.clone();
    match tokio::task::spawn_blocking(move || membership.keep_revocations()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "a revocation holds until this cloudlet ends, but cannot be kept");
        }
        Err(panic) => tracing::error!(%panic, "keeping a revocation panicked"),
    }
}

impl Peers {
    /// This cloudlet.
    pub fn node(&self) -> NodeId {
        self.handle.node()
    }

    /// Everybody who is known, this cloudlet included.
    pub fn members(&self) -> Arc<Members> {
        self.handle.members().borrow().clone()
    }

    /// Spreads revocations; each is signed by somebody who may revoke.
    pub async fn revoke(&self, encoded: Vec<u8>) -> Result<(), swarm::Error> {
        self.handle.revoke(encoded).await
    }

    /// The swarm itself: streams to peers.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// QUIC first: it takes one round trip less. TCP is for networks that drop UDP.
fn addresses(listen: SocketAddr) -> Vec<Multiaddr> {
    let ip = Multiaddr::from(listen.ip());
    let port = listen.port();
    ["udp", "tcp"]
        .iter()
        .filter_map(|transport| {
            let end = if *transport == "udp" { "/quic-v1" } else { "" };
            format!("{ip}/{transport}/{port}{end}").parse().ok()
        })
        .collect()
}

/// The address at which a peer is dialled whose `IP:PORT` or multiaddress somebody wrote down.
fn rendezvous(peer: &str) -> Result<String, Error> {
    if let Ok(address) = peer.parse::<SocketAddr>() {
        return Ok(format!("{}/udp/{}/quic-v1", Multiaddr::from(address.ip()), address.port()));
    }
    let address: Multiaddr = peer.parse().map_err(|_| Error::Address(peer.to_owned()))?;
    Ok(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_people_do() {
        let listen: Vec<String> =
            addresses("10.0.0.7:8479".parse().unwrap()).iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["/ip4/10.0.0.7/udp/8479/quic-v1", "/ip4/10.0.0.7/tcp/8479"]);
        assert_eq!(rendezvous("10.0.0.7:8479").unwrap(), "/ip4/10.0.0.7/udp/8479/quic-v1");
        assert_eq!(rendezvous("/ip4/10.0.0.7/tcp/1").unwrap(), "/ip4/10.0.0.7/tcp/1");
        assert!(rendezvous("truck-7").unwrap_err().to_string().contains("IP:PORT"));
    }
}
