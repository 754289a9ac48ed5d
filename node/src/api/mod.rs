//! The HTTP API, version 1. Its contract is [`handheld::api`]; this is the server.
//!
//! * [`connection`], [`wire`]: who may hold how many connections for how long; TLS
//! * [`gate`]: who may do what; [`mission`]: pairing and revocations
//! * [`routes`], [`handlers`], [`events`]: what is answered, and the OpenAPI document made from the same
//! * [`standing`]: where the cloudlet is, whether it is being emptied
//! * [`images`]: fetched from other cloudlets; [`handoff`]: instances that move to them; [`placement`]: which should, and why
//! * [`tunnel`]: raw bytes to a Service VM; [`relay`]: to another cloudlet's API
//! * [`problem`], [`extract`]: every error is a [`handheld::api::Problem`]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use handheld::api::Cloudlet;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::exchange::Exchange;
use crate::handoff::Handoffs;
use crate::instances::{self, Instances};
use crate::peers::Peers;
use crate::placement::Placement;
use crate::places::Places;
use crate::standing::Standing;
use crate::trust::Membership;

mod connection;
mod events;
mod extract;
mod gate;
mod handlers;
mod handoff;
mod images;
mod mission;
mod peers;
mod placement;
mod problem;
mod relay;
mod routes;
mod standing;
mod tunnel;
mod view;
mod wire;

pub use connection::{MAX_CONNECTIONS, SILENCE_LIMIT};
pub use routes::{document, router};

/// What never changes while the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Node id, text form of `mesh::NodeId`.
    pub node_id: String,
    /// Name for people.
    pub name: String,
    /// Release of the software.
    pub software: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
}

/// What the handlers work with.
#[derive(Clone)]
pub struct Api {
    about: Arc<About>,
    instances: Instances,
    standing: Standing,
    /// Cancelled when listeners to events are to be told farewell.
    goodbye: CancellationToken,
    /// `None` lets everybody in.
    membership: Option<Membership>,
    /// `None` where there is no mesh.
    peers: Option<Peers>,
    /// `None` where there is nobody to exchange images with.
    exchange: Option<Exchange>,
    /// `None` where there is nobody to hand instances over to.
    handoffs: Option<Handoffs>,
    /// `None` with them.
    placement: Option<Placement>,
    /// By public key; one entry for all who have none.
    tunnels: Places<Option<[u8; 32]>>,
}

impl Api {
    /// An API over these instances, for the members of a mission, or for everybody. Streams of events end when `goodbye` is
    /// cancelled.
    pub fn new(
        about: About,
        instances: Instances,
        standing: Standing,
        goodbye: CancellationToken,
        membership: Option<Membership>,
    ) -> Self {
        Self {
            about: Arc::new(about),
            instances,
            standing,
            goodbye,
            membership,
            peers: None,
            exchange: None,
            handoffs: None,
            placement: None,
            tunnels: Places::default(),
        }
    }

    /// The same, with the other cloudlets.
    pub fn among(self, peers: Option<Peers>) -> Self {
        Self { peers, ..self }
    }

    /// The same, with the images of other cloudlets.
    pub fn exchanging(self, exchange: Option<Exchange>) -> Self {
        Self { exchange, ..self }
    }

    /// The same, with instances that move, and what decides where to.
    pub fn handing_off(self, handoffs: Option<Handoffs>, placement: Option<Placement>) -> Self {
        Self { handoffs, placement, ..self }
    }

    /// What this cloudlet is and how busy it is.
    pub async fn cloudlet(&self) -> Result<Cloudlet, instances::Error> {
        let (load, offers) = (self.instances.load().await?, self.instances.offers().await?);
        let usable = offers.iter().filter(|offer| offer.unusable.is_none());
        let systems = self.instances.guest_systems().await?;
        let fetchable = match &self.exchange {
            Some(exchange) => exchange.fetchable().await,
            None => Default::default(),
        };
        Ok(Cloudlet {
            api_version: handheld::api::VERSION,
            node_id: self.about.node_id.clone(),
            name: self.about.name.clone(),
            software: self.about.software.clone(),
            accelerator: self.about.accelerator.clone(),
            load,
            services: usable.map(|offer| offer.service.id.clone()).collect(),
            fetchable: fetchable.iter().map(|(service, one)| self.fetchable_view(service, one)).collect(),
            standing: self.standing.view((*systems).clone()),
        })
    }
}

/// Answers requests on `listener` until `stop` is cancelled and those under way are answered.
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) -> std::io::Result<()> {
    let tls = match &api.membership {
        Some(membership) => Some(connection::Tls::new(membership).map_err(std::io::Error::other)?),
        None => None,
    };
    let relayed = api.peers.as_ref().and_then(Peers::relayed);
    let service = router(api).into_make_service_with_connect_info::<gate::Peer>();
    axum::serve(connection::Guarded::new(listener, tls, relayed), service)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// The address of this host on which a client's connection arrived: what the client can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival(pub Option<IpAddr>);

impl Arrival {
    /// `address` as this client reaches it.
    fn seen(self, address: SocketAddr) -> SocketAddr {
        match self.0 {
            Some(ip) if address.ip().is_unspecified() => SocketAddr::new(ip, address.port()),
            _ => address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_open_everywhere_is_shown_where_the_client_came_in() {
        let came_in = Arrival(Some([10, 0, 0, 7].into()));
        let seen = |ip: [u8; 4]| came_in.seen((ip, 4000).into());
        assert_eq!(seen([0, 0, 0, 0]), ([10, 0, 0, 7], 4000).into());
        assert_eq!(seen([192, 168, 1, 1]), ([192, 168, 1, 1], 4000).into());
        assert_eq!(Arrival(None).seen(([0, 0, 0, 0], 4000).into()), ([0, 0, 0, 0], 4000).into());
    }
}
