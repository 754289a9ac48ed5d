//! One VM's part in handoffs: owns its [`Core`] and does what that wants done, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh::NodeId;
use migration::VmId;
use migration::handoff::wire::Word;
use migration::handoff::{Attempt, Copy, Core, Effect, Event, Grant, Input, Offer, Place, Reason, Record};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use vm_images::ImageId;

use super::receive::{Berth, Loaded, Receiving};
use super::send::{Cargo, Sending, is_the_link};
use super::status::{Figures, Phase, Status};
use super::{Error, News, Shared};
use crate::causes::chain;
use crate::exchange::ByteStream;
use crate::instances::images::service_of;
use crate::instances::{record, tasks};
use crate::lifecycle::{self, Service};

/// How often a destination that was out of reach is looked for. A guess: a contact of seconds must be used.
const LOOK_FOR: Duration = Duration::from_millis(500);
/// Pause between tries that failed although the destination is there. A guess.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Tries of one order that ended because the VM had stood still for as long as it may: then it does not fit this link.
const FROZEN_TRIES_MOST: u32 = 3;
/// How often a status is renewed while pages travel.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// Pause before a record that could not be written is written again; nothing else happens to the VM until then.
const WRITE_AGAIN: Duration = Duration::from_millis(500);
/// How often a VM that is to run on is told so when that fails.
const RESUME_TRIES: u32 = 5;
/// More than the VM's memory and disk that may arrive in all tries. A guess: a guest that changes all of it four times.
const ARRIVE_TIMES: u64 = 4;

/// What a VM's actor is told.
pub(super) enum Note {
    /// The VM is to go there.
    Order(NodeId, oneshot::Sender<Result<(), Error>>),
    /// It is not to go any more.
    Cancel(oneshot::Sender<Result<(), Error>>),
    /// An operator decides.
    Operator(Input, oneshot::Sender<Result<(), Error>>),
    /// A node said something about it.
    Said(NodeId, migration::handoff::Message),
    /// Its pages come.
    Pages(NodeId, Grant, ByteStream),
}

/// Where the VM is to go.
struct Order {
    to: NodeId,
    since: Duration,
    attempts: u32,
    frozen_tries: u32,
    /// When to try again, if it is not being tried.
    retry_at: Option<Duration>,
    frozen_at: Option<Duration>,
    downtime: Option<Duration>,
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
    attempt: Attempt,
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
    pub fn go_on_to(&mut self, to: NodeId) {
        self.order = Some(Order::new(to, self.shared.clock.now(), Some(self.shared.clock.now())));
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
            Note::Order(to, reply) => {
                let answer = self.ordered(to).await;
                let _ = reply.send(answer);
            }
            Note::Cancel(reply) => {
                let answer = self.cancel().await;
                let _ = reply.send(answer);
            }
            Note::Operator(input, reply) => {
                self.take(input).await;
                let _ = reply.send(Ok(()));
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

    async fn ordered(&mut self, to: NodeId) -> Result<(), Error> {
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
        self.keep_order(Some(to)).await;
        self.order = Some(Order::new(to, shared.clock.now(), None));
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
        };
        self.receiving = Some(Receiving::start(berth, stream, self.answer.clone()));
    }

    /// The one place where the core's wishes touch the world.
    async fn perform(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            if let Some(input) = self.effect(effect).await {
                effects.extend(self.core.handle(self.shared.clock.now(), input));
            }
        }
    }

    /// Does it; some are answered at once.
    async fn effect(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Persist(record) => self.persist(record).await,
            Effect::Send(to, message) => self.shared.mail.say(to, &Word { vm: self.vm, message }),
            Effect::Reserve { attempt, offer, from } => {
                return Some(self.reserve(attempt, &offer, from).await);
            }
            Effect::Precopy { to, grant } => self.precopy(to, grant).await,
            Effect::Freeze { grant } => {
                return self.freeze(grant).await.err().map(|why| Input::NotSent { grant, why });
            }
            Effect::Stop { grant } => {
                if let Some(sending) = self.sending.take_if(|sending| sending.grant == grant) {
                    sending.stop().await;
                }
            }
            Effect::Resume => self.resume().await,
            Effect::Discard => self.discard().await,
            Effect::Fence => self.fence().await,
            Effect::Verify { grant, digest } => match &mut self.receiving {
                Some(receiving) if receiving.grant == grant => receiving.verify(digest),
                _ => {
                    let why = "it had not all come".to_owned();
                    return Some(Input::NotVerified { grant, why });
                }
            },
            Effect::Run => return Some(self.run_here().await),
            Effect::Drop { grant } => self.drop_incoming(grant).await,
            Effect::Tell(event) => self.told(event).await,
        }
        None
    }

    /// Returns when it is on disk, however long that takes: nothing that follows may happen before.
    async fn persist(&self, record: Option<Record>) {
        loop {
            let (journal, vm, written) = (self.shared.journal.clone(), self.vm, record.clone());
            let put = tokio::task::spawn_blocking(move || {
                journal.put(vm, written.as_ref()).map_err(|error| chain(&error))
            });
            match put.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(()) => break,
                Err(reason) => {
                    tracing::error!(vm = %self.vm, reason, "who owns a VM cannot be written down; it waits");
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
            }
        }
        self.shared.note_place(self.vm, record.map(|record| record.place));
    }

    async fn keep_order(&self, to: Option<NodeId>) {
        let (journal, vm) = (self.shared.journal.clone(), self.vm);
        let put =
            tokio::task::spawn_blocking(move || journal.put_order(vm, to).map_err(|error| chain(&error)));
        if let Err(reason) = put.await.unwrap_or_else(|error| Err(error.to_string())) {
            tracing::warn!(vm = %self.vm, reason, "an order to move a VM would not survive the daemon");
        }
    }

    async fn reserve(&mut self, attempt: Attempt, offer: &Offer, from: NodeId) -> Input {
        match self.find_room(attempt, offer, from).await {
            Ok(mut room) => {
                let grant = rand::random();
                room.grant = Some(Grant(grant));
                self.room = Some(room);
                Input::Reserved { attempt, grant }
            }
            Err(why) => Input::NotReserved { attempt, why },
        }
    }

    async fn find_room(&self, attempt: Attempt, offer: &Offer, from: NodeId) -> Result<Room, String> {
        let shared = Arc::clone(&self.shared);
        let (id, hardware) = (offer.image, offer.hardware.clone());
        let wanted_bytes = offer.disk_bytes.saturating_add(hardware.memory_bytes);
        let look = tokio::task::spawn_blocking(move || shared.can_take(id, &hardware, wanted_bytes));
        let image = match look.await.map_err(|error| error.to_string())? {
            Ok(image) => image,
            Err(super::CannotTake::NoImage) => return Err(self.shared.fetch(id, from).await),
            Err(super::CannotTake::Because(why)) => return Err(why),
        };
        let service = service_of(&image).ok_or("the image has no service")?;
        let claim = service.needs;
        self.shared.instances.reserve(self.vm, claim).await.map_err(|error| error.to_string())?;
        let most_pages = (wanted_bytes / 4096).saturating_mul(ARRIVE_TIMES);
        let most_pages = u32::try_from(most_pages).unwrap_or(u32::MAX);
        Ok(Room { grant: None, attempt, from, image: id, service: Arc::new(service), most_pages })
    }

    async fn precopy(&mut self, to: NodeId, grant: Grant) {
        if let Some(old) = self.sending.take() {
            old.stop().await;
        }
        self.shared.set_phase(self.vm, Phase::Precopy);
        let instance = self.shared.instances.get(self.vm, None).await.ok().flatten();
        let Some(instance) = instance else {
            let why = "the instance is gone".to_owned();
            let _ = self.answer.try_send(Input::NotSent { grant, why });
            return;
        };
        let shared = &self.shared;
        let cargo = Cargo {
            vm: self.vm,
            grant,
            to,
            image: instance.service.image,
            disk: tasks::directory(&shared.directory, self.vm).join("disk.qcow2"),
            hypervisor: Arc::clone(&shared.hypervisor),
            stock: Arc::clone(&shared.stock),
            ways: Arc::clone(&shared.ways),
            figures: self.order.as_ref().map(|order| Arc::clone(&order.figures)).unwrap_or_default(),
            clock: shared.clock,
        };
        self.sending = Some(Sending::start(cargo, self.answer.clone()));
    }

    async fn freeze(&mut self, grant: Grant) -> Result<(), String> {
        let now = self.shared.clock.now();
        if let Some(order) = &mut self.order {
            order.frozen_at = Some(now);
        }
        self.shared.set_phase(self.vm, Phase::Frozen);
        // From here on nobody else stops it, or thinks that it died.
        let held = self.shared.instances.hold(self.vm).await;
        if !held.is_ok_and(|held| held) {
            return Err("the instance is not ready any more".to_owned());
        }
        self.hypervisor(|hypervisor, vm| hypervisor.freeze(vm)).await?;
        let instance = self.shared.instances.get(self.vm, None).await.ok().flatten();
        let instance = instance.ok_or("the instance is gone")?;
        let bytes = record::encode(&instance).map_err(|error| chain(&error))?;
        if let Some(sending) = self.sending.as_mut().filter(|sending| sending.grant == grant) {
            sending.go(bytes);
        }
        Ok(())
    }

    async fn resume(&mut self) {
        for tries in 1..=RESUME_TRIES {
            match self.hypervisor(|hypervisor, vm| hypervisor.resume(vm)).await {
                Ok(()) => break,
                Err(reason) => {
                    tracing::error!(vm = %self.vm, reason, tries, "a VM that is to run on does not");
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
            }
        }
        // Whether it runs, the instances find out now.
        let _ = self.shared.instances.let_go(self.vm).await;
    }

    async fn discard(&mut self) {
        if let Some(sending) = self.sending.take() {
            sending.stop().await;
        }
        if let Some(order) = &mut self.order {
            order.downtime = order.frozen_at.map(|at| self.shared.clock.now().saturating_sub(at));
        }
        let directory = self.shared.directory.clone();
        loop {
            let (hypervisor, all, vm) = (Arc::clone(&self.shared.hypervisor), directory.clone(), self.vm);
            let stopped = tokio::task::spawn_blocking(move || tasks::stop_now(&*hypervisor, &all, vm));
            match stopped.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(()) => break,
                Err(reason) => {
                    tracing::error!(vm = %self.vm, reason, "a VM that runs elsewhere cannot be removed; it is tried again");
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
            }
        }
        let _ = self.shared.instances.moved_away(self.vm).await;
        self.shared.forget_arrival(self.vm).await;
    }

    async fn fence(&mut self) {
        let _ = self.shared.instances.hold(self.vm).await;
        if let Err(reason) = self.hypervisor(|hypervisor, vm| hypervisor.freeze(vm)).await {
            tracing::error!(vm = %self.vm, reason, "a VM that was taken back by its source cannot be paused");
        }
    }

    /// It is ours, and that is on disk.
    async fn run_here(&mut self) -> Input {
        let loaded = match self.loaded.take() {
            Some(loaded) => Some(loaded),
            None => match self.receiving.take() {
                Some(receiving) => receiving.end(true).await,
                None => None,
            },
        };
        let Some(loaded) = loaded else { return Input::NotRan { why: "it was not loaded".to_owned() } };
        let resumed = self.hypervisor(|hypervisor, vm| match hypervisor.resume(vm) {
            // Whatever the answer was: if it has executed, it is here.
            Err(error) => {
                match hypervisor.list()?.iter().any(|running| running.vm == vm && running.executing) {
                    true => Ok(()),
                    false => Err(error),
                }
            }
            Ok(()) => Ok(()),
        });
        if let Err(why) = resumed.await {
            self.loaded = Some(loaded);
            return Input::NotRan { why };
        }
        self.room = None;
        if let Err(error) = self.shared.instances.arrive(loaded.saved, loaded.service, loaded.address).await {
            tracing::error!(vm = %self.vm, %error, "a VM has arrived while the cloudlet ends; the next one finds it");
        }
        self.shared.forget_pages(self.vm).await;
        Input::Ran
    }

    async fn drop_incoming(&mut self, grant: Grant) {
        let ours = |room: &mut Room| room.grant == Some(grant);
        if self.room.take_if(ours).is_none() {
            return;
        }
        let mut loaded = self.loaded.take().is_some();
        if let Some(receiving) = self.receiving.take() {
            receiving.end(false).await;
            loaded = true;
        }
        if loaded {
            let (hypervisor, all, vm) =
                (Arc::clone(&self.shared.hypervisor), self.shared.directory.clone(), self.vm);
            let stopped = tokio::task::spawn_blocking(move || tasks::stop_now(&*hypervisor, &all, vm));
            if let Err(reason) = stopped.await.unwrap_or_else(|error| Err(error.to_string())) {
                tracing::error!(vm = %self.vm, reason, "a VM that came to nothing cannot be removed");
            }
        }
        self.shared.instances.unreserve(self.vm).await;
        self.shared.forget_arrival(self.vm).await;
    }

    async fn told(&mut self, event: Event) {
        tracing::info!(vm = %self.vm, ?event, "handoff");
        match event {
            Event::Moved { to } => {
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

    /// Runs something that blocks on the VM.
    async fn hypervisor(
        &self,
        act: impl FnOnce(&dyn migration::hypervisor::Moving, VmId) -> Result<(), migration::hypervisor::Error>
        + Send
        + 'static,
    ) -> Result<(), String> {
        let (hypervisor, vm) = (Arc::clone(&self.shared.hypervisor), self.vm);
        let acted = tokio::task::spawn_blocking(move || act(&*hypervisor, vm).map_err(|error| chain(&error)));
        acted.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl Order {
    fn new(to: NodeId, since: Duration, retry_at: Option<Duration>) -> Self {
        Self {
            to,
            since,
            attempts: 0,
            frozen_tries: 0,
            retry_at,
            frozen_at: None,
            downtime: None,
            figures: Arc::default(),
        }
    }
}
