//! What the core of a VM wants done, done.

use std::collections::VecDeque;
use std::sync::Arc;

use mesh::NodeId;
use migration::VmId;
use migration::handoff::wire::Word;
use migration::handoff::{Attempt, Effect, Grant, Input, Message, Offer, Record};

use super::super::receive::AT_DESTINATION;
use super::super::{CannotTake, FETCHING};
use super::{ARRIVE_TIMES, Actor, RESUME_TRIES, Room, WRITE_AGAIN};
use crate::causes::chain;
use crate::handoff::journal::Goal;
use crate::handoff::papers;
use crate::handoff::send::{Cargo, Sending};
use crate::handoff::status::Phase;
use crate::instances::images::service_of;
use crate::instances::{record, tasks};

impl Actor {
    /// The one place where the core's wishes touch the world.
    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
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
            Effect::Send(to, message) => {
                if matches!(message, Message::Final { .. }) {
                    self.shared.set_phase(self.vm, Phase::Verifying);
                }
                self.shared.mail.say(to, &Word { vm: self.vm, message });
            }
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
    pub(super) async fn persist(&self, record: Option<Record>) {
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

    pub(super) async fn keep_order(&self, goal: Option<Goal>) {
        let (journal, vm) = (self.shared.journal.clone(), self.vm);
        let put =
            tokio::task::spawn_blocking(move || journal.put_order(vm, goal).map_err(|error| chain(&error)));
        if let Err(reason) = put.await.unwrap_or_else(|error| Err(error.to_string())) {
            tracing::warn!(vm = %self.vm, reason, "an order to move a VM would not survive the daemon");
        }
    }

    async fn reserve(&mut self, attempt: Attempt, offer: &Offer, from: NodeId) -> Input {
        match self.find_room(offer, from).await {
            Ok(mut room) => {
                let grant = rand::random();
                room.grant = Some(Grant(grant));
                self.room = Some(room);
                Input::Reserved { attempt, grant }
            }
            // Those words are known by their beginning.
            Err(why) if why.starts_with(FETCHING) => Input::NotReserved { attempt, why },
            Err(why) => Input::NotReserved { attempt, why: format!("{AT_DESTINATION}{why}") },
        }
    }

    async fn find_room(&self, offer: &Offer, from: NodeId) -> Result<Room, String> {
        let shared = Arc::clone(&self.shared);
        let (vm, id, hardware) = (self.vm, offer.image, offer.hardware.clone());
        let wanted_bytes = offer.disk_bytes.saturating_add(hardware.memory_bytes);
        let look = tokio::task::spawn_blocking(move || shared.can_take(vm, id, &hardware, wanted_bytes));
        let image = match look.await.map_err(|error| error.to_string())? {
            Ok(image) => image,
            Err(CannotTake::NoImage) => return Err(self.shared.fetch(id, from).await),
            Err(CannotTake::Because(why)) => return Err(why),
        };
        let service = service_of(&image).ok_or("the image has no service")?;
        let claim = service.needs;
        self.shared.instances.reserve(self.vm, claim).await.map_err(|error| error.to_string())?;
        let most_pages = (wanted_bytes / 4096).saturating_mul(ARRIVE_TIMES);
        let most_pages = u32::try_from(most_pages).unwrap_or(u32::MAX);
        Ok(Room { grant: None, from, image: id, service: Arc::new(service), most_pages })
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
        let priority = self.order.as_ref().map(|order| order.priority).unwrap_or_default();
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
            turn: Arc::new(shared.turns.join(to, priority)),
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
        let record = record::encode(&instance).map_err(|error| chain(&error))?;
        let home = self.shared.homes().await?.get(&self.vm).copied().unwrap_or(self.shared.node);
        let bytes = papers::encode(home, &record);
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

    pub(super) async fn drop_incoming(&mut self, grant: Grant) {
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
