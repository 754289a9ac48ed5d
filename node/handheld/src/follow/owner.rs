//! The one task that owns the tracker: asks what it wants to know, and leads connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::place::{Lead, Place};
use super::route::Route;
use super::seeking::{Answer, Found, Seeker, listen};
use super::tracker::{Effect, Input, Tracker};
use super::{Settings, Status};
use crate::discovery::{Search, reach};
use crate::{Access, Client, Error, Session};

/// Ways beyond this many are forgotten, but for those to where the instance is.
const MAX_CLIENTS: usize = 96;
/// Words of a place that wait to be taken in. They are taken in at once; the stream waits if there are more.
const UNASKED_MOST: usize = 16;

/// Where it all begins.
pub(super) struct Start {
    seeker: Seeker,
    route: Route,
    /// Ways to others, as the first place says.
    others: Vec<Route>,
    address: Option<SocketAddr>,
}

impl Start {
    /// Asks whom the place knows before anybody is led there: when it is gone without a word, that is too late.
    pub async fn of(session: &Session, search: &Search, by_multicast: bool) -> Result<Self, Error> {
        let (instance, token) = (session.instance(), session.client_token().to_owned());
        let reachable = session.cloudlet();
        let mut seeker = Seeker::new(search.clone(), by_multicast, instance.id, token);
        let route = match reachable.client.first() {
            None => Route::direct(reachable.node, reachable.client.url()),
            Some(first) => {
                let first = reach(first.clone()).await?;
                let route = Route::through(first.node, reachable.node);
                seeker.know(Route::direct(first.node, first.client.url()), first.client);
                route
            }
        };
        seeker.know(route.clone(), reachable.client.clone());
        let others = seeker.told().await;
        let address = reachable.client.service_address(instance);
        Ok(Self { seeker, route, others, address })
    }
}

/// What others are told.
pub(super) struct Told {
    pub lead: watch::Receiver<Lead>,
    pub place: watch::Receiver<Option<Client>>,
    pub status: watch::Receiver<Status>,
}

pub(super) struct Owner {
    seeker: Seeker,
    tracker: Tracker,
    started: Instant,
    /// Forwarded ports, as each cloudlet said last.
    addresses: BTreeMap<Route, SocketAddr>,
    lead: watch::Sender<Lead>,
    place: watch::Sender<Option<Client>>,
    status: watch::Sender<Status>,
    busy: watch::Receiver<usize>,
    breaks: mpsc::Receiver<u64>,
    asks: FuturesUnordered<BoxFuture<'static, Answer>>,
    look: Option<BoxFuture<'static, Vec<Found>>>,
    unasked: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    listener: Option<JoinHandle<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

impl Owner {
    pub fn new(
        start: Start,
        settings: Settings,
        busy: watch::Receiver<usize>,
        breaks: mpsc::Receiver<u64>,
    ) -> (Self, Told) {
        let Start { seeker, route, others, address } = start;
        let (lead, leads) = watch::channel(Lead::Hold);
        let (place, places) = watch::channel(None);
        let (status, statuses) = watch::channel(Status::Waiting);
        let mut owner = Self {
            seeker,
            tracker: Tracker::new(Duration::ZERO, settings.pace, route.clone(), others),
            started: crate::now(),
            addresses: address.map(|address| (route.clone(), address)).into_iter().collect(),
            lead,
            place,
            status,
            busy,
            breaks,
            asks: FuturesUnordered::new(),
            look: None,
            unasked: mpsc::channel(UNASKED_MOST),
            listener: None,
        };
        owner.lead_to(&route, 1);
        (owner, Told { lead: leads, place: places, status: statuses })
    }

    pub async fn run(mut self) {
        let mut effects = self.tracker.step(Duration::ZERO, Input::Tick);
        loop {
            for effect in effects {
                self.perform(effect);
            }
            let due = self.tracker.due().map(|due| self.started + due);
            let input = tokio::select! {
                Some(answer) = self.asks.next() => self.heard(answer),
                found = wait(&mut self.look) => self.found(found),
                // The sender is kept here, so there is always another.
                Some(input) = self.unasked.1.recv() => input,
                Some(generation) = self.breaks.recv() => Input::Broke(generation),
                changed = self.busy.changed() => match changed {
                    Ok(()) => Input::Busy(*self.busy.borrow_and_update() > 0),
                    // Nobody is left to be led.
                    Err(_) => return,
                },
                () = sleep_until(due) => Input::Tick,
            };
            effects = self.tracker.step(self.started.elapsed(), input);
        }
    }

    fn heard(&mut self, answer: Answer) -> Input {
        let Answer { route, word, address } = answer;
        if let Some(address) = address {
            self.addresses.insert(route.clone(), address);
        }
        self.seeker.note(&route, &word);
        Input::Answered(route, word)
    }

    fn found(&mut self, found: Vec<Found>) -> Input {
        self.look = None;
        let mut routes = Vec::new();
        for (route, client) in found {
            if let Some(client) = client {
                self.seeker.know(route.clone(), client);
            }
            routes.push(route);
        }
        Input::Looked(routes)
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Ask(route) => self.asks.push(self.seeker.ask(route).boxed()),
            Effect::Look => self.look = Some(self.seeker.look().boxed()),
            Effect::Lead(route, generation) => self.lead_to(&route, generation),
            Effect::Hold => {
                tracing::info!("the instance stands still or is elsewhere; connections wait");
                self.lead.send_replace(Lead::Hold);
                self.status.send_replace(Status::Waiting);
            }
            Effect::Over(reason) => {
                tracing::warn!(reason, "the instance has come to its end");
                self.lead.send_replace(Lead::Over);
                self.status.send_replace(Status::Over(reason));
            }
        }
    }

    fn lead_to(&mut self, route: &Route, generation: u64) {
        let client = match self.seeker.client(route) {
            Ok(client) => client,
            // It has just answered on that way.
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "no way to where the instance is");
                return;
            }
        };
        let tunnelled = matches!(self.seeker.search.access, Access::Member(_));
        let place = Place {
            generation,
            route: route.clone(),
            client: client.clone(),
            instance: self.seeker.instance,
            client_token: self.seeker.client_token.clone(),
            direct: self.addresses.get(route).copied().filter(|_| !tunnelled),
        };
        tracing::info!(route = %place.route, generation, "the instance serves");
        let url = client.url().to_owned();
        self.lead.send_replace(Lead::To(Arc::new(place)));
        // Who hears the status may release at once, and must find the place.
        self.place.send_replace(Some(client.clone()));
        self.status.send_replace(Status::Serving { node: route.node, url, generation });
        if let Some(old) = self.listener.take() {
            old.abort();
        }
        let (instance, told) = (self.seeker.instance, self.unasked.0.clone());
        self.listener = Some(tokio::spawn(listen(client, route.clone(), generation, instance, told)));
        self.seeker.forget(MAX_CLIENTS, route);
    }
}

async fn wait<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
