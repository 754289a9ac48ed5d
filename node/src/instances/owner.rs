//! The task that owns the core.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use handheld::api::Load;
use migration::VmId;
use tokio::sync::{SetOnce, broadcast, mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clock::{self, Clock};
use super::journal::Writer;
use super::{Ask, CHANGES, Moving, Settings, Subscription, Tools, fetching, tasks};
use crate::exchange::Exchange;
use crate::lifecycle::{Core, Created, Effect, Input, Instance, Keep, Phase, Refused, Request};

/// Time between two looks at what runs and how busy the host is. A dead VM is noticed this late at worst; guess.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Longest that the owner waits for instances to stop when the daemon shuts down. libvirt's `destroy` takes 2 s, and a start
/// that is under way must first come to its end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);
/// How often the wall clock is compared with the end of the mission: it may be set at any time. Guess.
const MISSION_INTERVAL: Duration = Duration::from_secs(10);

/// Words of children that may wait. Each fetch says one; more wait a moment. A guess that is never reached.
const WORDS: usize = 16;

/// Owns the core and everything that happens to it.
pub(super) struct Owner {
    core: Core,
    clock: Clock,
    settings: Settings,
    tools: Tools,
    journal: Writer,
    changes: broadcast::Sender<Arc<Instance>>,
    children: JoinSet<Option<Input>>,
    /// What children say before their end.
    words: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    exchange: Arc<SetOnce<Option<Exchange>>>,
    /// What the core is told when a child panics.
    last_words: HashMap<Id, Option<Input>>,
    cancels: BTreeMap<VmId, CancellationToken>,
    cpu_used_millis: u32,
    /// When to look at the VMs next; `None` while a look is under way.
    next_look: Option<Instant>,
    next_mission_look: Instant,
    stopping: Option<Stopping>,
}

struct Stopping {
    give_up: Instant,
    replies: Vec<oneshot::Sender<()>>,
}

impl Owner {
    pub(super) fn new(
        core: Core,
        clock: Clock,
        settings: Settings,
        tools: Tools,
        journal: Writer,
        exchange: Arc<SetOnce<Option<Exchange>>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            core,
            clock,
            settings,
            tools,
            journal,
            changes: broadcast::channel(CHANGES).0,
            children: JoinSet::new(),
            words: mpsc::channel(WORDS),
            exchange,
            last_words: HashMap::new(),
            cancels: BTreeMap::new(),
            cpu_used_millis: 0,
            next_look: Some(now),
            next_mission_look: now,
            stopping: None,
        }
    }

    /// Runs until it is told to shut down and everything that must stop has stopped.
    pub(super) async fn run(mut self, first: Vec<Effect>, mut asks: mpsc::Receiver<Ask>) {
        self.perform(first).await;
        while !self.has_ended() {
            let wakeup = self.core.next_wakeup().map(|at| self.clock.instant(at));
            let give_up = self.stopping.as_ref().map(|stopping| stopping.give_up);
            tokio::select! { biased;
                Some(said) = self.words.1.recv() => self.step(said).await,
                Some(ended) = self.children.join_next_with_id() => self.child_ended(ended).await,
                () = until(wakeup) => self.step(Input::Tick).await,
                () = until(self.next_look) => self.look(),
                () = sleep_until(self.next_mission_look), if self.settings.mission_ends.is_some() => self.mission().await,
                () = until(give_up) => break,
                ask = asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    // Every handle is gone, so nobody could ask for a shutdown any more.
                    None => self.shut_down(Keep::Nothing).await,
                },
            }
        }
        drop(asks);
        self.end().await;
    }

    fn has_ended(&self) -> bool {
        let under_way =
            |instance: &Instance| !matches!(instance.phase, Phase::Ready { .. } | Phase::Ended { .. });
        self.stopping.is_some() && !self.core.instances().any(under_way)
    }

    async fn end(mut self) {
        for instance in
            self.core.instances().filter(|i| i.holds_claim() && !matches!(i.phase, Phase::Ready { .. }))
        {
            tracing::error!(vm = %instance.vm, "a VM did not stop in time; the next daemon on this state stops it");
        }
        // What is left are health checks and looks; nobody waits for them.
        self.children.shutdown().await;
        self.journal.close().await;
        for reply in self.stopping.into_iter().flat_map(|stopping| stopping.replies) {
            let _ = reply.send(());
        }
    }

    async fn child_ended(&mut self, ended: Result<(Id, Option<Input>), JoinError>) {
        let input = match ended {
            Ok((id, input)) => {
                self.last_words.remove(&id);
                input
            }
            Err(error) => {
                tracing::error!(%error, "a task of an instance panicked");
                self.last_words.remove(&error.id()).flatten()
            }
        };
        match input {
            Some(input) => self.step(input).await,
            None => self.next_look = Some(Instant::now() + LOOK_INTERVAL),
        }
    }

    async fn step(&mut self, input: Input) {
        if matches!(input, Input::Listed { .. }) {
            self.next_look = Some(Instant::now() + LOOK_INTERVAL);
        }
        let mut effects = Vec::new();
        self.core.step(self.clock.now(), input, &mut effects);
        self.perform(effects).await;
    }

    fn look(&mut self) {
        self.next_look = None;
        self.cpu_used_millis = self.tools.meter.cpu_used_millis();
        let look = tasks::list(self.tools.clone(), self.clock.now());
        let child = self.children.spawn(look);
        self.last_words.insert(child.id(), None);
    }

    async fn mission(&mut self) {
        self.next_mission_look = Instant::now() + MISSION_INTERVAL;
        let Some(ends) = self.settings.mission_ends else { return };
        match ends.checked_sub(clock::unix()).filter(|left| !left.is_zero()) {
            Some(left) => self.next_mission_look = Instant::now() + left.min(MISSION_INTERVAL),
            None if self.core.closed().is_none() => {
                tracing::info!("the mission has ended; every instance is stopped");
                self.step(Input::MissionEnded).await;
            }
            None => {}
        }
    }

    async fn shut_down(&mut self, keep: Keep) {
        if self.stopping.is_none() {
            self.stopping = Some(Stopping { give_up: Instant::now() + SHUTDOWN_LIMIT, replies: Vec::new() });
            self.step(Input::Shutdown(keep)).await;
        }
    }

    /// An asker that no longer waits for its reply is no error.
    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Start(request, reply) => {
                if let Some(answer) = self.start(request).await {
                    self.acknowledge(reply, answer).await;
                }
            }
            Ask::Get(vm, token, reply) => {
                if let Some(token) = token {
                    self.core.renew(self.clock.now(), vm, &token);
                }
                let _ = reply.send(self.core.instance(vm).cloned());
            }
            Ask::Release(vm, token, reply) => {
                let mut effects = Vec::new();
                self.core.release(vm, &token, &mut effects);
                self.perform(effects).await;
                let answer = self.core.instance(vm).cloned();
                self.acknowledge(reply, answer).await;
            }
            Ask::ForceStop(vm, reply) => {
                let mut effects = Vec::new();
                self.core.force_stop(vm, &mut effects);
                self.perform(effects).await;
                let answer = self.core.instance(vm).cloned();
                self.acknowledge(reply, answer).await;
            }
            Ask::List(reply) => {
                let _ = reply.send(self.core.instances().cloned().collect());
            }
            Ask::Subscribe(reply) => {
                let present = self.core.instances().cloned().collect();
                let _ = reply.send(Subscription { present, changes: self.changes.subscribe() });
            }
            Ask::Drain(draining, reply) => {
                self.core.drain(draining);
                let _ = reply.send(());
            }
            Ask::Moving(moving) => self.moving(moving).await,
            Ask::Load(reply) => {
                let _ = reply.send(self.load());
            }
            Ask::Shutdown(keep, reply) => {
                self.shut_down(keep).await;
                if let Some(stopping) = &mut self.stopping {
                    stopping.replies.push(reply);
                }
            }
        }
    }

    async fn moving(&mut self, moving: Moving) {
        let mut effects = Vec::new();
        let now = self.clock.now();
        let done = match moving {
            Moving::Reserve(vm, claim, available, reply) => {
                let _ = reply.send(self.core.reserve(vm, claim, available));
                return;
            }
            Moving::Unreserve(vm) => return self.core.unreserve(vm),
            Moving::Hold(vm, reply) => {
                let _ = reply.send(self.core.hold(vm));
                return;
            }
            Moving::LetGo(vm, reply) => {
                self.core.let_go(now, vm, &mut effects);
                reply
            }
            Moving::Arrive(saved, service, address, reply) => {
                // What is left of an earlier life of it here is over.
                self.cancels.remove(&saved.vm);
                self.core.arrive(now, &saved, service, address, &mut effects);
                reply
            }
            Moving::MovedAway(vm, reply) => {
                self.cancel(vm).cancel();
                self.core.moved_away(vm, &mut effects);
                reply
            }
        };
        self.perform(effects).await;
        self.acknowledge(done, ()).await;
    }

    /// Answers once everything that led to the answer is on disk: what a client was told survives the daemon.
    async fn acknowledge<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, answer: T) {
        let recorded = self.journal.flushed().await;
        let child = self.children.spawn(async move {
            // If it cannot be written, the journal says so in the log; the client's instance works all the same.
            let _ = recorded.await;
            // A client that has gone needs no answer.
            let _ = reply.send(answer);
            None
        });
        self.last_words.insert(child.id(), None);
    }

    /// Always `Some`: the core knows an instance that it has just named.
    async fn start(&mut self, request: Request) -> Option<Result<(Instance, Created), Refused>> {
        let mut effects = Vec::new();
        let started = match self.core.start(self.clock.now(), request, &mut effects) {
            Ok(started) => started,
            Err(refused) => return Some(Err(refused)),
        };
        let instance = self.core.instance(started.vm).cloned();
        self.perform(effects).await;
        instance.map(|instance| Ok((instance, started.created)))
    }

    fn load(&self) -> Load {
        let memory = self.tools.meter.memory();
        let running = self.core.instances().filter(|instance| instance.is_live()).count();
        let starts =
            |instance: &&Instance| matches!(instance.phase, Phase::Waking { .. } | Phase::Checking { .. });
        let starting = self.core.instances().filter(starts).count();
        Load {
            cpu_used_millis: self.cpu_used_millis,
            cpu_total_millis: self.tools.meter.cpu_total_millis(),
            memory_free_bytes: self.core.free(memory.available_bytes).memory_bytes,
            memory_total_bytes: memory.total_bytes,
            instances: u32::try_from(running).unwrap_or(u32::MAX),
            queue_length: u32::try_from(starting).unwrap_or(u32::MAX),
        }
    }

    /// The one place where the core's wishes touch the world.
    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist(instance) => self.journal.put(&instance).await,
                Effect::Forget { vm } => {
                    self.cancels.remove(&vm);
                    self.journal.remove(vm).await;
                }
                Effect::Tell(instance) => {
                    log(&instance);
                    // Nobody may be listening.
                    let _ = self.changes.send(Arc::from(instance));
                }
                Effect::CancelStart { vm } => self.cancel(vm).cancel(),
                Effect::Fetch { vm, service } => {
                    let failed = Input::VmFailed { vm, reason: PANIC.to_owned() };
                    let (exchange, said) = (self.exchange.clone(), self.words.0.clone());
                    let (tools, cancel) = (self.tools.clone(), self.cancel(vm));
                    self.spawn(failed, fetching::fetch(tools, exchange, vm, service, said, cancel));
                }
                Effect::StartVm { vm, service } => {
                    let recorded = self.journal.flushed().await;
                    let (all, bind) = (self.settings.directory.clone(), self.settings.bind);
                    let (tools, cancel) = (self.tools.clone(), self.cancel(vm));
                    let failed = Input::VmFailed { vm, reason: PANIC.to_owned() };
                    self.spawn(failed, tasks::start_vm(tools, all, bind, vm, service, recorded, cancel));
                }
                Effect::SetClock { vm, limit } => {
                    let failed = Input::ClockFailed { vm, reason: PANIC.to_owned() };
                    let cancel = self.cancel(vm);
                    self.spawn(failed, tasks::set_clock(self.tools.clone(), vm, limit, cancel));
                }
                Effect::CheckHealth { vm, address, path, patience } => {
                    let failed = Input::HealthFailed { vm, reason: PANIC.to_owned() };
                    let cancel = self.cancel(vm);
                    self.spawn(failed, tasks::check_health(vm, address, path, patience, cancel));
                }
                Effect::StopVm { vm } => {
                    self.cancel(vm).cancel();
                    let failed = Input::StopFailed { vm, reason: PANIC.to_owned() };
                    self.spawn(
                        failed,
                        tasks::stop_vm(self.tools.clone(), self.settings.directory.clone(), vm),
                    );
                }
            }
        }
    }

    fn cancel(&mut self, vm: VmId) -> CancellationToken {
        self.cancels.entry(vm).or_default().clone()
    }

    fn spawn(&mut self, last_words: Input, work: impl Future<Output = Input> + Send + 'static) {
        let child = self.children.spawn(async move { Some(work.await) });
        self.last_words.insert(child.id(), Some(last_words));
    }
}

const PANIC: &str = "internal error: the task panicked; the log says where";

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn log(instance: &Instance) {
    let (vm, service, users) = (instance.vm, &instance.service.id, instance.users.len());
    let reason = instance.reason.as_deref();
    match instance.phase {
        Phase::Ended { outcome: crate::lifecycle::Outcome::Failed, .. } => {
            tracing::error!(%vm, %service, reason, "instance failed");
        }
        Phase::Ready { .. } => {
            tracing::info!(%vm, %service, users, ready_after_ms = instance.ready_after_ms, "instance is ready");
        }
        _ => tracing::info!(%vm, %service, users, state = ?instance.state(), reason, "instance"),
    }
}
