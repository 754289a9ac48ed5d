//! Questions to cloudlets: do you have it, where did it go, whom else do you know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use mesh::NodeId;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::route::{Route, Way};
use super::tracker::{Input, Word};
use crate::api::{Code, Event, Instance, Moved, Peer, PeerReach, State};
use crate::client::Whereabouts;
use crate::discovery::{Search, discover};
use crate::{Access, Client, Error};

/// Longest wait for an answer. Guess: ten round trips of a slow link, with two retransmissions.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The same through another cloudlet, which may have to connect first.
const FAR_ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Pause before a stream of events that ended is opened again. Guess.
const STREAM_PAUSE: Duration = Duration::from_secs(1);
/// Most cloudlets that are asked whom they know, as `relay` asks.
const MAX_ASKED: usize = 4;
/// Most addresses of one cloudlet that are tried.
const MAX_ADDRESSES: usize = 2;
/// Most cloudlets that one is believed to know.
const MAX_TOLD: usize = 16;

/// Speaks to cloudlets, as the user of one instance.
pub(super) struct Seeker {
    pub search: Search,
    pub by_multicast: bool,
    pub instance: Uuid,
    pub client_token: String,
    /// Ways that have been tried; at most as many as the tracker keeps, and those that it dropped.
    clients: BTreeMap<Route, Client>,
    /// Those of them that brought no answer when they were last tried.
    silent: BTreeSet<Route>,
}

/// A way that was found, and who was met on it.
pub(super) type Found = (Route, Option<Client>);

/// What came of a question.
pub(super) struct Answer {
    pub route: Route,
    pub word: Word,
    /// The forwarded port, from those that say so.
    pub address: Option<SocketAddr>,
}

impl Seeker {
    pub fn new(search: Search, by_multicast: bool, instance: Uuid, client_token: String) -> Self {
        Self {
            search,
            by_multicast,
            instance,
            client_token,
            clients: BTreeMap::new(),
            silent: BTreeSet::new(),
        }
    }

    /// A way that is known to work.
    pub fn know(&mut self, route: Route, client: Client) {
        self.clients.insert(route, client);
    }

    /// What came of a question that way.
    pub fn note(&mut self, route: &Route, word: &Word) {
        if *word != Word::Silent {
            self.silent.remove(route);
        } else if self.clients.contains_key(route) {
            self.silent.insert(route.clone());
        }
    }

    /// Forgets the ways to others than `place` if there are more than `most`.
    pub fn forget(&mut self, most: usize, place: &Route) {
        if self.clients.len() > most {
            self.clients.retain(|route, _| route.node == place.node || place.way == Way::Through(route.node));
            self.silent.retain(|route| self.clients.contains_key(route));
        }
    }

    fn access(&self) -> &Access {
        &self.search.access
    }

    /// Speaks that way.
    pub fn client(&mut self, route: &Route) -> Result<Client, Error> {
        if let Some(client) = self.clients.get(route) {
            return Ok(client.clone());
        }
        let client = match &route.way {
            Way::Direct(url) => Client::pinned(self.access(), url, route.node)?,
            Way::Through(first) => {
                let nearest = |(known, _): &(&Route, &Client)| known.is_direct() && known.node == *first;
                let first = self.clients.iter().find(nearest).map(|(_, client)| client.clone());
                let first = first.ok_or_else(|| Error::NoRelay { url: route.to_string() })?;
                Client::through(self.access(), &first, route.node)?
            }
        };
        self.clients.insert(route.clone(), client.clone());
        Ok(client)
    }

    /// Asks one cloudlet for the instance. Always brings an answer.
    pub fn ask(&mut self, route: Route) -> impl Future<Output = Answer> + use<> {
        let client = self.client(&route);
        let (instance, token) = (self.instance, self.client_token.clone());
        let limit = if route.is_direct() { ANSWER_LIMIT } else { FAR_ANSWER_LIMIT };
        async move {
            let asked = async {
                let client = client?;
                let told = client.whereabouts(instance, &token, limit).await?;
                Ok((client, told))
            };
            let told = match tokio::time::timeout(limit, asked).await {
                Ok(told) => told,
                Err(_) => Err(Error::Timeout { step: crate::Step::Using, limit }),
            };
            let (word, address) = match told {
                Ok((client, Whereabouts::Here(instance))) => {
                    (word(&instance), client.service_address(&instance))
                }
                Ok((_, Whereabouts::Moved(moved))) => (told_to(&moved), None),
                Err(error) => (word_of(&error, &route), None),
            };
            tracing::debug!(%route, ?word, "asked for the instance");
            Answer { route, word, address }
        }
    }

    /// Ways to others, as those say that are known.
    pub fn told(&self) -> impl Future<Output = Vec<Route>> + use<> {
        let mut asked: Vec<(NodeId, Client)> = Vec::new();
        let (silent, answering): (Vec<_>, Vec<_>) = self
            .clients
            .iter()
            .filter(|(route, _)| route.is_direct())
            .partition(|(route, _)| self.silent.contains(route));
        for (route, client) in answering.into_iter().chain(silent) {
            if asked.iter().all(|(node, _)| *node != route.node) {
                asked.push((route.node, client.clone()));
            }
        }
        asked.truncate(MAX_ASKED);
        let in_mission = matches!(self.access(), Access::Member(_));
        async move {
            let answers = asked.iter().map(|(first, client)| async move {
                let peers = tokio::time::timeout(ANSWER_LIMIT, client.peers()).await;
                (*first, peers.ok().and_then(Result::ok).unwrap_or_default())
            });
            let answers = join_all(answers).await;
            answers.into_iter().flat_map(|(first, peers)| ways(first, peers, in_mission)).collect()
        }
    }

    /// Looks for cloudlets on the link, if that was asked for, and asks those that are known for others.
    pub fn look(&self) -> impl Future<Output = Vec<Found>> + use<> {
        let told = self.told();
        let (search, by_multicast) = (self.search.clone(), self.by_multicast);
        async move {
            let heard =
                async { if by_multicast { discover(&search).await.unwrap_or_default() } else { Vec::new() } };
            let (told, heard) = tokio::join!(told, heard);
            let heard = heard.into_iter();
            let mut found: Vec<Found> =
                heard.map(|one| (Route::direct(one.node, one.client.url()), Some(one.client))).collect();
            found.extend(told.into_iter().map(|route| (route, None)));
            found
        }
    }
}

/// Ways to those that `first` knows, and further addresses of its own.
fn ways(first: NodeId, peers: Vec<Peer>, in_mission: bool) -> Vec<Route> {
    let mut routes = Vec::new();
    for peer in peers.into_iter().take(MAX_TOLD) {
        let Ok(node) = peer.node_id.parse() else { continue };
        let addresses = peer.api.iter().take(MAX_ADDRESSES);
        routes.extend(addresses.map(|url| Route::direct(node, url)));
        let leads = matches!(peer.reach, PeerReach::Neighbour | PeerReach::Far);
        if leads && in_mission {
            routes.push(Route::through(first, node));
        }
    }
    routes
}

/// What an instance's state means for who wants to use it.
pub(super) fn word(instance: &Instance) -> Word {
    match instance.state {
        State::Ready => Word::Ready,
        State::Fetching | State::Starting | State::Stopping => Word::NotNow,
        State::Stopped | State::Failed => {
            Word::Ended(instance.reason.clone().unwrap_or_else(|| "the cloudlet gives no reason".to_owned()))
        }
    }
}

fn told_to(moved: &Moved) -> Word {
    match moved.node.parse() {
        Ok(node) => Word::Moved(moved.api.iter().map(|url| Route::direct(node, url)).collect()),
        Err(_) => Word::Unknown,
    }
}

fn word_of(error: &Error, route: &Route) -> Word {
    match error {
        Error::Refused { refusal, .. } if refusal.problem.code == Code::UnknownInstance => Word::Unknown,
        // It answers, and what it says is not understood: it is asked again.
        Error::Refused { .. } | Error::Protocol { .. } => {
            tracing::info!(%route, error = error as &dyn std::error::Error, "an answer that does not help");
            Word::NotNow
        }
        _ => Word::Silent,
    }
}

/// What the place tells unasked, for as long as it is the place.
pub(super) async fn listen(
    client: Client,
    route: Route,
    generation: u64,
    instance: Uuid,
    told: mpsc::Sender<Input>,
) {
    loop {
        if let Ok(mut events) = client.events().await {
            while let Ok(Some(event)) = events.next().await {
                let word = match event {
                    Event::Instance(one) if one.id == instance => word(&one),
                    Event::Moved(moved) if moved.instance == instance => told_to(&moved),
                    // It may be moved before it stops, or what was missed was about it.
                    Event::Goodbye | Event::Missed { .. } => {
                        if told.send(Input::Broke(generation)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    _ => continue,
                };
                if told.send(Input::Answered(route.clone(), word)).await.is_err() {
                    return;
                }
            }
        }
        if told.send(Input::Broke(generation)).await.is_err() {
            return;
        }
        tokio::time::sleep(STREAM_PAUSE).await;
    }
}
