//! Publishes one cloudlet.
//!
//! ```text
//! publish ──► probing (0.75 s: is the name free?) ──► announced ──► unpublish: farewell, sent twice
//!                   │ no: "name (2)"                    │  ▲
//!                   └──► probing again                  └──┘ update: a new TXT record, at most every 6 s
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mdns_sd::{DaemonEvent, IfKind, RRType, Receiver, RecvTimeoutError, ServiceDaemon, ServiceInfo};

use super::error::{Error, doing};
use super::interfaces::Interfaces;
use super::{MAX_NAME_BYTES, SERVICE_TYPE, txt};
use crate::advert::Summary;

/// Least time between two TXT records. RFC 6762 section 8.4: at most ten updates a minute.
const UPDATE_INTERVAL: Duration = Duration::from_secs(6);
/// How often the watching thread looks for an update that is due. Guess: late by a second harms no hint.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait for each step of a shutdown. Guess: the engine needs about 150 ms in all.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// How often the engine is asked whether it has repeated its farewell, which it does after 120 ms.
const FAREWELL_POLL: Duration = Duration::from_millis(20);

/// What to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The cloudlet's name for people. On conflict ` (2)`, ` (3)`, … is added.
    pub name: String,
    /// Where its HTTP API listens. The unspecified address of IPv4 publishes the IPv4 addresses of the interfaces,
    /// that of IPv6 all their addresses; any other address publishes only itself.
    pub listen: SocketAddr,
    /// The hints.
    pub summary: Summary,
}

/// Keeps one cloudlet published until it is dropped or, better, [`Publisher::unpublish`]ed.
pub struct Publisher {
    engine: ServiceDaemon,
    entry: Entry,
    shared: Arc<Shared>,
    unpublished: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    announced: Condvar,
}

#[derive(Debug)]
struct State {
    name: String,
    announced: bool,
    /// Hints that wait for their turn.
    pending: Option<Summary>,
    /// What is in the published record, and since when.
    published: Summary,
    since: Instant,
}

impl Shared {
    /// The state; a thread that panicked cannot have left it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    /// Starts to publish and returns at once; the name is announced about a second later, see
    /// [`Publisher::wait_announced`].
    pub fn publish(entry: Entry, interfaces: &Interfaces) -> Result<Self, Error> {
        let sound = !entry.name.is_empty()
            && entry.name.len() <= MAX_NAME_BYTES
            && !entry.name.contains(|c: char| c.is_control());
        if !sound {
            return Err(Error::Name(entry.name.chars().take(80).collect()));
        }
        let local_only = entry.listen.ip().is_loopback() && *interfaces == Interfaces::Auto;
        let chosen = if local_only { Interfaces::Loopback.resolve()? } else { interfaces.resolve()? };
        let engine = ServiceDaemon::new().map_err(doing("start"))?;
        let publisher = Self::start(engine.clone(), entry, &chosen);
        if publisher.is_err() {
            let _ = engine.shutdown();
        }
        publisher
    }

    fn start(engine: ServiceDaemon, entry: Entry, chosen: &super::interfaces::Chosen) -> Result<Self, Error> {
        chosen.apply(&engine)?;
        let events = engine.monitor().map_err(doing("watch the engine"))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                name: entry.name.clone(),
                announced: false,
                pending: None,
                published: entry.summary.clone(),
                since: now(),
            }),
            announced: Condvar::new(),
        });
        let watcher = Watcher { engine: engine.clone(), entry: entry.clone(), shared: Arc::clone(&shared) };
        engine.register(service(&entry, &entry.summary)?).map_err(doing("publish"))?;
        std::thread::Builder::new()
            .name("dnssd-publisher".to_owned())
            .spawn(move || watcher.run(&events))
            .map_err(Error::Thread)?;
        Ok(Self { engine, entry, shared, unpublished: false })
    }

    /// The name under which it is published now: the entry's, or that with a suffix if somebody else had it.
    pub fn name(&self) -> String {
        self.shared.lock().name.clone()
    }

    /// Blocks until the name was announced on at least one interface, for at most `limit`; says which name it became.
    /// The engine needs 0.75 to 1 s, and as much again for each conflict.
    pub fn wait_announced(&self, limit: Duration) -> Result<String, Error> {
        let (state, timeout) = self
            .shared
            .announced
            .wait_timeout_while(self.shared.lock(), limit, |state| !state.announced)
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() { Err(Error::NotAnnounced(limit)) } else { Ok(state.name.clone()) }
    }

    /// Takes new hints. They are sent when they differ and six seconds have passed since the last ones; of several in
    /// the meantime only the last is sent.
    pub fn update(&self, summary: Summary) {
        self.shared.lock().pending = Some(summary);
    }

    /// Says farewell, so that others forget this cloudlet within a second or two, and waits until that was sent twice.
    /// Blocks for about 150 ms, at most 3 s.
    pub fn unpublish(mut self) -> Result<(), Error> {
        self.unpublished = true;
        let service = service(&self.entry, &self.entry.summary)?;
        let failed = |_| Error::NotUnpublished(FAREWELL_LIMIT);
        let status = self.engine.unregister(service.get_fullname()).map_err(doing("unpublish"))?;
        let said = status.recv_timeout(FAREWELL_LIMIT);
        if said.is_ok() {
            self.wait_repeated();
        }
        let down = self.engine.shutdown().map_err(doing("stop"))?;
        said.map_err(failed)?;
        down.recv_timeout(FAREWELL_LIMIT).map_err(failed)?;
        Ok(())
    }

    /// Waits until the engine has repeated its farewell; one lost packet would leave the name in caches for an hour.
    fn wait_repeated(&self) {
        let end = now() + FAREWELL_LIMIT;
        while now() < end {
            std::thread::sleep(FAREWELL_POLL);
            let metrics =
                self.engine.get_metrics().ok().and_then(|answer| answer.recv_timeout(FAREWELL_LIMIT).ok());
            if metrics.is_none_or(|counts| counts.get("unregister-resend").is_some_and(|count| *count > 0)) {
                return;
            }
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("entry", &self.entry)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if !self.unpublished {
            // The engine's thread says farewell on its way out; nobody waits for it.
            let _ = self.engine.shutdown();
        }
    }
}

/// Follows the engine's events and sends updates that are due; ends when the engine does.
struct Watcher {
    engine: ServiceDaemon,
    entry: Entry,
    shared: Arc<Shared>,
}

impl Watcher {
    fn run(self, events: &Receiver<DaemonEvent>) {
        loop {
            match events.recv_timeout(TICK) {
                Ok(event) => self.note(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Err(error) = self.send_due() {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot update the DNS-SD record");
            }
        }
    }

    fn note(&self, event: DaemonEvent) {
        match event {
            DaemonEvent::Announce(full_name, on) => {
                let mut state = self.shared.lock();
                state.name = instance_name(&full_name);
                if !state.announced {
                    tracing::info!(name = %state.name, %on, "published by DNS-SD");
                }
                state.announced = true;
                self.shared.announced.notify_all();
            }
            DaemonEvent::NameChange(change) if matches!(change.rr_type, RRType::SRV | RRType::TXT) => {
                let new = instance_name(&change.new_name);
                tracing::warn!(wanted = %self.entry.name, became = %new, "another cloudlet has this name");
                self.shared.lock().name = new;
            }
            DaemonEvent::Error(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "multicast DNS");
            }
            _ => {}
        }
    }

    fn send_due(&self) -> Result<(), Error> {
        let mut state = self.shared.lock();
        let now = now();
        if !state.announced || now.duration_since(state.since) < UPDATE_INTERVAL {
            return Ok(());
        }
        let Some(summary) = state.pending.take() else { return Ok(()) };
        if txt::encode(&summary) == txt::encode(&state.published) {
            return Ok(());
        }
        let mut service = service(&self.entry, &summary)?;
        // The name is ours already. Probing it again would also keep every old record in the engine's memory.
        service.set_requires_probe(false);
        (state.published, state.since) = (summary, now);
        drop(state);
        self.engine.register(service).map_err(doing("update the record"))
    }
}

fn service(entry: &Entry, summary: &Summary) -> Result<ServiceInfo, Error> {
    let properties = txt::encode(summary);
    // Derived from the node id, so that two cloudlets on one machine, or avahi there, never claim the same host.
    let host = format!("cloudlet-{}.local.", summary.node.short());
    let make = |addresses: &[IpAddr]| {
        ServiceInfo::new(SERVICE_TYPE, &entry.name, &host, addresses, entry.listen.port(), &properties[..])
            .map_err(doing("describe this cloudlet"))
    };
    match entry.listen.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => {
            let mut service = make(&[])?.enable_addr_auto();
            service.set_interfaces(vec![IfKind::IPv4]);
            Ok(service)
        }
        ip if ip.is_unspecified() => Ok(make(&[])?.enable_addr_auto()),
        ip => make(&[ip]),
    }
}

/// The instance's part of a full name, without its escapes.
pub(super) fn instance_name(full_name: &str) -> String {
    let suffix = full_name.len().saturating_sub(SERVICE_TYPE.len() + 1);
    let escaped = match full_name.get(suffix..) {
        Some(end) if end.eq_ignore_ascii_case(&format!(".{SERVICE_TYPE}")) => &full_name[..suffix],
        _ => full_name,
    };
    let mut name = String::with_capacity(escaped.len());
    let mut characters = escaped.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => name.extend(characters.next()),
            other => name.push(other),
        }
    }
    name
}

#[expect(clippy::disallowed_methods, reason = "this driver spaces its updates by the real clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_name_is_the_first_label_without_escapes() {
        for (full, name) in [
            ("alpha._cloudlet._tcp.local.", "alpha"),
            ("Truck 3 (2)._Cloudlet._tcp.local.", "Truck 3 (2)"),
            ("a\\.b\\\\c._cloudlet._tcp.local.", "a.b\\c"),
            ("odd", "odd"),
            ("ä", "ä"),
            ("", ""),
        ] {
            assert_eq!(instance_name(full), name);
        }
    }

    #[test]
    fn names_that_cannot_be_published_are_refused_before_anything_starts() {
        let summary = Summary {
            api_version: 1,
            node: crate::NodeId::from_bytes([1; 16]),
            load: crate::advert::Load::default(),
            tls: false,
            accelerator: None,
            services: Default::default(),
            services_left_out: 0,
        };
        for name in [String::new(), "x".repeat(51), "a\nb".to_owned()] {
            let entry =
                Entry { name, listen: SocketAddr::from(([127, 0, 0, 1], 1)), summary: summary.clone() };
            assert!(matches!(Publisher::publish(entry, &Interfaces::Auto), Err(Error::Name(_))));
        }
    }
}
