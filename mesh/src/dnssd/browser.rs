//! Finds cloudlets on the link.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use mdns_sd::{Receiver, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent};

use super::error::{Error, doing};
use super::interfaces::Interfaces;
use super::publisher::{instance_name, now};
use super::{Found, SERVICE_TYPE, txt};

/// Most cloudlets that are kept. Guess, far above any link; it bounds what a hostile neighbour can fill.
const MAX_KNOWN: usize = 512;
/// How long to listen on after the first answer: a responder sends its IPv4 and its IPv6 records in packets of their
/// own, each 20 to 120 ms after the query (RFC 6762 section 6), so the other addresses are up to 100 ms behind.
pub const SETTLING: Duration = Duration::from_millis(120);

/// What happened on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A cloudlet is there.
    Found(Found),
    /// Something that it publishes has changed.
    Updated(Found),
    /// It said farewell, or its records expired.
    Removed {
        /// Its name, as in [`Found::name`].
        name: String,
    },
}

/// Watches the link until it is dropped.
pub struct Browser {
    engine: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    known: BTreeMap<String, Found>,
}

impl Browser {
    /// Starts to browse. The first query goes out within 50 ms and is repeated after 1, 2, 4, … s.
    pub fn start(interfaces: &Interfaces) -> Result<Self, Error> {
        let chosen = interfaces.resolve()?;
        let engine = ServiceDaemon::new().map_err(doing("start"))?;
        let browse = || {
            chosen.apply(&engine)?;
            engine.browse(SERVICE_TYPE).map_err(doing("browse"))
        };
        match browse() {
            Ok(events) => Ok(Self { engine, events, known: BTreeMap::new() }),
            Err(error) => {
                let _ = engine.shutdown();
                Err(error)
            }
        }
    }

    /// The next change; `None` once the engine has ended. Dropping the future loses nothing, so it can stand in a
    /// `select` or under a time limit of any async runtime.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.events.recv_async().await.ok()?;
            if let Some(event) = self.take(event) {
                return Some(event);
            }
        }
    }

    /// Blocks for the next change for at most `limit`.
    pub fn next_within(&mut self, limit: Duration) -> Option<Event> {
        let end = now() + limit;
        loop {
            let event = self.events.recv_timeout(end.saturating_duration_since(now())).ok()?;
            if let Some(event) = self.take(event) {
                return Some(event);
            }
        }
    }

    /// Every cloudlet that is there now, by name.
    pub fn known(&self) -> impl Iterator<Item = &Found> {
        self.known.values()
    }

    fn take(&mut self, event: ServiceEvent) -> Option<Event> {
        match event {
            ServiceEvent::ServiceResolved(service) => self.note(found(&service)?),
            ServiceEvent::ServiceRemoved(_, full_name) => {
                let name = instance_name(&full_name);
                self.known.remove(&name).map(|_| Event::Removed { name })
            }
            _ => None,
        }
    }

    fn note(&mut self, found: Found) -> Option<Event> {
        let full = self.known.len() >= MAX_KNOWN;
        match self.known.insert(found.name.clone(), found.clone()) {
            Some(before) if before == found => None,
            Some(_) => Some(Event::Updated(found)),
            None if full => {
                self.known.remove(&found.name);
                None
            }
            None => Some(Event::Found(found)),
        }
    }
}

impl fmt::Debug for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browser").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.engine.shutdown();
    }
}

/// Browses for `limit`, or until [`SETTLING`] after `enough` cloudlets are known, and says which there are. Blocks.
pub fn discover(
    interfaces: &Interfaces,
    limit: Duration,
    enough: Option<usize>,
) -> Result<Vec<Found>, Error> {
    let mut browser = Browser::start(interfaces)?;
    let mut end = now() + limit;
    let mut settling = false;
    while browser.next_within(end.saturating_duration_since(now())).is_some() {
        if !settling && enough.is_some_and(|enough| browser.known.len() >= enough) {
            settling = true;
            end = end.min(now() + SETTLING);
        }
    }
    Ok(browser.known().cloned().collect())
}

fn found(service: &ResolvedService) -> Option<Found> {
    let port = service.get_port();
    let addresses = service.get_addresses().iter().filter_map(|ip| address(ip, port)).collect();
    let strings = service.get_properties().iter().map(|pair| (pair.key(), pair.val().unwrap_or_default()));
    Found::new(instance_name(service.get_fullname()), service.get_hostname(), addresses, txt::decode(strings))
}

fn address(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match ip {
        ScopedIp::V4(v4) => Some(SocketAddr::from((*v4.addr(), port))),
        ScopedIp::V6(v6) => {
            let scope = if v6.addr().is_unicast_link_local() { v6.scope_id().index } else { 0 };
            Some(SocketAddr::V6(SocketAddrV6::new(*v6.addr(), port, 0, scope)))
        }
        _ => None,
    }
}
