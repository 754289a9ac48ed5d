//! The whole way: discover, choose, start, wait, use, release.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use mesh::selection::{Considered, Current, Infeasible, Policy, Task, Verdict};
use serde::Serialize;
use uuid::Uuid;
use vm_images::ServiceId;

use crate::api::{Code, Instance, Sharing, Start, State};
use crate::discovery::{Reachable, Search, discover, reach};
use crate::endpoint::Endpoint;
use crate::relay::beyond;
use crate::selection::{Here, Surveyed, Wanted, choose, survey};
use crate::{Client, Error, Fetched, ms_since, now};

/// Longest wait for a service to become ready. Guess: ten times what a loaded machine without KVM needs.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What is wanted, and how to get it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The service.
    pub service: ServiceId,
    /// Address of the cloudlet as a URL; `None`: look for one.
    pub cloudlet: Option<String>,
    /// Name or URL of a cloudlet to go through to others; `None`: directly, or through whichever is best.
    pub via: Option<String>,
    /// How to look for one.
    pub search: Search,
    /// Longest wait for the instance to become ready.
    pub ready_limit: Duration,
    /// Whether others may use the same instance.
    pub sharing: Sharing,
    /// Names this user of the instance; the same token never gets two.
    pub client_token: String,
    /// How to choose among several cloudlets.
    pub policy: Policy,
    /// What the service is to do, which decides what counts in the choice.
    pub task: Task,
    /// By when it must be done, from the choice on; `None`: whenever.
    pub deadline: Option<Duration>,
    /// Where this device is; `None`: not known, and how long contacts will last is not either.
    pub here: Option<Here>,
    /// Who served last, such as [`crate::Memory::current`] says.
    pub current: Option<Current>,
}

impl Options {
    /// Look for a cloudlet, share the instance, wait for a minute at most, with a random token.
    pub fn new(service: ServiceId) -> Self {
        Self {
            service,
            cloudlet: None,
            via: None,
            search: Search::default(),
            ready_limit: READY_LIMIT,
            sharing: Sharing::Shared,
            client_token: Uuid::new_v4().to_string(),
            policy: Policy::default(),
            task: Task::default(),
            deadline: None,
            here: None,
            current: None,
        }
    }
}

/// What is being done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Looking for cloudlets.
    Discovering,
    /// Asking them what they offer.
    Choosing,
    /// Asking one for an instance.
    Starting,
    /// Waiting until the cloudlet has fetched the service from another one, which is so far. Told again and again.
    Fetching(Fetched),
    /// Waiting until the instance is ready.
    Waiting,
    /// Using the service.
    Using,
    /// Telling the cloudlet that the instance is no longer used.
    Releasing,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Fetching(fetched) => {
                return write!(
                    f,
                    "waiting until the cloudlet has fetched the service from another one ({fetched})"
                );
            }
            Self::Discovering => "looking for cloudlets",
            Self::Choosing => "asking cloudlets for the service",
            Self::Starting => "starting the service",
            Self::Waiting => "waiting until the service is ready",
            Self::Using => "using the service",
            Self::Releasing => "releasing the service",
        };
        f.write_str(words)
    }
}

/// Where the time went, milliseconds by this machine's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Timing {
    /// Until a cloudlet had answered and a short settling time had passed.
    pub discovery_ms: u64,
    /// Until one was chosen: asking each what it offers, then deciding.
    pub selection_ms: u64,
    /// From the request for an instance until the cloudlet's answer that it has one.
    pub provisioning_ms: u64,
    /// From that answer until the cloudlet had fetched the service from another one; 0 if it had it.
    pub fetching_ms: u64,
    /// From then until the service was ready as seen from here; 0 if it was ready at once.
    pub ready_ms: u64,
    /// Using the service.
    pub use_ms: u64,
    /// Application-ready time by the cloudlet's own clock: from the request until the health check passed. Of an
    /// instance that was there before, the time that it took then.
    pub cloudlet_ready_after_ms: Option<u64>,
}

/// A ready service on a cloudlet. Release it with [`Session::release`]; a session that is only dropped leaves the
/// instance to the cloudlet's idle stop.
#[derive(Debug)]
pub struct Session {
    reachable: Reachable,
    instance: Instance,
    address: SocketAddr,
    endpoint: Option<Endpoint>,
    client_token: String,
    timing: Timing,
}

impl Session {
    /// Discovers, chooses, starts and waits. `progress` is told each step when it begins. On error nothing of this
    /// client is left on a cloudlet, unless the cloudlet no longer answers. A caller that may want to give up in
    /// between takes the two steps of [`Starting`].
    pub async fn open(options: &Options, progress: &(dyn Fn(Step) + Sync)) -> Result<Self, Error> {
        let starting = Starting::request(options, progress).await?;
        let ready = starting.ready(options.ready_limit, progress).await;
        if let Err(Error::Timeout { .. } | Error::Protocol { .. }) = &ready {
            starting.give_up().await;
        }
        ready
    }

    /// Where the service answers any program on this device: in a mission a local address whose connections become
    /// tunnels, which lasts as long as the session; else the cloudlet's forwarded port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The local address, in a mission.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// The instance that serves.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The cloudlet that it runs on.
    pub fn cloudlet(&self) -> &Reachable {
        &self.reachable
    }

    /// The token under which it was started; who has it can release the instance.
    pub fn client_token(&self) -> &str {
        &self.client_token
    }

    /// Where the time went so far; `use_ms` is 0.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Tells the cloudlet that this client no longer uses the instance.
    pub async fn release(self) -> Result<Instance, Error> {
        self.reachable.client.release(self.instance.id, &self.client_token).await
    }
}

/// An instance that was asked for and may not be ready yet.
#[derive(Debug)]
pub struct Starting {
    reachable: Reachable,
    instance: Instance,
    client_token: String,
    timing: Timing,
}

impl Starting {
    /// Discovers, chooses and starts.
    pub async fn request(options: &Options, progress: &(dyn Fn(Step) + Sync)) -> Result<Self, Error> {
        let mut timing = Timing::default();
        let mut start = now();
        progress(Step::Discovering);
        let cloudlets = find(&options.search, options.cloudlet.as_deref(), options.via.as_deref()).await?;
        timing.discovery_ms = ms_since(start);

        progress(Step::Choosing);
        start = now();
        let ranked = rank(options, cloudlets).await?;
        timing.selection_ms = ms_since(start);

        progress(Step::Starting);
        start = now();
        let (reachable, instance) = start_one(options, ranked).await?;
        timing.provisioning_ms = ms_since(start);
        Ok(Self { reachable, instance, client_token: options.client_token.clone(), timing })
    }

    /// Waits until the instance is ready: while the cloudlet fetches its image, as long as something comes within `limit`; from
    /// then on for at most `limit`. On error it is still this client's.
    pub async fn ready(&self, limit: Duration, progress: &(dyn Fn(Step) + Sync)) -> Result<Session, Error> {
        let mut timing = self.timing;
        let mut start = now();
        let client = &self.reachable.client;
        let mut instance = self.instance.clone();
        if instance.state == State::Fetching {
            let told = |fetched| progress(Step::Fetching(fetched));
            instance = client.wait_fetched(instance, &self.client_token, limit, &told).await?;
            timing.fetching_ms = ms_since(start);
            start = now();
        }
        if instance.state != State::Ready {
            progress(Step::Waiting);
            instance = client.wait_ready(instance.id, limit).await?;
        }
        let endpoint = client.endpoint(instance.id, &self.client_token)?;
        let direct = || client.service_address(&instance);
        let address =
            endpoint.as_ref().map(Endpoint::address).or_else(direct).ok_or_else(|| Error::Protocol {
                cloudlet: client.url().to_owned(),
                doing: "give the address of a ready instance",
                what: "there is none".to_owned(),
            })?;
        timing.ready_ms = ms_since(start);
        timing.cloudlet_ready_after_ms = instance.ready_after_ms;
        let (reachable, client_token) = (self.reachable.clone(), self.client_token.clone());
        Ok(Session { reachable, instance, address, endpoint, client_token, timing })
    }

    /// Tells the cloudlet that this client will not use the instance. A failure is only logged: the cloudlet stops idle
    /// instances by itself.
    pub async fn give_up(self) {
        if let Err(error) = self.reachable.client.release(self.instance.id, &self.client_token).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the unready instance was not released");
        }
    }
}

/// What [`run_service`] brings back.
#[derive(Debug)]
pub struct Done<T> {
    /// What the use of the service gave.
    pub result: T,
    /// Where the time went.
    pub timing: Timing,
    /// Name of the cloudlet that served.
    pub cloudlet: String,
}

/// Why [`run_service`] brings nothing back.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E: std::error::Error + 'static> {
    /// The service could not be had.
    #[error(transparent)]
    Service(Error),
    /// The service was ready, but using it failed. The instance was released.
    #[error("the service was ready, but using it failed")]
    Use(#[source] E),
}

/// The whole way around `work`: the instance is released afterwards, also when `work` fails.
///
/// A cloudlet that cannot be told about the release is only logged: it stops idle instances by itself.
pub async fn run_service<T, E: std::error::Error + 'static>(
    options: &Options,
    progress: &(dyn Fn(Step) + Sync),
    work: impl AsyncFnOnce(&Session) -> Result<T, E>,
) -> Result<Done<T>, RunError<E>> {
    let session = Session::open(options, progress).await.map_err(RunError::Service)?;
    let mut timing = session.timing();
    let cloudlet = session.cloudlet().cloudlet.name.clone();
    progress(Step::Using);
    let start = now();
    let result = work(&session).await;
    timing.use_ms = ms_since(start);
    progress(Step::Releasing);
    if let Err(error) = session.release().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the instance was not released");
    }
    Ok(Done { result: result.map_err(RunError::Use)?, timing, cloudlet })
}

/// The named cloudlet; or those behind `via`; or all that answer, and those behind them.
pub async fn find(
    search: &Search,
    cloudlet: Option<&str>,
    via: Option<&str>,
) -> Result<Vec<Reachable>, Error> {
    if let Some(url) = cloudlet {
        return Ok(vec![reach(Client::with(&search.access, url)?).await?]);
    }
    let Some(via) = via else {
        let mut found = discover(search).await?;
        let behind = beyond(&search.access, &found).await;
        found.extend(behind);
        return Ok(found);
    };
    let first = match via.contains(':') {
        true => reach(Client::with(&search.access, via)?).await?,
        false => {
            let mut found = discover(search).await?;
            let there = found.iter().map(|one| one.cloudlet.name.clone()).collect();
            let named = found.iter().position(|one| one.cloudlet.name == via);
            let named = named.ok_or_else(|| Error::NoWay { name: via.chars().take(80).collect(), there })?;
            found.swap_remove(named)
        }
    };
    let behind = beyond(&search.access, std::slice::from_ref(&first)).await;
    if behind.is_empty() { Err(Error::NobodyBehind { name: first.cloudlet.name }) } else { Ok(behind) }
}

/// The cloudlets that can serve, best first.
async fn rank(options: &Options, cloudlets: Vec<Reachable>) -> Result<Vec<Reachable>, Error> {
    let surveyed = survey(&options.service, cloudlets).await;
    let offers = |one: &Surveyed| one.offers(&options.service);
    if options.cloudlet.is_some() && !surveyed.iter().any(offers) {
        // The one that was named may have it a moment later; asked for it, it says.
        return Ok(surveyed.into_iter().map(|one| one.reachable).collect());
    }
    if !surveyed.iter().any(offers) {
        let offered =
            |one: &Surveyed| (one.reachable.cloudlet.name.clone(), one.reachable.cloudlet.services.clone());
        return Err(Error::NotOffered {
            service: options.service.clone(),
            offered: surveyed.iter().map(offered).collect(),
        });
    }
    let wanted = Wanted {
        sharing: options.sharing,
        task: options.task,
        deadline: options.deadline,
        here: options.here,
        current: options.current,
        permitted: Some(options.search.access.may_use_services()),
        ..Wanted::of(options.service.clone())
    };
    let choice = choose(&wanted, &surveyed, &options.policy);
    tracing::debug!("{choice}");
    let demanded = |one: &Considered| match &one.verdict {
        Verdict::Cannot(reasons) => reasons.iter().all(Infeasible::may_pass),
        _ => true,
    };
    if !choice.considered.iter().any(demanded) {
        let why = |one: &Considered| (one.name.clone(), one.verdict.to_string());
        let reasons = choice.considered.iter().map(why).collect();
        return Err(Error::NoneFits { service: options.service.clone(), reasons });
    }
    // Those that seem unable come last instead of being left out: what they lack may be free again when they are asked,
    // and their own refusal says best what is missing.
    let place = |one: &Surveyed| {
        choice.considered.iter().position(|considered| considered.node == one.reachable.node)
    };
    let fits = |one: &Surveyed| place(one).is_some_and(|place| demanded(&choice.considered[place]));
    let mut able: Vec<Surveyed> = surveyed.into_iter().filter(|one| offers(one) && fits(one)).collect();
    able.sort_by_key(place);
    Ok(able.into_iter().map(|one| one.reachable).collect())
}

/// The first cloudlet that takes the request, and its instance.
async fn start_one(options: &Options, ranked: Vec<Reachable>) -> Result<(Reachable, Instance), Error> {
    let request = Start {
        service: options.service.clone(),
        client_token: options.client_token.clone(),
        sharing: options.sharing,
    };
    let mut refused = Vec::new();
    let mut vanished = None;
    let mut offered = Vec::new();
    for reachable in ranked {
        match reachable.client.start(&request).await {
            Ok(instance) => return Ok((reachable, instance)),
            Err(Error::Refused { refusal, .. })
                if refusal.problem.code == Code::UnknownService
                    && !reachable.cloudlet.services.contains(&options.service) =>
            {
                offered.push((reachable.cloudlet.name, reachable.cloudlet.services));
            }
            Err(Error::Refused { refusal, .. })
                if refusal.is_for_now() || refusal.problem.code == Code::UnknownService =>
            {
                refused.push((reachable.cloudlet.name, refusal));
            }
            Err(error @ Error::Vanished { .. }) => vanished = Some(error),
            Err(error) => return Err(error),
        }
    }
    match vanished {
        None if refused.is_empty() => Err(Error::NotOffered { service: options.service.clone(), offered }),
        Some(error) if refused.is_empty() => Err(error),
        _ => Err(Error::AllRefused { service: options.service.clone(), refused }),
    }
}
