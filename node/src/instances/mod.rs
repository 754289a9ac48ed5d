//! Runs the instances: the driver of [`crate::lifecycle`].
//!
//! One task owns the core ([`owner`]); [`Instances`] is the handle that everybody else has. What the core wants done
//! is done by child tasks ([`tasks`]), each of which ends with exactly one input for the core, also when it panics.
//! Records of instances go to disk through one thread ([`journal`]); a VM is only started once the record that names it
//! is there. [`startup`] picks up what an earlier daemon left.
//!
//! ```text
//!   Instances ──Ask──► owner ──effects──► tasks ──► hypervisor, images, health checks
//!   (handles)            │ ▲                │
//!                        │ └─────Input──────┘
//!                        ├──► journal (sled)
//!                        └──► broadcast of changes
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use handheld::api::{Load, Sharing};
use migration::{Hypervisor, VmId};
use tokio::sync::{SetOnce, broadcast, mpsc, oneshot};
use vm_images::ServiceId;

use crate::exchange::Exchange;
use crate::lifecycle::{
    Claim, Created, Image, Instance, Keep, Limits, Refused, Request, Saved, Service, Token,
};

mod catalogue;
pub(crate) mod clock;
mod fetching;
pub mod health;
pub mod host;
pub mod images;
pub mod journal;
mod owner;
pub mod record;
mod startup;
pub(crate) mod tasks;

pub use catalogue::Catalogue;
pub use host::{Meter, SystemMeter};
pub use images::{Images, Offer, StoreImages};
pub use journal::Journal;
pub use startup::{Running, StartError, start, start_after};

/// Requests that may wait for the owner, which answers each in microseconds. More means that it is stuck, and then
/// askers wait.
const ASKS: usize = 256;
/// Changes that a listener may lag behind before it misses some. A start makes four; guess.
const CHANGES: usize = 1024;

/// How instances are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What may be given to instances, and for how long.
    pub limits: Limits,
    /// Address on which forwarded ports are opened: loopback in a mission, where members come through the API.
    pub bind: IpAddr,
    /// Directory with one directory for each instance.
    pub directory: PathBuf,
    /// When the mission ends, time since 1970 UTC.
    pub mission_ends: Option<Duration>,
}

/// What the driver works with.
#[derive(Clone)]
pub struct Tools {
    /// Runs the VMs.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Where images come from.
    pub images: Arc<dyn Images>,
    /// What the host has free.
    pub meter: Arc<dyn Meter>,
}

/// A handle on all instances; clones are handles on the same.
#[derive(Clone)]
pub struct Instances {
    asks: mpsc::Sender<Ask>,
    catalogue: Catalogue,
    meter: Arc<dyn Meter>,
    /// Where images come from that are not here; set once the mesh has begun, which itself needs this handle.
    exchange: Arc<SetOnce<Option<Exchange>>>,
}

/// Why an instance was not started; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image of that service is in the store, nor can one be fetched.
    #[error("there is no service '{service}' here; GET /api/v1/services lists what there is")]
    UnknownService {
        /// What was asked for.
        service: ServiceId,
    },
    /// There is an image, but it does not run on this host.
    #[error("{0}")]
    Unusable(String),
    /// The image store cannot be read.
    #[error("the images of this cloudlet cannot be listed")]
    Catalogue(#[source] images::Error),
    /// It does not fit, or nothing is started any more.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The owner task has ended: the daemon is on its way out.
    #[error("this cloudlet is shutting down; ask another one")]
    Gone,
}

pub(crate) enum Ask {
    Start(Request, oneshot::Sender<Result<(Instance, Created), Refused>>),
    Get(VmId, Option<Token>, oneshot::Sender<Option<Instance>>),
    Release(VmId, Token, oneshot::Sender<Option<Instance>>),
    ForceStop(VmId, oneshot::Sender<Option<Instance>>),
    List(oneshot::Sender<Vec<Instance>>),
    Subscribe(oneshot::Sender<Subscription>),
    Drain(bool, oneshot::Sender<()>),
    Moving(Moving),
    Load(oneshot::Sender<Load>),
    Shutdown(Keep, oneshot::Sender<()>),
}

/// What a handoff asks for; see the methods of the same names in [`crate::lifecycle::Core`].
pub(crate) enum Moving {
    Reserve(VmId, Claim, u64, oneshot::Sender<Result<(), Refused>>),
    Unreserve(VmId),
    Hold(VmId, oneshot::Sender<bool>),
    LetGo(VmId, oneshot::Sender<()>),
    Arrive(Box<Saved>, Arc<Service>, SocketAddr, oneshot::Sender<()>),
    MovedAway(VmId, oneshot::Sender<()>),
}

/// The present state of every instance, and every change from then on.
pub struct Subscription {
    /// Now.
    pub present: Vec<Instance>,
    /// From now on.
    pub changes: broadcast::Receiver<Arc<Instance>>,
}

impl Instances {
    /// Asks for an instance of a service, for the first time or again. Returns at once; the instance may be far from
    /// ready.
    pub async fn start(
        &self,
        service: &ServiceId,
        token: Token,
        sharing: Sharing,
    ) -> Result<(Instance, Created), Error> {
        let offer = self.catalogue.find(service).await.map_err(Error::Catalogue)?;
        let (service, image, sharing) = match offer {
            Some(Offer { unusable: Some(why), .. }) => return Err(Error::Unusable(why)),
            // A service for one user at a time has nothing to share.
            Some(offer) if offer.service.max_users <= 1 => (offer.service, Image::Here, Sharing::Private),
            Some(offer) => (offer.service, Image::Here, sharing),
            None => {
                let image = self.exchange.get().and_then(Option::as_ref).and_then(|it| it.on_demand(service));
                let image = image.ok_or_else(|| Error::UnknownService { service: service.clone() })?;
                (Arc::new(Service::elsewhere(service.clone(), image)), Image::Elsewhere, sharing)
            }
        };
        let request = Request {
            vm: VmId(uuid::Uuid::new_v4()),
            token,
            sharing,
            service,
            image,
            unix_ms: clock::unix_ms(),
            memory_available_bytes: self.meter.memory().available_bytes,
        };
        self.ask(|reply| Ask::Start(request, reply)).await?.map_err(Error::Refused)
    }

    /// From now on images come from there; `None`: from nowhere. To be said once; until then fetches wait.
    pub(crate) fn fetch_from(&self, exchange: Option<Exchange>) {
        if self.exchange.set(exchange).is_err() {
            tracing::error!("where images come from was said twice; the first word holds");
        }
    }

    /// One instance. With a token also says that this client still uses it.
    pub async fn get(&self, vm: VmId, token: Option<Token>) -> Result<Option<Instance>, Error> {
        self.ask(|reply| Ask::Get(vm, token, reply)).await
    }

    /// A client no longer uses an instance; the last one stops it.
    pub async fn release(&self, vm: VmId, token: Token) -> Result<Option<Instance>, Error> {
        self.ask(|reply| Ask::Release(vm, token, reply)).await
    }

    /// Stops an instance whoever uses it.
    pub async fn force_stop(&self, vm: VmId) -> Result<Option<Instance>, Error> {
        self.ask(|reply| Ask::ForceStop(vm, reply)).await
    }

    /// Every instance, also those that ended lately.
    pub async fn list(&self) -> Result<Vec<Instance>, Error> {
        self.ask(Ask::List).await
    }

    /// The present state of every instance, and every change from then on; nothing is missed in between.
    pub async fn subscribe(&self) -> Result<Subscription, Error> {
        self.ask(Ask::Subscribe).await
    }

    /// From now on nobody new is taken, or they are again.
    pub async fn drain(&self, draining: bool) -> Result<(), Error> {
        self.ask(|reply| Ask::Drain(draining, reply)).await
    }

    /// Keeps room for an instance that may come from another cloudlet.
    pub(crate) async fn reserve(&self, vm: VmId, claim: Claim) -> Result<(), Error> {
        let available = self.meter.memory().available_bytes;
        let asked = self.ask(|reply| Ask::Moving(Moving::Reserve(vm, claim, available, reply))).await?;
        asked.map_err(Error::Refused)
    }

    /// It does not come.
    pub(crate) async fn unreserve(&self, vm: VmId) {
        // An owner that has ended keeps no room.
        let _ = self.asks.send(Ask::Moving(Moving::Unreserve(vm))).await;
    }

    /// The VM is about to stand still; `false` if there is no such instance, or it is not ready.
    pub(crate) async fn hold(&self, vm: VmId) -> Result<bool, Error> {
        self.ask(|reply| Ask::Moving(Moving::Hold(vm, reply))).await
    }

    /// The VM runs on here.
    pub(crate) async fn let_go(&self, vm: VmId) -> Result<(), Error> {
        self.ask(|reply| Ask::Moving(Moving::LetGo(vm, reply))).await
    }

    /// The VM runs here now; answered when that is on disk.
    pub(crate) async fn arrive(
        &self,
        saved: Saved,
        service: Arc<Service>,
        address: SocketAddr,
    ) -> Result<(), Error> {
        self.ask(|reply| Ask::Moving(Moving::Arrive(Box::new(saved), service, address, reply))).await
    }

    /// The VM runs elsewhere now.
    pub(crate) async fn moved_away(&self, vm: VmId) -> Result<(), Error> {
        self.ask(|reply| Ask::Moving(Moving::MovedAway(vm, reply))).await
    }

    /// How busy the cloudlet is.
    pub async fn load(&self) -> Result<Load, Error> {
        self.ask(Ask::Load).await
    }

    /// What can be started.
    pub async fn offers(&self) -> Result<Arc<Vec<Offer>>, Error> {
        self.catalogue.offers().await.map_err(Error::Catalogue)
    }

    /// Systems of the images that there are, as `ID-VERSION_ID` of os-release.
    pub async fn guest_systems(&self) -> Result<Arc<BTreeSet<String>>, Error> {
        self.catalogue.guest_systems().await.map_err(Error::Catalogue)
    }

    /// Starts nothing more and stops what is not to be kept; returns when that is done and the records are closed.
    pub async fn shutdown(&self, keep: Keep) -> Result<(), Error> {
        self.ask(|reply| Ask::Shutdown(keep, reply)).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Error::Gone)?;
        answer.await.map_err(|_| Error::Gone)
    }
}
