//! Cloudlets on the link that really answered.
//!
//! A DNS-SD record is a hint of a stranger. A cloudlet counts once its API has answered, and what the API says counts.
//!
//! Two ways lead to the records, at the same time: the multicast conversation, which also hears of cloudlets that come
//! later, and one question by unicast, which is answered at once. Measured on a virtual link within a second of somebody
//! else's question: [`discover`] took 1130 to 1230 ms by multicast alone and 158 ms, settling included, by both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, select_ok};
use futures_util::stream::{FuturesUnordered, StreamExt};
use mesh::NodeId;
use mesh::dnssd::{Browser, Event, Found, Interfaces};
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::{Cloudlet, Place};
use crate::{Access, Client, Error, now};

mod question;

/// How long to listen if nobody answers. Queries go out after 0, 1 and 3 s, so one lost packet does not hide a cloudlet.
pub const DISCOVERY_LIMIT: Duration = Duration::from_millis(3500);
/// How long to listen on after the first cloudlet has answered. RFC 6762 lets responders take 120 ms each; whoever has
/// not answered by then is slower anyway.
const SETTLING: Duration = Duration::from_millis(150);
/// Longest wait for one cloudlet's API to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Most cloudlets that are asked at once, so that forged records cannot make this client flood the link.
const MAX_PROBES: usize = 16;
/// Most addresses of one cloudlet that are tried.
const MAX_ADDRESSES: usize = 4;

/// How to look for cloudlets.
#[derive(Debug, Clone)]
pub struct Search {
    /// As whom.
    pub access: Access,
    /// On which network interfaces.
    pub interfaces: Interfaces,
    /// For how long at most.
    pub limit: Duration,
    /// Whether to listen for the whole time, to find also those that are slow to answer.
    pub whole_time: bool,
}

impl Default for Search {
    /// Everywhere, without a mission, until shortly after the first answer.
    fn default() -> Self {
        Self {
            access: Access::Insecure,
            interfaces: Interfaces::Auto,
            limit: DISCOVERY_LIMIT,
            whole_time: false,
        }
    }
}

/// A cloudlet whose API answered.
#[derive(Debug, Clone)]
pub struct Reachable {
    /// Speaks to it.
    pub client: Client,
    /// What it says of itself.
    pub cloudlet: Cloudlet,
    /// Its id.
    pub node: NodeId,
    /// Time of one small request on an open connection: the shorter of two.
    pub rtt: Duration,
    /// Of one behind another cloudlet.
    pub behind: Option<Behind>,
}

/// What is known of a cloudlet behind another one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Behind {
    /// Where the one in between is, as it says.
    pub place: Option<Place>,
    /// Whether what [`Reachable::cloudlet`] says is only what the one in between told.
    pub hearsay: bool,
}

/// Every cloudlet that answers, by name. None is [`Error::NoCloudlet`], which says who kept silent.
/// In a quiet mission nothing is sent, which is [`Error::Quiet`].
pub async fn discover(search: &Search) -> Result<Vec<Reachable>, Error> {
    if search.access.is_quiet() {
        return Err(Error::Quiet);
    }
    let mut browser = Browser::start(&search.interfaces).map_err(Error::Discovery)?;
    let mut asked = question::ask(&search.interfaces).map_err(Error::Discovery)?;
    let mut hunt = Hunt::new();
    let mut end = Instant::now() + search.limit;
    let mut probes: FuturesUnordered<BoxFuture<'static, (String, Result<Reachable, Error>)>> =
        FuturesUnordered::new();
    loop {
        tokio::select! {
            () = sleep_until(end) => break,
            Some((name, result)) = probes.next() => {
                if hunt.note(name, result) && !search.whole_time {
                    end = end.min(Instant::now() + SETTLING);
                }
            }
            Some(found) = asked.next(), if probes.len() < MAX_PROBES => {
                if let Some(addresses) = hunt.untried(&found) {
                    probes.push(probe(search.access.clone(), found.name, addresses).boxed());
                }
            }
            event = browser.next(), if probes.len() < MAX_PROBES => match event {
                Some(Event::Found(found) | Event::Updated(found)) => {
                    if let Some(addresses) = hunt.untried(&found) {
                        probes.push(probe(search.access.clone(), found.name, addresses).boxed());
                    }
                }
                Some(Event::Removed { .. }) => {}
                None => break,
            },
        }
    }
    hunt.result()
}

/// Cloudlets that publish themselves, without asking their APIs: hints of strangers, by name.
pub async fn published(interfaces: &Interfaces) -> Result<Vec<Found>, Error> {
    let mut browser = Browser::start(interfaces).map_err(Error::Discovery)?;
    let mut asked = question::ask(interfaces).map_err(Error::Discovery)?;
    let mut end = Instant::now() + DISCOVERY_LIMIT;
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    loop {
        let one = tokio::select! {
            () = sleep_until(end) => break,
            Some(one) = asked.next() => one,
            event = browser.next() => match event {
                Some(Event::Found(one) | Event::Updated(one)) => one,
                Some(Event::Removed { .. }) => continue,
                None => break,
            },
        };
        end = end.min(Instant::now() + SETTLING);
        found.entry(one.name.clone()).or_insert(one);
    }
    Ok(found.into_values().collect())
}

/// The cloudlet that `client` speaks to, if it answers.
pub async fn reach(client: Client) -> Result<Reachable, Error> {
    let started = now();
    let first = client.cloudlet().await?;
    let opened = started.elapsed();
    let again = now();
    let cloudlet = client.cloudlet().await.unwrap_or(first);
    let rtt = opened.min(again.elapsed());
    let node =
        cloudlet.node_id.parse().map_err(|error: mesh::node_id::ParseNodeIdError| Error::Protocol {
            cloudlet: client.url().to_owned(),
            doing: "say what it is",
            what: error.to_string(),
        })?;
    Ok(Reachable { client, cloudlet, node, rtt, behind: None })
}

/// What is known so far.
struct Hunt {
    started: std::time::Instant,
    tried: BTreeSet<(String, SocketAddr)>,
    reachable: BTreeMap<NodeId, Reachable>,
    silent: BTreeMap<String, String>,
}

impl Hunt {
    fn new() -> Self {
        Self { started: now(), tried: BTreeSet::new(), reachable: BTreeMap::new(), silent: BTreeMap::new() }
    }

    /// Addresses at which this cloudlet has not been tried yet.
    fn untried(&mut self, found: &Found) -> Option<Vec<SocketAddr>> {
        let addresses = found.addresses.iter().copied().take(MAX_ADDRESSES);
        let new: Vec<SocketAddr> =
            addresses.filter(|address| self.tried.insert((found.name.clone(), *address))).collect();
        (!new.is_empty()).then_some(new)
    }

    /// Takes the outcome of a probe; says whether somebody answered.
    fn note(&mut self, name: String, result: Result<Reachable, Error>) -> bool {
        match result {
            Ok(reachable) => {
                self.reachable.entry(reachable.node).or_insert(reachable);
                true
            }
            Err(error) => {
                tracing::debug!(
                    name,
                    error = &error as &dyn std::error::Error,
                    "a published cloudlet does not answer"
                );
                self.silent.insert(name, error.to_string());
                false
            }
        }
    }

    fn result(self) -> Result<Vec<Reachable>, Error> {
        if self.reachable.is_empty() {
            let silent = self.silent.into_iter().collect();
            return Err(Error::NoCloudlet { waited: self.started.elapsed(), silent });
        }
        let mut list: Vec<Reachable> = self.reachable.into_values().collect();
        list.sort_by(|one, two| (&one.cloudlet.name, one.node).cmp(&(&two.cloudlet.name, two.node)));
        Ok(list)
    }
}

/// Asks at all addresses at once; the first answer counts.
async fn probe(
    access: Access,
    name: String,
    addresses: Vec<SocketAddr>,
) -> (String, Result<Reachable, Error>) {
    let access = &access;
    let attempts = addresses
        .into_iter()
        .map(|address| async move { reach(Client::reaching(access, address)?).await }.boxed());
    let limited = timeout(PROBE_LIMIT, select_ok(attempts));
    let result = match limited.await {
        Ok(Ok((reachable, _))) => Ok(reachable),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Timeout { step: crate::Step::Discovering, limit: PROBE_LIMIT }),
    };
    (name, result)
}
