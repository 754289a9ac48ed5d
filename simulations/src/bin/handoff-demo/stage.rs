//! The vehicles, the service on one of them, and what each step cost.

use anyhow::{Context, ensure};
use serde::Deserialize;
use simulations::lab::{Counters, Lab};
use simulations::medium::Change;

use super::VEHICLES;
use super::client::Log;
use super::demo_support::cloudlet::Cloudlet;
use super::demo_support::now;
use super::table::{Row, Table};

/// What steps act on.
pub struct Stage<'a> {
    pub lab: &'a Lab,
    pub vehicles: &'a mut Vec<Cloudlet>,
    /// Id of the instance.
    pub instance: &'a str,
    log: &'a Log,
    table: &'a mut Table,
}

/// What a cloudlet says of a handoff.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Moved {
    pub total_ms: u64,
    pub downtime_ms: Option<u64>,
    pub attempts: u32,
}

impl<'a> Stage<'a> {
    pub fn new(
        lab: &'a Lab,
        vehicles: &'a mut Vec<Cloudlet>,
        instance: &'a str,
        log: &'a Log,
        table: &'a mut Table,
    ) -> Self {
        Self { lab, vehicles, instance, log, table }
    }

    /// Does a step and notes what it cost: what it took if no cloudlet says, and all requests until one that began
    /// after it was answered.
    pub fn step(
        &mut self,
        what: &str,
        work: impl FnOnce(&mut Self) -> anyhow::Result<Option<Moved>>,
    ) -> anyhow::Result<()> {
        eprintln!("* {what}");
        let (before, begin) = (self.lab.counters()?, now());
        let moved = work(self).with_context(|| what.to_owned())?;
        let took = begin.elapsed();
        self.log.wait_answer()?;
        let wire_bytes = between(&self.lab.counters()?.since(&before));
        let answers = self.log.take();
        let row = Row {
            step: what.to_owned(),
            total_s: moved.map_or(took.as_secs_f64(), |moved| moved.total_ms as f64 / 1000.0),
            downtime_ms: moved.and_then(|moved| moved.downtime_ms),
            attempts: moved.map(|moved| moved.attempts),
            pause_ms: u64::try_from(answers.longest_pause.as_millis())?,
            wire_bytes,
            requests: answers.right + answers.wrong + answers.lost.len() as u64,
            right: answers.right,
            lost: answers.lost,
        };
        eprintln!("    {row}");
        self.table.rows.push(row);
        Ok(())
    }

    /// Which vehicles have the service, as numbers of `vehicles`.
    pub fn served_at(&self) -> anyhow::Result<Vec<usize>> {
        let mut here = Vec::new();
        for (number, vehicle) in self.vehicles.iter().enumerate() {
            let listed = vehicle.ask(&["vm", "list"])?;
            let instances = listed["instances"].as_array().context("a list of instances")?;
            if instances.iter().any(|one| one["id"] == self.instance && one["state"] == "ready") {
                here.push(number);
            }
        }
        Ok(here)
    }

    /// The vehicle that has the service, and the other one.
    pub fn places(&self) -> anyhow::Result<[&Cloudlet; 2]> {
        let here = self.served_at()?;
        ensure!(here.len() == 1 && self.vehicles.len() == 2, "vehicles {here:?} have the instance ready");
        Ok([&self.vehicles[here[0]], &self.vehicles[1 - here[0]]])
    }

    /// Makes the link between the vehicles faster or slower.
    pub fn set_rate(&self, rate: &str) -> anyhow::Result<()> {
        let change = Change { rate: Some(rate.parse()?), ..Change::default() };
        Ok(self.lab.set(VEHICLES[0], VEHICLES[1], change)?)
    }

    /// Bytes of IP packets that the vehicles sent each other since the start, headers and encryption included.
    pub fn wire_bytes(&self) -> anyhow::Result<u64> {
        Ok(between(&self.lab.counters()?))
    }
}

fn between(counters: &Counters) -> u64 {
    let [one, two] = VEHICLES;
    let way = |from: &str, to: &str| counters.pair(from, to).map_or(0, |pair| pair.offered.ip_bytes);
    way(one, two) + way(two, one)
}
