//! Whether and where to instances move: the driver of [`mesh::placement`], and the emptying of a cloudlet.
//!
//! ```text
//!  adverts, links, instances, handoffs ──► situation ──► mesh::placement::Policy ──► Handoffs::order
//!                                              ▲                    │
//!             evacuation: "all of them, now" ──┘                    └──► decisions: log and API
//! ```
//!
//! One task looks every two seconds, and at once when somebody asks for an evacuation. What it decides is logged when it
//! changes. Of users nothing is known but that they are there, so that only load, power, drain, shutdown and links decide.
//!
//! * [`forecast`]: what a handoff would cost, and where each figure comes from; also `cloudlet handoff --plan`
//! * [`situation`]: what the policy is told; [`evacuation`]: what becomes of each instance of a cloudlet that is emptied

use std::collections::BTreeMap;
use std::time::Duration;

use mesh::NodeId;
use mesh::placement::{Decision, Mode, Outcome, Policy, Reason, Settings, Until};
use migration::VmId;
use migration::handoff::share::Priority;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub mod evacuation;
pub mod forecast;
mod situation;

use crate::handoff::{self, Handoffs, Phase, Status};
use crate::instances::clock::Clock;
use crate::instances::{self, Instances};
use crate::lifecycle;
use crate::standing::{self, Standing};
pub use evacuation::{Evacuation, Fate, State};
pub use forecast::Forecast;
use situation::History;

/// How often it is looked. A guess: the policy lets a reason hold for seconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Questions that may wait for the task, which looks for some milliseconds each time.
const ASKS: usize = 16;
/// How long a destination is not asked again for an instance that it did not take. A guess.
const AVOID: Duration = Duration::from_secs(60);

/// Why something was not done; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One at a time.
    #[error("this cloudlet is being evacuated already; cancel that first")]
    UnderWay,
    /// There is none.
    #[error("this cloudlet is not being evacuated")]
    NothingToCancel,
    /// No such instance, or none that could move.
    #[error(transparent)]
    Handoff(#[from] handoff::Error),
    /// Its image or disk cannot be read.
    #[error("cannot say what instance {vm} would need: {reason}")]
    Need {
        /// Which.
        vm: VmId,
        /// Why not.
        reason: String,
    },
    /// It does not take nobody.
    #[error("this cloudlet cannot be closed to new users")]
    Drain(#[source] instances::Error),
    /// The cloudlet ends.
    #[error("this cloudlet is shutting down")]
    Gone,
}

/// What it works with.
#[derive(Clone)]
pub struct Tools {
    /// Moves instances.
    pub handoffs: Handoffs,
    /// The instances.
    pub instances: Instances,
    /// Power, and whether it is being emptied.
    pub standing: Standing,
    /// How the policy decides.
    pub settings: Settings,
    /// Nominal range of the radio, metres.
    pub range_m: f64,
}

/// What was decided last.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What the policy may do.
    pub mode: Mode,
    /// One for each instance that is ready.
    pub decisions: Vec<Decision>,
    /// The newest evacuation.
    pub evacuation: Option<Evacuation>,
}

enum Ask {
    Evacuate(Option<NodeId>, Option<Duration>, oneshot::Sender<Result<(), Error>>),
    Cancel(oneshot::Sender<Result<(), Error>>),
}

/// A handle; clones are handles on the same.
#[derive(Clone)]
pub struct Placement {
    tools: Tools,
    asks: mpsc::Sender<Ask>,
    report: watch::Receiver<Report>,
}

impl Placement {
    /// Starts; ends when `stop` is cancelled.
    pub fn start(tools: Tools, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (asks, asked) = mpsc::channel(ASKS);
        let report = watch::Sender::new(Report { mode: tools.settings.mode, ..Report::default() });
        let placement = Self { tools: tools.clone(), asks, report: report.subscribe() };
        let all = Settings { mode: Mode::Enabled, ..tools.settings };
        let owner = Owner {
            policy: Policy::new(tools.settings),
            emptying: Policy::new(all),
            clock: Clock::start(),
            history: History::default(),
            evacuation: None,
            said: BTreeMap::new(),
            report,
            tools,
        };
        (placement, tokio::spawn(owner.run(asked, stop)))
    }

    /// What was decided last, always the newest.
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }

    /// Takes nobody new, and sends every instance to the best other cloudlet, or to this one. [`Placement::report`] tells how
    /// far it is. `limit`: it ends then, as it is.
    pub async fn evacuate(&self, to: Option<NodeId>, limit: Option<Duration>) -> Result<(), Error> {
        self.ask(|reply| Ask::Evacuate(to, limit, reply)).await
    }

    /// Ends an evacuation: what has not left stays.
    pub async fn cancel(&self) -> Result<(), Error> {
        self.ask(Ask::Cancel).await
    }

    /// Evacuates, and returns when that has ended.
    pub async fn evacuated(&self, limit: Duration) -> Result<Evacuation, Error> {
        let mut report = self.report.clone();
        self.evacuate(None, Some(limit)).await?;
        let ended =
            |report: &Report| report.evacuation.as_ref().is_some_and(|one| one.state != State::Running);
        let report = report.wait_for(ended).await.map_err(|_| Error::Gone)?;
        report.evacuation.clone().ok_or(Error::Gone)
    }

    async fn ask(&self, ask: impl FnOnce(oneshot::Sender<Result<(), Error>>) -> Ask) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Error::Gone)?;
        answer.await.map_err(|_| Error::Gone)?
    }

    /// What it would cost to send an instance there. Nothing moves.
    pub async fn forecast(&self, vm: VmId, to: NodeId) -> Result<Forecast, Error> {
        if to == self.tools.handoffs.node() {
            return Err(handoff::Error::Here.into());
        }
        let instance = self.tools.instances.get(vm, None).await;
        let instance = instance.map_err(handoff::Error::Instances)?.ok_or_else(|| {
            match self.tools.handoffs.moved(vm) {
                Some((node, _)) => handoff::Error::Elsewhere(node),
                None => handoff::Error::UnknownInstance(vm),
            }
        })?;
        if !matches!(instance.phase, lifecycle::Phase::Ready { .. }) {
            return Err(handoff::Error::NotReady(vm).into());
        }
        let need = self.tools.need(&instance).await.map_err(|reason| Error::Need { vm, reason })?;
        Ok(self.tools.forecast(need, to))
    }
}

struct Owner {
    tools: Tools,
    policy: Policy,
    /// For evacuations, which move instances whatever the settings say.
    emptying: Policy,
    clock: Clock,
    history: History,
    evacuation: Option<Evacuation>,
    /// What was logged last of each instance.
    said: BTreeMap<String, Outcome>,
    report: watch::Sender<Report>,
}

impl Owner {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut moving = self.tools.handoffs.all();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                ask = asks.recv() => match ask {
                    Some(ask) => self.asked(ask).await,
                    None => return,
                },
                _ = tick.tick() => {}
                // A handoff that has ended lets the next begin.
                changed = moving.changed(), if self.is_emptying() => if changed.is_err() { return },
            }
            if let Err(error) = self.look().await {
                // The instances' owner has ended, and the daemon with it.
                tracing::debug!(%error, "where instances should be cannot be said");
            }
        }
    }

    fn is_emptying(&self) -> bool {
        self.evacuation.as_ref().is_some_and(|one| one.state == State::Running)
    }

    async fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Evacuate(to, limit, reply) => {
                let answer = self.evacuate(to, limit).await;
                let _ = reply.send(answer);
            }
            Ask::Cancel(reply) => {
                let answer = match self.is_emptying() {
                    true => {
                        self.call_off(State::Cancelled, "the evacuation was cancelled").await;
                        Ok(())
                    }
                    false => Err(Error::NothingToCancel),
                };
                let _ = reply.send(answer);
            }
        }
    }

    async fn evacuate(&mut self, to: Option<NodeId>, limit: Option<Duration>) -> Result<(), Error> {
        if self.is_emptying() {
            return Err(Error::UnderWay);
        }
        let was_draining = self.tools.standing.is_draining();
        self.drain(true).await.map_err(Error::Drain)?;
        let now = self.clock.now();
        let until = limit.map(|limit| now.saturating_add(limit));
        self.evacuation = Some(Evacuation::new(to, until, was_draining));
        tracing::info!(to = to.map(|to| to.to_string()), "this cloudlet is evacuated");
        self.publish(None);
        Ok(())
    }

    async fn drain(&self, draining: bool) -> Result<(), instances::Error> {
        self.tools.instances.drain(draining).await?;
        let standing = self.tools.standing.clone();
        let kept = tokio::task::spawn_blocking(move || standing.drain(draining)).await;
        if let Ok(Err(error)) = &kept {
            let error: &standing::Error = error;
            tracing::warn!(%error, "a restart forgets whether this cloudlet takes new users");
        }
        Ok(())
    }

    /// The evacuation is over before all have left.
    async fn call_off(&mut self, state: State, why: &str) {
        let Some(mut evacuation) = self.evacuation.take() else { return };
        for vm in evacuation.ordered() {
            // One that is committed goes all the same; one that has ended needs no more.
            if let Err(error) = self.tools.handoffs.cancel(vm).await {
                tracing::debug!(%vm, %error, "a handoff of an evacuation is not cancelled");
            }
        }
        evacuation.end(state, why);
        if state == State::Cancelled && !evacuation.was_draining {
            // Only an owner that has ended does not listen.
            let _ = self.drain(false).await;
        }
        tracing::info!(%evacuation, "the evacuation has ended");
        self.evacuation = Some(evacuation);
        self.publish(None);
    }

    /// Looks, decides and acts.
    async fn look(&mut self) -> Result<(), instances::Error> {
        let now = self.clock.now();
        let over = self.evacuation.as_ref().and_then(|one| one.until).is_some_and(|until| now >= until);
        if self.is_emptying() && over {
            self.call_off(State::Done, "the time for it was over").await;
        }
        let instances = self.tools.instances.list().await?;
        let statuses = self.tools.handoffs.all().borrow().clone();
        self.history.note(now, &instances, &statuses, |vm| self.tools.handoffs.came(vm));
        let only = self.evacuation.as_ref().filter(|one| one.state == State::Running).and_then(|one| one.to);
        let mut situation = self.tools.situation(now, &mut self.history, &instances, &statuses).await?;
        situation.others.retain(|other| only.is_none_or(|only| other.site.node == only));
        let emptying = self.is_emptying();
        if let Some(evacuation) = self.evacuation.as_ref().filter(|_| emptying) {
            situation.here.draining = true;
            situation.shutdown = evacuation.until.map(|until| until.saturating_sub(now));
        }
        let policy = if emptying { &mut self.emptying } else { &mut self.policy };
        let decisions = policy.decide(now, &situation);
        let ordered = self.act(now, &decisions).await;
        self.log(&decisions);
        let has_ended = match self.evacuation.as_mut().filter(|_| emptying) {
            Some(evacuation) => {
                let failed = |vm| self.history.failures(vm);
                evacuation.look(now, &instances, &statuses, &decisions, &ordered, failed);
                evacuation.state != State::Running
            }
            None => false,
        };
        if let Some(evacuation) = self.evacuation.as_ref().filter(|_| has_ended) {
            tracing::info!(%evacuation, "the evacuation has ended");
        }
        self.give_up_on_the_lost(now, &statuses).await;
        self.publish(Some(decisions));
        Ok(())
    }

    /// Does what was decided.
    async fn act(&mut self, now: Duration, decisions: &[Decision]) -> BTreeMap<VmId, NodeId> {
        let mut ordered = BTreeMap::new();
        for decision in decisions {
            let Outcome::Move { to, reason, dry_run: false, .. } = decision.outcome else { continue };
            let Ok(vm) = decision.instance.parse().map(VmId) else { continue };
            match self.tools.handoffs.order(vm, to, priority(reason)).await {
                Ok(()) => {
                    ordered.insert(vm, to);
                }
                Err(error) => self.history.failed(now, vm, to, error.to_string()),
            }
        }
        ordered
    }

    /// What this task has sent to a cloudlet that is not there any more may go to another one.
    async fn give_up_on_the_lost(&mut self, now: Duration, statuses: &[Status]) {
        let Some(evacuation) = self.evacuation.as_ref().filter(|one| one.state == State::Running) else {
            return;
        };
        for (vm, to) in evacuation.overdue(now) {
            let waits = statuses.iter().rev().find(|status| status.vm == vm).map(|status| &status.phase);
            let Some(Phase::Waiting { reason }) = waits else { continue };
            if self.tools.handoffs.cancel(vm).await.is_ok() {
                self.history.failed(now, vm, to, reason.clone());
            }
        }
    }

    /// Says what is decided now and was not before.
    fn log(&mut self, decisions: &[Decision]) {
        for decision in decisions {
            let before = self.said.get(&decision.instance);
            let is_new = before.is_none_or(|before| !is_same(before, &decision.outcome));
            if is_new {
                tracing::info!(%decision, "where an instance should be");
                self.said.insert(decision.instance.clone(), decision.outcome);
            }
        }
        self.said.retain(|id, _| decisions.iter().any(|decision| decision.instance == *id));
    }

    fn publish(&self, decisions: Option<Vec<Decision>>) {
        self.report.send_modify(|report| {
            report.evacuation.clone_from(&self.evacuation);
            if let Some(decisions) = decisions {
                report.decisions = decisions;
            }
        });
    }
}

/// Whether a decision says nothing that another one did not: the figures change all the time.
fn is_same(one: &Outcome, other: &Outcome) -> bool {
    let settling = |outcome: &Outcome| matches!(outcome, Outcome::Wait { until: Until::Settled, .. });
    one == other || settling(one) && settling(other)
}

/// Before others goes what would soon be too late, and after them what only makes things better.
fn priority(reason: Reason) -> Priority {
    match reason {
        Reason::LinkEnds | Reason::PowerLow | Reason::Shutdown => Priority::High,
        Reason::UserLeaves | Reason::Drain => Priority::Normal,
        Reason::LoadBalance => Priority::Low,
    }
}
