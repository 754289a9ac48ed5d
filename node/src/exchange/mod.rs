//! Fetching images from other cloudlets, and serving them.
//!
//! What to ask whom for is decided in [`mesh::exchange`]; here are streams, files, clocks and tasks.
//!
//! ```text
//!            Exchange (handle)
//!                 | asks
//!              owner ------ replication: what the mission's profile lacks
//!                 | one fetch at a time, a parent before its child
//!              fetch ------ plan
//!             /  |  \
//!        link  link  link      one for each peer: a stream
//!             \  |  /
//!             keeper           one thread: unpacks, checks, writes
//! ```
//!
//! * A fetch that is ended in whatever way leaves what it has under `incoming` in the store, and goes on from there:
//!   after the next start of the daemon by itself.
//! * What is here in any image of the store (the same block at the same place) is copied, not fetched; blocks of
//!   zeros are known from the list and neither sent nor written.
//! * Both directions give way to people: see [`Throttle`].

mod error;
mod fetch;
mod find;
pub(crate) mod frames;
mod keeper;
mod layout;
mod link;
mod owner;
mod packing;
mod peers;
mod progress;
mod serve;
mod shelf;
mod swarm;
mod talk;
mod throttle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh::NodeId;
use mesh::exchange::policy::{self, Fetchable, Profile};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vm_images::{ImageId, ServiceId, Store};

pub use error::{Error, FindError};
pub use peers::{ByteStream, Duplex, Peers};
pub use progress::{Phase, Progress};
pub use shelf::Shelf;
pub(crate) use swarm::{HeldStream, node_of};
pub use swarm::{SwarmPeers, serve_swarm};
pub use throttle::{Pressing, Throttle};

/// What may be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most that is fetched and most that is served, bytes per second each; `None`: what links carry, less a share.
    pub rate_limit_bytes_per_s: Option<u64>,
    /// What the mission wants on every node.
    pub profile: Profile,
    /// A fetch that nothing comes in for ends after this long; what it has stays.
    pub patience: Duration,
    /// Whether [`Exchange::on_demand`] has anything fetched.
    pub on_demand: bool,
    /// How a plan decides.
    pub plan: mesh::exchange::plan::Config,
}

impl Default for Config {
    /// `patience` is a guess: two convoys that pass each other now and then.
    fn default() -> Self {
        Self {
            rate_limit_bytes_per_s: None,
            profile: Profile::default(),
            patience: Duration::from_secs(600),
            on_demand: true,
            plan: mesh::exchange::plan::Config::default(),
        }
    }
}

/// The exchange of images. Cheap to clone.
#[derive(Clone)]
pub struct Exchange {
    asks: mpsc::Sender<Ask>,
    shared: Arc<Shared>,
}

/// What everybody here uses.
struct Shared {
    store: Store,
    shelf: Shelf,
    peers: Arc<dyn Peers>,
    config: Config,
    throttle: Throttle,
    /// Streams that are served now, for each peer.
    serving: Mutex<BTreeMap<NodeId, usize>>,
    /// What is going on and what went on lately, in order of asking.
    all: watch::Sender<Vec<Progress>>,
    /// Images whose fetching failed a moment ago, so that it is not tried again at once.
    failing: Mutex<BTreeSet<ImageId>>,
    /// Peers that sent what was not true; not asked again while the daemon runs.
    liars: Mutex<BTreeSet<NodeId>>,
}

/// What the owner is asked.
enum Ask {
    Fetch { wanted: Wanted, reply: oneshot::Sender<watch::Receiver<Progress>> },
    Cancel { image: ImageId, reply: oneshot::Sender<bool> },
}

/// An image that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    image: ImageId,
    from: Option<NodeId>,
    why: Why,
    /// Whether it is wanted also when nobody follows it any more.
    lasting: bool,
}

/// Why an image is fetched: people go before the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// An operator wants it.
    Asked,
    /// An instance waits for it.
    Demanded,
    /// It was begun earlier.
    Resumed,
    /// The mission wants it.
    Profile,
}

impl Why {
    /// Whether somebody waits for it.
    fn is_for_somebody(self) -> bool {
        matches!(self, Self::Asked | Self::Demanded)
    }
}

/// The exchange's tasks.
pub struct Running {
    stop: CancellationToken,
    owner: JoinHandle<()>,
}

impl Running {
    /// Ends fetching; what is under way stays for the next start. Streams that are served end with their peers.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.owner.await {
            tracing::error!(%error, "the exchange of images ended in a panic");
        }
    }
}

impl Exchange {
    /// Starts the exchange. Goes on with what an earlier daemon did not finish.
    pub fn start(store: Store, peers: Arc<dyn Peers>, config: Config) -> (Self, Running) {
        let throttle = Throttle::new(config.rate_limit_bytes_per_s);
        let shared = Arc::new(Shared {
            shelf: Shelf::new(store.clone()),
            store,
            peers,
            config,
            throttle,
            serving: Mutex::default(),
            all: watch::Sender::new(Vec::new()),
            failing: Mutex::default(),
            liars: Mutex::default(),
        });
        // People and programs ask; each waits for its answer. A guess that is never reached.
        let (asks, inbox) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let owner = tokio::spawn(owner::run(Arc::clone(&shared), inbox, stop.clone()));
        (Self { asks, shared }, Running { stop, owner })
    }

    /// Fetches an image and its parents; from one node alone if `from` says so. The receiver follows it until its
    /// phase is [`Phase::Done`] or [`Phase::Failed`]. An image that is fetched already is joined.
    pub async fn fetch(
        &self,
        image: ImageId,
        from: Option<NodeId>,
    ) -> Result<watch::Receiver<Progress>, Error> {
        self.ask_for(Wanted { image, from, why: Why::Asked, lasting: true }).await
    }

    /// The image to fetch for a handheld that asks for a service which is not here: the one that most members hold;
    /// `None` if nobody does, or if nothing is to be fetched on demand.
    pub fn on_demand(&self, service: &ServiceId) -> Option<ImageId> {
        self.shared
            .config
            .on_demand
            .then(|| policy::most_held(service, &self.shared.peers.members()))
            .flatten()
    }

    /// What [`Exchange::on_demand`] could have fetched, and how. What failed lately is left out.
    pub async fn fetchable(&self) -> BTreeMap<ServiceId, Fetchable> {
        let shared = &self.shared;
        let Some(own) = shared.shelf.holdings().await.filter(|_| shared.config.on_demand) else {
            return BTreeMap::new();
        };
        let mut fetchable = policy::fetchable(&own, &shared.peers.members(), &shared.peers.rates());
        let failing = shared.failing.lock().unwrap_or_else(PoisonError::into_inner);
        fetchable.retain(|_, one| !failing.contains(&one.image));
        fetchable
    }

    /// As [`Exchange::fetch`], for somebody who waits: once every receiver is gone, and nobody else wants the image, the
    /// fetch ends. One that failed a moment ago is not tried again at once, and its failure is the answer.
    pub async fn fetch_while_wanted(&self, image: ImageId) -> Result<watch::Receiver<Progress>, Error> {
        self.ask_for(Wanted { image, from: None, why: Why::Demanded, lasting: false }).await
    }

    async fn ask_for(&self, wanted: Wanted) -> Result<watch::Receiver<Progress>, Error> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Fetch { wanted, reply }).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)
    }

    /// Ends a fetch; what it has stays. Says whether there was one.
    pub async fn cancel(&self, image: ImageId) -> Result<bool, Error> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Cancel { image, reply }).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)
    }

    /// The image that people mean: an id, a service that members hold one image of, or the first digits of an image
    /// that a member holds. If `from` is given, only that member counts. Where no member helps, what is here counts, and
    /// what was begun: asking again is no error.
    pub async fn find(&self, wanted: &str, from: Option<NodeId>) -> Result<ImageId, FindError> {
        let mut members = self.shared.peers.members();
        if let Some(node) = from {
            members.retain(|member, _| *member == node);
        }
        let found = find::image(wanted, &members);
        if !matches!(found, Err(FindError::Alone { .. } | FindError::NobodyHasIt { .. })) {
            return found;
        }
        let (store, text) = (self.shared.store.clone(), wanted.to_owned());
        match tokio::task::spawn_blocking(move || find::here(&store, &text)).await {
            Ok(Some(image)) => Ok(image),
            // Neither a reason to say less of the members.
            Ok(None) | Err(_) => found,
        }
    }

    /// What is being fetched and what was fetched lately, always the newest.
    pub fn all(&self) -> watch::Receiver<Vec<Progress>> {
        self.shared.all.subscribe()
    }

    /// What makes fetching and serving give way.
    pub fn throttle(&self) -> &Throttle {
        &self.shared.throttle
    }

    /// Serves images on a stream that a proven peer opened, until the peer ends it or breaks the rules.
    pub async fn serve(&self, peer: NodeId, stream: ByteStream) {
        serve::run(Arc::clone(&self.shared), peer, stream).await;
    }
}

impl Shared {
    fn liars(&self) -> BTreeSet<NodeId> {
        self.liars.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn mark_liar(&self, node: NodeId, what: &dyn std::fmt::Display) {
        tracing::warn!(%node, reason = %what, "a peer sent what is not true; it is not asked for images again");
        self.liars.lock().unwrap_or_else(PoisonError::into_inner).insert(node);
    }
}
