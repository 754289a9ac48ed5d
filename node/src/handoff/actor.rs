//! One VM's part in handoffs: owns its [`Core`] and does what that wants done, in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh::NodeId;
use migration::VmId;
use migration::handoff::share::Priority;
use migration::handoff::{Copy, Core, Effect, Event, Grant, Input, Offer, Place, Reason, Record};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use vm_images::ImageId;

use super::journal::Goal;
use super::receive::{Berth, Loaded, Receiving};
use super::send::{Sending, is_the_link};
use super::status::{Figures, Phase, Status};
use super::{Error, Experience, News, Shared};
use crate::causes::chain;
use crate::exchange::ByteStream;
use crate::instances::tasks;
use crate::lifecycle::{self, Service};

mod effects;

/// How often a destination that was out of reach is looked for. A guess: a contact of seconds must be used. The mesh tells of
/// every change of every advert, which is more often than this in a large mission, and each look is one in a map.
const LOOK_FOR: Duration = Duration::from_millis(500);
/// Pause between tries that failed although the destination is there. A guess.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Tries of one order that ended because the VM had stood still for as long as it may: then it does not fit this link.
const FROZEN_TRIES_MOST: u32 = 3;
/// How often a status is renewed while pages travel.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// Pause before what must be done and failed is done again: a record written, a VM resumed or removed. A guess; nobody tells
/// when a disk has room again or libvirt answers, and nothing else may happen to the VM until then.
const WRITE_AGAIN: Duration = Duration::from_millis(500);
/// How often a VM that is to run on is told so when that fails.
const RESUME_TRIES: u32 = 5;
/// More than the VM's memory and disk that may arrive in all tries. A guess: a guest that changes all of it four times.
const ARRIVE_TIMES: u64 = 4;

/// What a VM's actor is told.
pub(super) enum Note {
    /// The VM is to go there.
    Order(Goal, oneshot::Sender<Result<(), Error>>),
    /// It is not to go any more.
    Cancel(oneshot::Sender<Result<(), Error>>),
    /// An operator says that it runs here, whatever became of its destination.
    Force(oneshot::Sender<Result<(), Error>>),
    /// A node said something about it.
    Said(NodeId, migration::handoff::Message),
    /// Its pages come.
    Pages(NodeId, Grant, ByteStream),
}

/// Where the VM is to go.
struct Order {
    to: NodeId,
    priority: Priority,
    since: Duration,
    attempts: u32,
    frozen_tries: u32,
    /// When to try again, if it is not being tried.
    retry_at: Option<Duration>,
    frozen_at: Option<Duration>,
    downtime: Option<Duration>,
    /// What it runs, once it was offered.
    image: Option<ImageId>,
    figures: Arc<Figures>,
}

/// Why a VM cannot be offered.
enum Unready {
    /// It will be.
    Yet,
    /// It will not, for this reason.
    Gone(String),
}

/// Room that is kept.
struct Room {
    grant: Option<Grant>,
    from: NodeId,
    image: ImageId,
    service: Arc<Service>,
    most_pages: u32,
}

pub(super) struct Actor {
    shared: Arc<Shared>,
    vm: VmId,
    core: Core,
    notes: mpsc::Receiver<Note>,
    answers: mpsc::Receiver<Input>,
    answer: mpsc::Sender<Input>,
    order: Option<Order>,
    sending: Option<Sending>,
    room: Option<Room>,
    receiving: Option<Receiving>,
    loaded: Option<Loaded>,
}

impl Actor {
    /// For a VM of which this is written down, and of which this is here.
    pub fn restore(
        shared: Arc<Shared>,
        vm: VmId,
        record: Option<Record>,
        copy: Copy,
        notes: mpsc::Receiver<Note>,
    ) -> (Self, Vec<Effect>) {
        let now = shared.clock.now();
        let record = record.unwrap_or_else(Record::unknown);
        let (core, effects) = Core::restore(shared.node, shared.limits, record, copy, now);
        // Answers of two sessions and what they report on the way; each waits for room.
        let (answer, answers) = mpsc::channel(8);
        let (order, sending, room, receiving, loaded) = (None, None, None, None, None);
        let actor =
            Self { shared, vm, core, notes, answers, answer, order, sending, room, receiving, loaded };
        (actor, effects)
    }

    /// An order that an earlier daemon had.
    pub fn go_on_to(&mut self, goal: Goal) {
        self.order = Some(Order::new(goal, self.shared.clock.now(), Some(self.shared.clock.now())));
    }

    /// Runs until the daemon ends, or nothing is left to be done for the VM.
    pub async fn run(mut self, first: Vec<Effect>) {
        self.perform(first).await;
        loop {
            self.show();
            let wake = self.wakeup().map(|at| self.shared.clock.instant(at));
            let ticking = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.stop.cancelled() => return self.wind_up().await,
                Some(input) = self.answers.recv() => self.take(input).await,
                note = self.notes.recv() => match note {
                    Some(note) => self.note(note).await,
                    None => return,
                },
                () = ticking => self.tick().await,
            }
            if self.is_over() && self.shared.leave(self.vm, &self.notes) {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        let nothing = self.order.is_none() && self.room.is_none() && self.receiving.is_none();
        nothing && self.core.idle() && self.core.place() == Place::Unknown
    }

    fn wakeup(&self) -> Option<Duration> {
        let order = self.order.as_ref();
        let retry = order.and_then(|order| order.retry_at);
        let show = self.sending.as_ref().map(|_| self.shared.clock.now() + SHOW_EVERY);
        [self.core.next_wakeup(), retry, show].into_iter().flatten().min()
    }

    async fn tick(&mut self) {
        let now = self.shared.clock.now();
        if self.core.next_wakeup().is_some_and(|at| at <= now) {
            self.take(Input::Tick).await;
        }
        let due = self.order.as_ref().filter(|order| order.retry_at.is_some_and(|at| at <= now));
        if let Some(to) = due.map(|order| order.to) {
            self.attempt(to).await;
        }
    }

    async fn take(&mut self, input: Input) {
        let effects = self.core.handle(self.shared.clock.now(), input);
        self.perform(effects).await;
    }

    async fn note(&mut self, note: Note) {
        match note {
            Note::Order(goal, reply) => {
                let answer = self.ordered(goal).await;
                // Whoever asks how far it is as soon as he has the answer finds it.
                self.show();
                let _ = reply.send(answer);
            }
            Note::Cancel(reply) => {
                let answer = self.cancel().await;
                let _ = reply.send(answer);
            }
            Note::Force(reply) => {
                let answer = self.force().await;
                let _ = reply.send(answer);
            }
            Note::Said(from, message) => {
                if matches!(message, migration::handoff::Message::Verified { .. })
                    && let Some(order) = &mut self.order
                {
                    self.shared.set_phase(self.vm, Phase::Committing);
                    order.retry_at = None;
                }
                self.take(Input::Said(from, message)).await;
            }
            Note::Pages(from, grant, stream) => self.pages(from, grant, stream).await,
        }
    }

    async fn ordered(&mut self, goal: Goal) -> Result<(), Error> {
        let to = goal.to;
        if to == self.shared.node {
            return Err(Error::Here);
        }
        if self.order.is_some() || self.core.moving_to().is_some() {
            return Err(Error::UnderWay);
        }
        let (shared, vm) = (Arc::clone(&self.shared), self.vm);
        match self.core.place() {
            Place::Owner { .. } => {}
            // Nothing is written of a VM that has always been here.
            Place::Unknown => {
                let instance = shared.instances.get(vm, None).await.map_err(Error::Instances)?;
                let instance = instance.ok_or(Error::UnknownInstance(vm))?;
                if !matches!(instance.phase, lifecycle::Phase::Ready { .. }) {
                    return Err(Error::NotReady(vm));
                }
                self.persist(Some(Record::started())).await;
                self.core = Core::new(shared.node, shared.limits, Record::started());
            }
            Place::Gone { to, .. } => return Err(Error::Elsewhere(to)),
            Place::InDoubt { to, .. } => return Err(Error::InDoubt(to)),
            Place::Fenced { owner, .. } => return Err(Error::Elsewhere(owner)),
        }
        self.keep_order(Some(goal)).await;
        self.order = Some(Order::new(goal, shared.clock.now(), None));
        self.attempt(to).await;
        Ok(())
    }

    async fn cancel(&mut self) -> Result<(), Error> {
        let waits = self.order.as_ref().is_some_and(|order| order.retry_at.is_some());
        if !waits && self.core.moving_to().is_none() && !matches!(self.core.place(), Place::InDoubt { .. }) {
            return Err(Error::NothingToCancel);
        }
        if waits {
            self.end(Phase::Cancelled).await;
        } else {
            self.take(Input::Cancel).await;
        }
        Ok(())
    }

    /// Only of a VM in doubt: anything else is decided without an operator.
    async fn force(&mut self) -> Result<(), Error> {
        let Place::InDoubt { to, .. } = self.core.place() else { return Err(Error::NotInDoubt) };
        tracing::warn!(vm = %self.vm, %to, "an operator vouches that the destination is gone for good; the VM runs on here");
        if self.order.is_none() {
            // It was ordered before this daemon, which has nothing to show of it.
            let goal = Goal { to, priority: Priority::default() };
            self.order = Some(Order::new(goal, self.shared.clock.now(), None));
        }
        self.take(Input::Force).await;
        let reason = format!("an operator said that cloudlet {to} is gone for good; it runs on here");
        self.end(Phase::Failed { reason }).await;
        Ok(())
    }

    /// One more try.
    async fn attempt(&mut self, to: NodeId) {
        let now = self.shared.clock.now();
        let Some(order) = &mut self.order else { return };
        if order.attempts > 0 && !self.shared.ways.is_there(to) {
            order.retry_at = Some(now + LOOK_FOR);
            return;
        }
        order.attempts += 1;
        order.retry_at = None;
        (order.frozen_at, order.downtime) = (None, None);
        let offer = self.offer().await;
        match offer {
            Err(Unready::Yet) => {
                // After a restart: its service has not answered yet.
                if let Some(order) = &mut self.order {
                    order.retry_at = Some(now + LOOK_FOR);
                }
                let reason = "the instance is not ready yet".to_owned();
                self.shared.set_phase(self.vm, Phase::Waiting { reason });
            }
            Ok(offer) => {
                if let Some(order) = &mut self.order {
                    order.image = Some(offer.image);
                }
                self.shared.set_phase(self.vm, Phase::Offering);
                let attempt = rand::random();
                self.take(Input::Start { to, attempt, offer: Box::new(offer) }).await;
            }
            Err(Unready::Gone(reason)) => self.end(Phase::Failed { reason }).await,
        }
    }

    async fn offer(&self) -> Result<Offer, Unready> {
        let gone = |why: &dyn std::fmt::Display| Unready::Gone(why.to_string());
        let instance = self.shared.instances.get(self.vm, None).await.map_err(|error| gone(&error))?;
        let instance = match instance {
            Some(instance) if matches!(instance.phase, lifecycle::Phase::Ready { .. }) => instance,
            Some(instance) if instance.is_live() => return Err(Unready::Yet),
            _ => return Err(gone(&"the instance is not ready any more")),
        };
        let (store, id) = (self.shared.store.clone(), instance.service.image);
        let disk = tasks::directory(&self.shared.directory, self.vm).join("disk.qcow2");
        let look = tokio::task::spawn_blocking(move || {
            let image = store.get(id).map_err(|error| chain(&error))?;
            let disk_bytes = std::fs::metadata(&disk).map_or(0, |file| file.len());
            Ok::<_, String>((image.manifest.hardware.clone(), disk_bytes))
        });
        let looked = look.await.unwrap_or_else(|error| Err(error.to_string()));
        let (hardware, disk_bytes) = looked.map_err(Unready::Gone)?;
        // The core sets the epoch; what is sent is not known before it was looked at.
        Ok(Offer { epoch: 0, image: id, hardware, disk_bytes, estimate_bytes: 0 })
    }

    async fn pages(&mut self, from: NodeId, grant: Grant, mut stream: ByteStream) {
        let room = self.room.as_ref().filter(|room| room.from == from && room.grant == Some(grant));
        let Some(room) = room.filter(|_| self.receiving.is_none()) else {
            let refused = super::wire::Frame::Refused("no room is kept for it".to_owned()).encode();
            // It learns as much from the stream's end.
            let _ = crate::exchange::frames::write(&mut stream, &refused).await;
            return;
        };
        let shared = &self.shared;
        let berth = Berth {
            vm: self.vm,
            grant,
            image: room.image,
            service: Arc::clone(&room.service),
            most_pages: room.most_pages,
            all: shared.directory.clone(),
            arrived: shared.arrived(self.vm),
            bind: shared.bind,
            hypervisor: Arc::clone(&shared.hypervisor),
            stock: Arc::clone(&shared.stock),
            journal: shared.journal.clone(),
            clock: shared.clock,
        };
        self.receiving = Some(Receiving::start(berth, stream, self.answer.clone()));
    }

    async fn told(&mut self, event: Event) {
        tracing::info!(vm = %self.vm, ?event, "handoff");
        match event {
            Event::Moved { to } => {
                self.learn();
                self.end(Phase::Done).await;
                self.shared.tell(News::Moved { vm: self.vm, to });
            }
            Event::NotMoved { reason, .. } => self.not_moved(reason).await,
            Event::Declined(reason) => self.end(Phase::Failed { reason: reason.to_string() }).await,
            Event::Lost => self.end(Phase::Failed { reason: "the VM is lost".to_owned() }).await,
            Event::Arrived { .. } | Event::Contested { .. } | Event::Fenced { .. } => {}
        }
    }

    /// Tries again where that can help.
    async fn not_moved(&mut self, reason: Reason) {
        let Some(order) = &mut self.order else { return };
        let again = match &reason {
            Reason::NoAnswer | Reason::LeaseOver | Reason::Unknown => true,
            Reason::FrozenTooLong => {
                order.frozen_tries += 1;
                order.frozen_tries < FROZEN_TRIES_MOST
            }
            Reason::Failed(why) => is_the_link(why) || why.starts_with(super::FETCHING),
            Reason::Cancelled | Reason::Busy | Reason::Stale { .. } => false,
        };
        let reason_text = reason.to_string();
        if again {
            order.retry_at = Some(self.shared.clock.now() + TRY_AGAIN);
            return self.shared.set_phase(self.vm, Phase::Waiting { reason: reason_text });
        }
        let phase = match reason {
            Reason::Cancelled => Phase::Cancelled,
            _ => Phase::Failed { reason: reason_text },
        };
        self.end(phase).await;
    }

    /// The order is over, one way or the other.
    async fn end(&mut self, phase: Phase) {
        if self.order.is_some() {
            self.show();
            self.shared.set_phase(self.vm, phase);
            self.order = None;
            self.keep_order(None).await;
        }
    }

    /// Keeps what the handoff took, for forecasts.
    fn learn(&self) {
        let Some(Order { to, downtime, image: Some(image), figures, .. }) = &self.order else { return };
        let Some(measured) = figures.measured.get() else { return };
        let experience = Experience::of(Figures::get(&figures.sent_bytes), *downtime, measured);
        self.shared.learnt().note(*image, *to, experience, measured.rate_bytes_s);
    }

    /// Publishes how far the order is.
    fn show(&self) {
        let Some(order) = &self.order else { return };
        let now = self.shared.clock.now();
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (seen, blocks) = (read(&order.figures.seen_blocks), read(&order.figures.memory_blocks));
        let total = now.saturating_sub(order.since);
        // The first pass is nearly all of it; before it has begun nothing can be said.
        let eta = (seen > 0 && seen < blocks).then(|| total.mul_f64((blocks - seen) as f64 / seen as f64));
        self.shared.show(Status {
            vm: self.vm,
            to: order.to,
            priority: order.priority,
            phase: Phase::Offering,
            attempts: order.attempts,
            sent_bytes: read(&order.figures.sent_bytes),
            scanned_bytes: seen * 4096,
            memory_bytes: blocks * 4096,
            eta,
            total,
            downtime: order.downtime,
        });
    }

    /// The daemon ends. What is not committed ends as if it had been cancelled; orders stay for the next daemon.
    async fn wind_up(mut self) {
        self.order = None;
        if self.core.moving_to().is_some() {
            self.take(Input::Cancel).await;
        }
        if let Some(sending) = self.sending.take() {
            sending.stop().await;
        }
        if let Some(grant) = self.room.as_ref().and_then(|room| room.grant) {
            self.drop_incoming(grant).await;
        }
    }
}

impl Order {
    fn new(goal: Goal, since: Duration, retry_at: Option<Duration>) -> Self {
        Self {
            to: goal.to,
            priority: goal.priority,
            since,
            attempts: 0,
            frozen_tries: 0,
            retry_at,
            frozen_at: None,
            downtime: None,
            image: None,
            figures: Arc::default(),
        }
    }
}
