//! Handoffs: running VMs move to other cloudlets. The driver of [`migration::handoff`] and [`migration::reduce`].
//!
//! ```text
//!           Handoffs (handle)                                     the other cloudlet
//!               │ orders, words, streams of pages
//!            actor ── one for each VM that takes part; owns its core
//!           /  |   \
//!     journal  |   mail ──words──────────────────────────────────► its actor
//!       (sled) |
//!         send: thread that reduces, task that writes ──pages────► receive: task that reads, thread that rebuilds
//! ```
//!
//! * Everything that decides who owns the VM is in the core, which is written down before anything follows from it.
//! * A VM that stands still for a handoff is held in [`crate::instances`]: nobody stops it there meanwhile.
//! * What arrived of a VM that did not come is kept (`handoff/arrived`) for a day, through restarts of either side, unless
//!   another VM needs the room. An order is kept, too: it is tried whenever the destination is there, until it is done or cancelled.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use mesh::NodeId;
use mesh::membership::Members;
use migration::VmId;
use migration::handoff::share::Priority;
use migration::handoff::{Copy, Limits, Place, wire::decode};
use migration::hypervisor::{Host, Moving, TOPOLOGY, check_compatible};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vm_images::{Hardware, Image, ImageId, Store};

mod actor;
mod experience;
mod flow;
mod journal;
mod leftovers;
mod mail;
mod papers;
mod receive;
mod send;
mod startup;
mod status;
mod stock;
mod turns;
mod ways;
pub mod wire;

use crate::causes::chain;
use crate::exchange::{ByteStream, Exchange};
use crate::instances::clock::{self, Clock};
use crate::instances::{self, Instances, tasks};
use actor::{Actor, Note};
use experience::Learnt;
use mail::Mail;
use stock::Stock;
use turns::Turns;
use wire::Frame;

pub use experience::Experience;
pub use journal::{Error as JournalError, Goal, Journal};
pub use startup::{Error as SettleError, Estate, settle};
pub use status::{Phase, Status};
pub use ways::{SwarmWays, Ways, accept_swarm};

/// Notes that a VM's actor may be behind. Words beyond are dropped and said again by who said them.
const NOTES: usize = 64;
/// Most VMs that take part in handoffs at a time. A guess: ten times what a vehicle runs. More are not listened to.
const ACTORS_MOST: usize = 512;
/// Most handoffs that are shown after their end.
const SHOWN_MOST: usize = 64;
/// News that a listener may lag behind.
const NEWS: usize = 64;
/// How long a stream may take to say what it is for.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How a refusal begins that comes from an image which is on its way.
const FETCHING: &str = "its image is not here yet";

/// Why something was not done; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such instance.
    #[error("there is no instance {0} here")]
    UnknownInstance(VmId),
    /// It does not run, or not any more.
    #[error("instance {0} is not ready; only what is ready can move")]
    NotReady(VmId),
    /// It is here already.
    #[error("that is this cloudlet; name another one")]
    Here,
    /// It is elsewhere.
    #[error("the instance is at cloudlet {0} now; ask that one")]
    Elsewhere(NodeId),
    /// A commit may have left.
    #[error("the instance is about to run at cloudlet {0}, or here again; wait until that is known")]
    InDoubt(NodeId),
    /// It moves already.
    #[error("the instance moves already; cancel that first")]
    UnderWay,
    /// Nobody wants it to move.
    #[error("the instance does not move")]
    NothingToCancel,
    /// It is known who owns it.
    #[error("it is not in doubt where the instance runs; nothing needs to be forced")]
    NotInDoubt,
    /// The records cannot be read.
    #[error("cannot read where instances were first started: {0}")]
    Homes(String),
    /// Too many VMs take part in handoffs.
    #[error("too many handoffs are under way; try again later")]
    TooMany,
    /// The instances' owner has ended.
    #[error(transparent)]
    Instances(instances::Error),
    /// Handoffs have ended.
    #[error("this cloudlet is shutting down")]
    Gone,
}

/// What handoffs work with.
pub struct Tools {
    /// This cloudlet.
    pub node: NodeId,
    /// Runs the VMs.
    pub hypervisor: Arc<dyn Moving>,
    /// What the hypervisor can run.
    pub host: Host,
    /// The instances.
    pub instances: Instances,
    /// The images.
    pub store: Store,
    /// The way to other cloudlets.
    pub ways: Arc<dyn Ways>,
    /// Fetches images that are missing.
    pub exchange: Option<Exchange>,
    /// The records.
    pub journal: Journal,
    /// The instances' directory.
    pub directory: PathBuf,
    /// Directory for what arrives and for indexes.
    pub own: PathBuf,
    /// Address on which services' ports are opened.
    pub bind: IpAddr,
    /// How long what may take.
    pub limits: Limits,
}

/// Something that clients may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A VM runs elsewhere now.
    Moved {
        /// Which.
        vm: VmId,
        /// Where.
        to: NodeId,
    },
}

/// A handle; clones are handles on the same.
#[derive(Clone)]
pub struct Handoffs(Arc<Shared>);

struct Shared {
    node: NodeId,
    hypervisor: Arc<dyn Moving>,
    host: Host,
    instances: Instances,
    store: Store,
    ways: Arc<dyn Ways>,
    exchange: Option<Exchange>,
    journal: Journal,
    directory: PathBuf,
    own: PathBuf,
    bind: IpAddr,
    limits: Limits,
    clock: Clock,
    mail: Mail,
    turns: Turns,
    stock: Arc<Stock>,
    actors: Mutex<BTreeMap<VmId, mpsc::Sender<Note>>>,
    places: Mutex<BTreeMap<VmId, Place>>,
    shown: watch::Sender<Vec<Status>>,
    learnt: Mutex<Learnt>,
    news: broadcast::Sender<News>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Why an offered VM is not taken.
enum CannotTake {
    NoImage,
    Because(String),
}

impl Handoffs {
    /// Starts, and goes on with what an earlier daemon left.
    pub fn start(tools: Tools, estate: &Estate) -> Result<Self, JournalError> {
        let Tools { node, hypervisor, host, instances, store, ways, exchange, .. } = tools;
        let Tools { journal, directory, own, bind, limits, .. } = tools;
        let (records, orders) = (journal.all()?, journal.orders()?);
        let shared = Arc::new(Shared {
            node,
            hypervisor,
            host,
            instances,
            mail: Mail::new(Arc::clone(&ways)),
            turns: Turns::default(),
            stock: Arc::new(Stock::new(store.clone(), own.join("index"))),
            store,
            ways,
            exchange,
            journal,
            directory,
            own,
            bind,
            limits,
            clock: Clock::start(),
            actors: Mutex::default(),
            places: Mutex::new(records.iter().map(|(vm, record)| (*vm, record.place)).collect()),
            shown: watch::Sender::new(Vec::new()),
            learnt: Mutex::default(),
            news: broadcast::channel(NEWS).0,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        for (vm, record) in records {
            let copy = estate.copies.get(&vm).copied().unwrap_or(Copy::None);
            let order = orders.get(&vm).filter(|_| matches!(record.place, Place::Owner { .. }));
            let mut actors = shared.actors();
            shared.spawn(&mut actors, vm, Some(record), copy, order.copied());
        }
        Ok(Self(shared))
    }

    /// Ends: what is not committed is taken back. Returns when no VM is touched any more.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Sends a VM to another cloudlet. Returns when that is begun; [`Handoffs::all`] tells how far it is.
    pub async fn order(&self, vm: VmId, to: NodeId, priority: Priority) -> Result<(), Error> {
        self.ask(vm, |reply| Note::Order(Goal { to, priority }, reply)).await
    }

    /// Stops a handoff. If it was committed, only the destination can say whether it still can be stopped.
    pub async fn cancel(&self, vm: VmId) -> Result<(), Error> {
        self.ask(vm, Note::Cancel).await
    }

    /// An operator vouches that the destination of a VM in doubt does not run it and never will: it runs on here. If that
    /// is wrong it runs twice, until both are in contact again and the destination's copy is paused.
    pub async fn force(&self, vm: VmId) -> Result<(), Error> {
        self.ask(vm, Note::Force).await
    }

    async fn ask(
        &self,
        vm: VmId,
        note: impl FnOnce(oneshot::Sender<Result<(), Error>>) -> Note,
    ) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        if !self.0.send(vm, note(reply)) {
            return Err(Error::TooMany);
        }
        answer.await.map_err(|_| Error::Gone)?
    }

    /// Sends every ready instance that was first started elsewhere back there; gives which. Each is tried whenever its home is in
    /// reach, until it is done or cancelled.
    pub async fn reintegrate(&self) -> Result<Vec<VmId>, Error> {
        let homes = self.0.homes().await.map_err(Error::Homes)?;
        let mut begun = Vec::new();
        for instance in self.0.instances.list().await.map_err(Error::Instances)? {
            let Some(home) = homes.get(&instance.vm).filter(|home| **home != self.0.node) else { continue };
            match self.order(instance.vm, *home, Priority::Low).await {
                Ok(()) => begun.push(instance.vm),
                // It moves already, or not any more.
                Err(error) => tracing::info!(vm = %instance.vm, %error, "an instance is not sent home"),
            }
        }
        Ok(begun)
    }

    /// Handoffs that are under way and those that ended lately, always the newest.
    pub fn all(&self) -> watch::Receiver<Vec<Status>> {
        self.0.shown.subscribe()
    }

    /// The newest handoff of a VM.
    pub fn status(&self, vm: VmId) -> Option<Status> {
        self.0.shown.borrow().iter().rev().find(|status| status.vm == vm).cloned()
    }

    /// Where a VM is that was here once: the cloudlet, and its API.
    pub fn moved(&self, vm: VmId) -> Option<(NodeId, Option<String>)> {
        let places = self.0.places.lock().unwrap_or_else(PoisonError::into_inner);
        match places.get(&vm) {
            Some(Place::Gone { to, .. }) => Some((*to, self.0.ways.api(*to))),
            _ => None,
        }
    }

    /// Whether a VM came here from another cloudlet.
    pub(crate) fn came(&self, vm: VmId) -> bool {
        let places = self.0.places.lock().unwrap_or_else(PoisonError::into_inner);
        // The first owner's epoch is 1, and each move counts it up.
        matches!(places.get(&vm), Some(Place::Owner { epoch: 2.. }))
    }

    /// Address of the API of a cloudlet, as it says.
    pub fn api(&self, node: NodeId) -> Option<String> {
        self.0.ways.api(node)
    }

    /// This cloudlet.
    pub(crate) fn node(&self) -> NodeId {
        self.0.node
    }

    /// What is known of the other cloudlets.
    pub(crate) fn members(&self) -> Arc<Members> {
        self.0.ways.members()
    }

    /// The images.
    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// A VM's own layer of its disk.
    pub(crate) fn overlay(&self, vm: VmId) -> PathBuf {
        tasks::directory(&self.0.directory, vm).join("disk.qcow2")
    }

    /// Opens an image whose VMs may have to leave, so that the first that does has not to wait for its index. Blocks: up to
    /// two seconds the first time.
    pub(crate) fn get_ready(&self, image: ImageId) {
        if let Err(error) = self.0.stock.open(image) {
            // A handoff will say so, too.
            tracing::debug!(%image, error = &error as &dyn std::error::Error, "an image cannot be opened");
        }
    }

    /// What the last handoff of a VM of this image took.
    pub(crate) fn experience(&self, image: ImageId) -> Option<Experience> {
        self.0.learnt().of(image)
    }

    /// What the last handoff to a cloudlet got of the link, bytes each second.
    pub(crate) fn rate_bytes_s(&self, to: NodeId) -> Option<f64> {
        self.0.learnt().rate_bytes_s(to)
    }

    /// What happens from now on.
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.0.news.subscribe()
    }

    /// Takes a stream that a proven member opened.
    pub async fn accept(&self, from: NodeId, mut stream: ByteStream) {
        let hello = tokio::select! {
            hello = tokio::time::timeout(HELLO_LIMIT, wire::read(&mut stream)) => hello,
            () = self.0.stop.cancelled() => return,
        };
        match hello {
            Ok(Ok(Frame::Words)) => self.listen(from, stream).await,
            Ok(Ok(Frame::Pages { vm, grant })) => drop(self.0.send(vm, Note::Pages(from, grant, stream))),
            Ok(Ok(_)) => tracing::warn!(%from, "a stream of a handoff that does not say what it is for"),
            Ok(Err(error)) => tracing::warn!(%from, %error, "a stream of a handoff that cannot be read"),
            Err(_) => tracing::debug!(%from, "a stream of a handoff on which nothing came"),
        }
    }

    async fn listen(&self, from: NodeId, mut stream: ByteStream) {
        loop {
            let frame = tokio::select! {
                frame = wire::read(&mut stream) => frame,
                () = self.0.stop.cancelled() => return,
            };
            let Ok(Frame::Word(bytes)) = frame else { return };
            match decode(&bytes) {
                Ok(word) => drop(self.0.send(word.vm, Note::Said(from, word.message))),
                Err(error) => return tracing::warn!(%from, %error, "a word that cannot be read"),
            }
        }
    }
}

impl Shared {
    fn actors(&self) -> MutexGuard<'_, BTreeMap<VmId, mpsc::Sender<Note>>> {
        // Nothing that a panic could leave half done is done under the lock.
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a VM's actor, which is made if there is none. `false`: it is too far behind, or there are too many.
    fn send(self: &Arc<Self>, vm: VmId, note: Note) -> bool {
        let mut actors = self.actors();
        if !actors.contains_key(&vm) {
            if actors.len() >= ACTORS_MOST || self.stop.is_cancelled() {
                return false;
            }
            // Who is not listed has no record: those who have were made at the start.
            self.spawn(&mut actors, vm, None, Copy::None, None);
        }
        actors.get(&vm).is_some_and(|actor| actor.try_send(note).is_ok())
    }

    fn spawn(
        self: &Arc<Self>,
        actors: &mut BTreeMap<VmId, mpsc::Sender<Note>>,
        vm: VmId,
        record: Option<migration::handoff::Record>,
        copy: Copy,
        order: Option<Goal>,
    ) {
        let (sender, notes) = mpsc::channel(NOTES);
        let (mut actor, effects) = Actor::restore(Arc::clone(self), vm, record, copy, notes);
        if let Some(to) = order {
            actor.go_on_to(to);
        }
        actors.insert(vm, sender);
        self.tasks.spawn(actor.run(effects));
    }

    /// An actor has nothing more to do. `false` if it was told something meanwhile.
    fn leave(&self, vm: VmId, notes: &mpsc::Receiver<Note>) -> bool {
        let mut actors = self.actors();
        let empty = notes.is_empty();
        if empty {
            actors.remove(&vm);
        }
        empty
    }

    fn note_place(&self, vm: VmId, place: Option<Place>) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        match place {
            Some(place) => places.insert(vm, place),
            None => places.remove(&vm),
        };
    }

    fn tell(&self, news: News) {
        // Nobody may be listening.
        let _ = self.news.send(news);
    }

    /// Shows how far a handoff is; its phase stays as it was set.
    fn show(&self, status: Status) {
        self.shown.send_if_modified(|all| {
            match all.iter_mut().find(|shown| shown.vm == status.vm && !shown.phase.is_end()) {
                Some(shown) => {
                    let status = Status { phase: shown.phase.clone(), ..status };
                    let is_new = *shown != status;
                    *shown = status;
                    is_new
                }
                None => {
                    all.retain(|shown| shown.vm != status.vm);
                    if all.len() >= SHOWN_MOST
                        && let Some(oldest) = all.iter().position(|shown| shown.phase.is_end())
                    {
                        all.remove(oldest);
                    }
                    all.push(status);
                    true
                }
            }
        });
    }

    fn set_phase(&self, vm: VmId, phase: Phase) {
        self.shown.send_if_modified(|all| {
            let shown = all.iter_mut().find(|shown| shown.vm == vm && !shown.phase.is_end());
            shown.is_some_and(|shown| {
                let is_new = shown.phase != phase;
                shown.phase = phase;
                is_new
            })
        });
    }

    fn arrived(&self, vm: VmId) -> PathBuf {
        self.own.join("arrived").join(vm.to_string())
    }

    /// Whether a VM of this image, with this hardware, can run here. Blocks.
    fn can_take(
        &self,
        vm: VmId,
        id: ImageId,
        hardware: &Hardware,
        wanted_bytes: u64,
    ) -> Result<Image, CannotTake> {
        let because = |error: &(dyn std::error::Error + 'static)| CannotTake::Because(chain(error));
        if !self.store.contains(id) {
            return Err(CannotTake::NoImage);
        }
        let image = self.store.ensure_intact(id).map_err(|error| because(&error))?;
        if image.manifest.hardware != *hardware {
            return Err(CannotTake::Because("it has other hardware than its image says".to_owned()));
        }
        check_compatible(hardware, &self.host, TOPOLOGY).map_err(|error| because(&error))?;
        let arrived = self.own.join("arrived");
        let room = || -> std::io::Result<u64> {
            std::fs::create_dir_all(&arrived)?;
            let now = UNIX_EPOCH + clock::unix();
            leftovers::sweep(&arrived, now)?;
            let has_room = || Ok(free_bytes(&arrived)? >= wanted_bytes);
            leftovers::make_room(&arrived, &self.arrived(vm), now, has_room)?;
            free_bytes(&arrived)
        };
        let disk = room().map_err(|error| because(&error))?;
        if disk < wanted_bytes {
            let missing = (wanted_bytes - disk).div_ceil(1 << 20);
            return Err(CannotTake::Because(format!("{missing} MiB of disk are missing here")));
        }
        Ok(image)
    }

    /// Begins to fetch an image that an offer is about, and says so to who offers: it asks again.
    async fn fetch(&self, image: ImageId, from: NodeId) -> String {
        let Some(exchange) = &self.exchange else {
            return "its image is not here, and this cloudlet fetches none".to_owned();
        };
        match exchange.fetch(image, Some(from)).await {
            Ok(progress) => {
                let progress = progress.borrow();
                match &progress.phase {
                    crate::exchange::Phase::Failed(reason) => {
                        format!("its image cannot be fetched: {reason}")
                    }
                    _ => format!(
                        "{FETCHING} ({} of {} MB)",
                        progress.here_bytes / 1_000_000,
                        progress.total_bytes / 1_000_000
                    ),
                }
            }
            Err(error) => error.to_string(),
        }
    }

    /// Where instances were first started that came from elsewhere.
    async fn homes(&self) -> Result<BTreeMap<VmId, NodeId>, String> {
        let journal = self.journal.clone();
        let read = tokio::task::spawn_blocking(move || journal.homes().map_err(|error| chain(&error)));
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn forget_arrival(&self, vm: VmId) {
        let journal = self.journal.clone();
        let forgotten = tokio::task::spawn_blocking(move || journal.forget_arrival(vm)).await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!(%vm, %error, "the record of a VM that has moved on cannot be removed");
        }
    }

    /// The VM is here: what it was rebuilt from is not needed any more.
    async fn forget_pages(&self, vm: VmId) {
        if let Err(error) = tokio::fs::remove_file(self.arrived(vm)).await {
            tracing::warn!(%vm, %error, "the pages of a VM that has arrived cannot be removed");
        }
    }
}

fn free_bytes(path: &std::path::Path) -> std::io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}
