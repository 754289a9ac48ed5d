//! What came of a run: for people as text, for programs as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sync::Priority;

use crate::contacts::Contact;
use crate::scenario::Scenario;
use crate::stats::Summary;

/// What came of a run. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed of the run.
    pub seed: u64,
    /// Simulated time, seconds.
    pub duration_s: f64,
    /// How many cloudlets.
    pub cloudlets: usize,
    /// How many handhelds.
    pub handhelds: usize,
    /// Requests for a service. The sum of all the following counts, `cut_in_use` apart.
    pub requests: usize,
    /// Requests whose Service VM answered.
    pub served: usize,
    /// Requests without any cloudlet in reach.
    pub out_of_range: usize,
    /// Requests for a service that no cloudlet in reach holds.
    pub refused_no_service: usize,
    /// Requests for which no cloudlet in reach that holds the service had the memory.
    pub refused_full: usize,
    /// Requests whose contact ended before the Service VM answered.
    pub cut_before_ready: usize,
    /// Requests that were starting when the run ended.
    pub still_starting: usize,
    /// Of the served: how many lost contact before the user was done.
    pub cut_in_use: usize,
    /// Most instances that one cloudlet had at a time.
    pub most_instances: usize,
    /// Application-ready time of the served, milliseconds.
    pub ready_ms: Summary,
    /// Length of contacts between handheld and cloudlet, milliseconds.
    pub contact_ms: Summary,
    /// Mission data.
    pub data: Data,
    #[serde(skip)]
    values: Values,
}

/// What came of the mission data.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Data {
    /// Objects that handhelds collected. The sum of delivered, expired and waiting.
    pub collected: usize,
    /// Objects that a cloudlet has whole.
    pub delivered: usize,
    /// Objects whose time ran out first.
    pub expired: usize,
    /// Objects that wait at the end of the run.
    pub waiting: usize,
    /// Bytes sent, also of objects that did not arrive whole.
    pub bytes: u64,
    /// Time from collection to delivery by priority, milliseconds.
    pub delay_ms: BTreeMap<&'static str, Summary>,
}

/// Single values, until they are summarised.
#[derive(Debug, Clone, Default, PartialEq)]
struct Values {
    ready_ms: Vec<f64>,
    contact_ms: Vec<f64>,
    delay_ms: BTreeMap<&'static str, Vec<f64>>,
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn name(priority: Priority) -> &'static str {
    match priority {
        Priority::Routine => "routine",
        Priority::Priority => "priority",
        Priority::Immediate => "immediate",
        Priority::Flash => "flash",
    }
}

impl Report {
    pub(crate) fn new(scenario: &Scenario, seed: u64, cloudlets: usize, handhelds: usize) -> Self {
        Self {
            scenario: scenario.name.clone(),
            seed,
            duration_s: scenario.duration_s,
            cloudlets,
            handhelds,
            requests: 0,
            served: 0,
            out_of_range: 0,
            refused_no_service: 0,
            refused_full: 0,
            cut_before_ready: 0,
            still_starting: 0,
            cut_in_use: 0,
            most_instances: 0,
            ready_ms: Summary::default(),
            contact_ms: Summary::default(),
            data: Data::default(),
            values: Values::default(),
        }
    }

    pub(crate) fn contacts(&mut self, contacts: &[Contact]) {
        self.values.contact_ms.extend(contacts.iter().map(|contact| milliseconds(contact.length())));
    }

    pub(crate) fn served(&mut self, ready: Duration) {
        self.served += 1;
        self.values.ready_ms.push(milliseconds(ready));
    }

    pub(crate) fn delivered(&mut self, priority: Priority, delay: Duration) {
        self.data.delivered += 1;
        self.values.delay_ms.entry(name(priority)).or_default().push(milliseconds(delay));
    }

    /// Summarises what was counted.
    pub(crate) fn finish(&mut self) {
        let values = std::mem::take(&mut self.values);
        self.ready_ms = Summary::of(&values.ready_ms);
        self.contact_ms = Summary::of(&values.contact_ms);
        self.data.delay_ms =
            values.delay_ms.iter().map(|(name, values)| (*name, Summary::of(values))).collect();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (seed {}, {} s simulated)", self.scenario, self.seed, self.duration_s)?;
        writeln!(f, "  nodes                 {} cloudlets, {} handhelds", self.cloudlets, self.handhelds)?;
        writeln!(f, "  contacts              {}", summary(&self.contact_ms))?;
        writeln!(f, "  requests              {}", self.requests)?;
        let share = |count: usize| 100.0 * count as f64 / self.requests.max(1) as f64;
        for (what, count) in [
            ("served", self.served),
            ("no cloudlet in range", self.out_of_range),
            ("refused: no service", self.refused_no_service),
            ("refused: full", self.refused_full),
            ("cut before ready", self.cut_before_ready),
            ("starting at the end", self.still_starting),
        ] {
            writeln!(f, "    {what:<20}{count:>8} {:>5.1} %", share(count))?;
        }
        writeln!(f, "  served, cut in use    {}", self.cut_in_use)?;
        writeln!(f, "  most instances        {} on one cloudlet", self.most_instances)?;
        writeln!(f, "  application ready     {}", summary(&self.ready_ms))?;
        if self.data.collected > 0 {
            let Data { collected, delivered, expired, waiting, bytes, delay_ms } = &self.data;
            writeln!(
                f,
                "  mission data          {collected} objects: {delivered} delivered, {expired} expired, "
            )?;
            writeln!(f, "                        {waiting} waiting; {} MB sent", bytes / 1_000_000)?;
            for priority in Priority::ALL.iter().rev() {
                if let Some(delay) = delay_ms.get(name(*priority)) {
                    writeln!(f, "    {:<20}{}", name(*priority), summary(delay))?;
                }
            }
        }
        Ok(())
    }
}

fn summary(summary: &Summary) -> String {
    match (summary.median, summary.p95, summary.max) {
        (Some(median), Some(p95), Some(max)) => {
            let [median, p95, max] = [median, p95, max].map(|ms| ms / 1000.0);
            format!("{}: median {median:.2} s, p95 {p95:.2} s, longest {max:.2} s", summary.count)
        }
        _ => "none".to_owned(),
    }
}
