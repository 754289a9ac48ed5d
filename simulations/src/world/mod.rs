//! The simulated mission: cloudlets, handhelds, contacts between them, and what happens.
//!
//! Contacts are known when a run starts (see [`crate::contacts`]); everything else follows event by event. Handhelds
//! ask for services (`requests`) and hand over what they collected (`data`).

mod cloudlet;
mod data;
mod eventlog;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use crate::contacts::{self, Contact};
use crate::engine::Engine;
use crate::movement::{Path, Waypoints};
use crate::random::{self, Purpose};
use crate::report::Report;
use crate::scenario::{Movement, Scenario, Speed};
use cloudlet::Cloudlet;
use data::Courier;
use eventlog::EventLog;
use requests::Active;

/// What happens in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A contact begins.
    Up(Contact),
    /// A contact ends.
    Down(Contact),
    /// A handheld wants a service.
    Request { handheld: u32 },
    /// The Service VM of a request answers, if the request is still there.
    Ready { request: u64 },
    /// The user of a request is done, if the request is still there.
    Done { request: u64 },
    /// A handheld has collected something.
    Collected { handheld: u32 },
    /// A piece of mission data has arrived, if it is still on its way.
    Arrived { handheld: u32, piece: u64 },
}

/// A finished run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What came of it.
    pub report: Report,
    /// Every event, one a line: seconds with six decimals, what, who.
    pub log: String,
}

/// The world in the middle of a run.
struct World<'a> {
    scenario: &'a Scenario,
    engine: Engine<Event>,
    cloudlets: BTreeMap<u32, Cloudlet>,
    handhelds: BTreeMap<u32, Handheld>,
    /// Who reaches whom now: cloudlets by handheld.
    links: BTreeMap<u32, BTreeSet<u32>>,
    active: BTreeMap<u64, Active>,
    next_request: u64,
    report: Report,
    log: EventLog,
}

/// A handheld.
struct Handheld {
    workload: ChaCha8Rng,
    courier: Courier,
}

/// The nodes' numbers: cloudlets first unless a trace says otherwise.
struct Nodes {
    cloudlets: Vec<u32>,
    handhelds: Vec<u32>,
}

/// Runs `scenario` with `seed`. `trace` is the recorded trace, read by the caller, if the scenario names one.
pub fn run(scenario: &Scenario, seed: u64, trace: Option<&str>) -> Result<Outcome, Error> {
    let (nodes, contacts) = match (&scenario.movement, &scenario.trace, trace) {
        (Some(movement), _, _) => moving(scenario, movement, seed),
        (None, Some(named), Some(text)) => recorded(scenario, &named.cloudlet_nodes, text)?,
        _ => return Err(Error::NoTrace),
    };
    let mut world = World::new(scenario, seed, &nodes);
    world.schedule_contacts(&contacts);
    for handheld in nodes.handhelds {
        world.next_request_of(handheld);
        world.next_object_of(handheld);
    }
    while let Some(event) = world.engine.next(scenario.duration()) {
        world.step(event);
    }
    Ok(world.finish())
}

/// A run that could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scenario names a trace, and the caller gave none.
    #[error("the scenario needs its recorded contacts")]
    NoTrace,
    /// The trace cannot be read.
    #[error("the recorded contacts cannot be read")]
    Trace(#[from] contacts::TraceError),
    /// The trace lacks a cloudlet, so the scenario's numbers are wrong.
    #[error("node {0} of trace.cloudlet_nodes has no contact in the trace; name nodes that the trace has")]
    NoSuchNode(u32),
    /// The trace has more nodes than a scenario may have.
    #[error("the trace has {0} nodes; at most {max} are simulated", max = crate::scenario::MAX_NODES)]
    TooManyNodes(usize),
}

/// Nodes and contacts of a scenario whose nodes move.
fn moving(scenario: &Scenario, movement: &Movement, seed: u64) -> (Nodes, Vec<Contact>) {
    let way = |node: u32, speed: &Speed| {
        let waypoints = Waypoints {
            width_m: movement.width_m,
            height_m: movement.height_m,
            slowest_m_per_s: speed.slowest_m_per_s,
            fastest_m_per_s: speed.fastest_m_per_s,
            longest_pause_s: speed.longest_pause_s,
        };
        (
            node,
            Path::random(&waypoints, scenario.duration(), &mut random::stream(seed, Purpose::Movement, node)),
        )
    };
    let speeds = scenario.cloudlets.iter().flat_map(|group| (0..group.count).map(|_| &group.speed));
    let cloudlets: Vec<(u32, Path)> = (0..).zip(speeds).map(|(node, speed)| way(node, speed)).collect();
    let first = cloudlets.last().map_or(0, |(node, _)| node + 1);
    let handhelds: Vec<(u32, Path)> = (first..first.saturating_add(scenario.handhelds.count.unwrap_or(0)))
        .map(|node| way(node, &scenario.handhelds.speed))
        .collect();
    let by_reference = |ways: &'_ [(u32, Path)]| -> Vec<u32> { ways.iter().map(|(node, _)| *node).collect() };
    let nodes = Nodes { cloudlets: by_reference(&cloudlets), handhelds: by_reference(&handhelds) };
    let contacts = contacts::from_paths(
        &cloudlets.iter().map(|(node, path)| (*node, path)).collect::<Vec<_>>(),
        &handhelds.iter().map(|(node, path)| (*node, path)).collect::<Vec<_>>(),
        movement.radio_range_m,
        scenario.duration(),
    );
    (nodes, contacts)
}

/// Nodes and contacts of a scenario with a recorded trace. Contacts between two handhelds or two cloudlets are left out.
fn recorded(scenario: &Scenario, cloudlets: &[u32], text: &str) -> Result<(Nodes, Vec<Contact>), Error> {
    let mut contacts = contacts::from_trace(text, scenario.duration())?;
    let seen: BTreeSet<u32> = contacts.iter().flat_map(|contact| [contact.low, contact.high]).collect();
    if seen.len() > crate::scenario::MAX_NODES {
        return Err(Error::TooManyNodes(seen.len()));
    }
    if let Some(missing) = cloudlets.iter().find(|node| !seen.contains(*node)) {
        return Err(Error::NoSuchNode(*missing));
    }
    let handhelds = seen.into_iter().filter(|node| !cloudlets.contains(node)).collect();
    contacts.retain(|contact| cloudlets.contains(&contact.low) != cloudlets.contains(&contact.high));
    Ok((Nodes { cloudlets: cloudlets.to_vec(), handhelds }, contacts))
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, seed: u64, nodes: &Nodes) -> Self {
        let groups = scenario.cloudlets.iter().flat_map(|group| (0..group.count).map(move |_| group));
        let cloudlets = nodes
            .cloudlets
            .iter()
            .zip(groups)
            .map(|(node, group)| (*node, Cloudlet::new(*node, group, scenario)))
            .collect();
        let handheld = |node: u32| Handheld {
            workload: random::stream(seed, Purpose::Workload, node),
            courier: Courier::new(node, seed),
        };
        let handhelds: BTreeMap<u32, Handheld> =
            nodes.handhelds.iter().map(|node| (*node, handheld(*node))).collect();
        let report = Report::new(scenario, seed, nodes.cloudlets.len(), handhelds.len());
        Self {
            scenario,
            engine: Engine::default(),
            cloudlets,
            links: handhelds.keys().map(|node| (*node, BTreeSet::new())).collect(),
            handhelds,
            active: BTreeMap::new(),
            next_request: 1,
            report,
            log: EventLog::default(),
        }
    }

    fn schedule_contacts(&mut self, contacts: &[Contact]) {
        for contact in contacts {
            self.engine.at(contact.up, Event::Up(*contact));
            self.engine.at(contact.down, Event::Down(*contact));
        }
        self.report.contacts(contacts);
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Up(contact) => self.contact_begins(&contact),
            Event::Down(contact) => self.contact_ends(&contact),
            Event::Request { handheld } => self.request(handheld),
            Event::Ready { request } => self.ready(request),
            Event::Done { request } => self.done(request),
            Event::Collected { handheld } => self.collected(handheld),
            Event::Arrived { handheld, piece } => self.arrived(handheld, piece),
        }
        debug_assert!(self.cloudlets.values().all(Cloudlet::is_within_its_memory));
    }

    fn contact_begins(&mut self, contact: &Contact) {
        let (handheld, cloudlet) = self.roles(contact);
        self.tell(format_args!("contact-up {handheld} {cloudlet}"));
        self.links.entry(handheld).or_default().insert(cloudlet);
        self.hand_over(handheld);
    }

    fn contact_ends(&mut self, contact: &Contact) {
        let (handheld, cloudlet) = self.roles(contact);
        self.tell(format_args!("contact-down {handheld} {cloudlet}"));
        self.links.entry(handheld).or_default().remove(&cloudlet);
        self.cut_requests(handheld, cloudlet);
        self.cut_transfer(handheld, cloudlet);
    }

    /// The handheld and the cloudlet of a contact.
    fn roles(&self, contact: &Contact) -> (u32, u32) {
        if self.cloudlets.contains_key(&contact.low) {
            (contact.high, contact.low)
        } else {
            (contact.low, contact.high)
        }
    }

    /// Cloudlets that `handheld` reaches now.
    fn reachable(&self, handheld: u32) -> Vec<u32> {
        self.links.get(&handheld).into_iter().flatten().copied().collect()
    }

    fn latency(&self) -> Duration {
        Duration::from_millis(self.scenario.link.latency_ms)
    }

    /// Adds a line to the event log.
    fn tell(&mut self, what: std::fmt::Arguments<'_>) {
        self.log.line(self.engine.now(), what);
    }

    fn finish(mut self) -> Outcome {
        self.report.still_starting = self.still_starting();
        let (waiting, expired) = self.not_delivered();
        self.report.data.waiting = waiting;
        self.report.data.expired += expired;
        self.report.finish();
        Outcome { report: self.report, log: self.log.text() }
    }
}

#[cfg(test)]
mod tests;
