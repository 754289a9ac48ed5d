//! Handhelds ask for services: choose a cloudlet, be admitted, wait until the application is ready, use it.
//!
//! ```text
//! request --nobody in reach----------> out of range
//!    |------nobody in reach holds it--> refused: no service
//!    |------nobody has the memory-----> refused: full
//!    `-> starting --contact lost------> cut before ready
//!           `-> in use --contact lost-> served, cut in use
//!                  `-----user is done-> served
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use mesh::selection::{self, Candidate, Instance, Link, Need, Verdict, Weighted};
use migration::VmId;
use rand::RngExt;
use uuid::Uuid;

use super::cloudlet::Cloudlet;
use super::{Event, World};
use crate::provisioning::{Cost, transfer};
use crate::random;
use crate::scenario::{Service, seconds};

/// A request that was admitted and is not over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Active {
    handheld: u32,
    cloudlet: u32,
    vm: VmId,
    asked: Duration,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    InUse,
}

impl<'a> World<'a> {
    /// Draws when `handheld` asks next.
    pub(super) fn next_request_of(&mut self, handheld: u32) {
        let mean = seconds(self.scenario.workload.mean_between_requests_s);
        if let Some(state) = self.handhelds.get_mut(&handheld) {
            let wait = random::exponential(&mut state.workload, mean);
            self.engine.after(wait, Event::Request { handheld });
        }
    }

    /// A handheld wants a service, each with the same probability.
    pub(super) fn request(&mut self, handheld: u32) {
        self.next_request_of(handheld);
        let Some(service) = self.draw_service(handheld) else { return };
        let request = self.next_request;
        self.next_request += 1;
        self.report.requests += 1;
        self.tell(format_args!("request {request} {handheld} {}", service.id));

        let reachable = self.reachable(handheld);
        let holds = |cloudlet: &Cloudlet| cloudlet.cost(service, self.scenario.workload.cached_vm).is_some();
        if reachable.is_empty() {
            self.report.out_of_range += 1;
            self.tell(format_args!("out-of-range {request}"));
        } else if !reachable.iter().filter_map(|node| self.cloudlets.get(node)).any(holds) {
            self.report.refused_no_service += 1;
            self.tell(format_args!("refused {request} no-service"));
        } else if !self.start_on_best(request, handheld, service, &reachable) {
            self.report.refused_full += 1;
            self.tell(format_args!("refused {request} full"));
        }
    }

    fn draw_service(&mut self, handheld: u32) -> Option<&'a Service> {
        let services = &self.scenario.services;
        let state = self.handhelds.get_mut(&handheld)?;
        services.get(state.workload.random_range(0..services.len()))
    }

    /// Asks the cloudlets from the best to the worst until one admits.
    fn start_on_best(&mut self, request: u64, handheld: u32, service: &Service, reachable: &[u32]) -> bool {
        let vm = VmId(Uuid::from_u128(request.into()));
        let best_first = self.rank(service, reachable);
        best_first.into_iter().any(|cloudlet| self.start(request, handheld, cloudlet, vm, service))
    }

    /// The cloudlets of `reachable` that can serve by what they said last, best first; decided by [`mesh::selection`].
    fn rank(&mut self, service: &Service, reachable: &[u32]) -> Vec<u32> {
        let now = self.engine.now();
        let need = Need {
            memory_bytes: service.needs_memory_mib.saturating_mul(1024 * 1024),
            cpu_millis: service.needs_cpu_millis,
            instance: Instance::Own,
            ..Need::of(service.id.clone())
        };
        let rate_bytes_per_s = self.scenario.link.rate_bytes_per_s;
        let rtt = Some(self.latency() * 2);
        let link = Link { rtt, rate_bytes_per_s: Some(rate_bytes_per_s), ..Link::default() };
        let mut candidates = Vec::new();
        let mut numbers = BTreeMap::new();
        for node in reachable {
            let Some(host) = self.cloudlets.get_mut(node) else { continue };
            let cost = host.cost(service, self.scenario.workload.cached_vm);
            let told = Candidate::from_advert(host.advert(now), &need, link);
            numbers.insert(told.node, *node);
            // The handheld knows how long its own payload takes, so it expects more precisely than the cloudlet can. Round
            // trips are not in it: the selection counts them itself. It counts a payload only beside a base system, which
            // these adverts never name.
            let ready_time = cost.map(|cost| self.payload_and_work(&cost));
            candidates.push(Candidate { ready_time, ..told });
        }
        let choice = selection::choose(&need, &candidates, &Weighted::default(), None);
        let able = choice.considered.iter().filter(|one| !matches!(one.verdict, Verdict::Cannot(_)));
        able.filter_map(|one| numbers.get(&one.node).copied()).collect()
    }

    /// Time that sending the payload and the cloudlet's work take, without latency.
    fn payload_and_work(&self, cost: &Cost) -> Duration {
        transfer(cost.payload_bytes, self.scenario.link.rate_bytes_per_s).saturating_add(cost.work)
    }

    /// Time from asking to being ready: there with request and payload, the work, back with the answer.
    fn ready_after(&self, cost: &Cost) -> Duration {
        (self.latency() * 2).saturating_add(self.payload_and_work(cost))
    }

    /// Starts an instance if `cloudlet` admits it.
    fn start(&mut self, request: u64, handheld: u32, cloudlet: u32, vm: VmId, service: &Service) -> bool {
        let Some(host) = self.cloudlets.get_mut(&cloudlet) else { return false };
        let Some(cost) = host.cost(service, self.scenario.workload.cached_vm) else { return false };
        if host.admit(self.engine.now(), vm, service).is_err() {
            return false;
        }
        self.report.most_instances = self.report.most_instances.max(host.instance_count());
        self.engine.after(self.ready_after(&cost), Event::Ready { request });
        let asked = self.engine.now();
        self.active.insert(request, Active { handheld, cloudlet, vm, asked, phase: Phase::Starting });
        self.tell(format_args!("start {request} {cloudlet}"));
        true
    }

    /// The Service VM answers.
    pub(super) fn ready(&mut self, request: u64) {
        let now = self.engine.now();
        let Some(active) = self.active.get_mut(&request) else { return };
        active.phase = Phase::InUse;
        let (handheld, ready) = (active.handheld, now.saturating_sub(active.asked));
        self.report.served(ready);
        self.tell(format_args!("ready {request} {}", ready.as_micros()));
        let mean = seconds(self.scenario.workload.mean_use_s);
        if let Some(state) = self.handhelds.get_mut(&handheld) {
            let used = random::exponential(&mut state.workload, mean);
            self.engine.after(used, Event::Done { request });
        }
    }

    /// The user needs the instance no longer.
    pub(super) fn done(&mut self, request: u64) {
        if let Some(active) = self.active.remove(&request) {
            self.tell(format_args!("done {request}"));
            self.stop(&active);
        }
    }

    /// A handheld has lost a cloudlet: what it had there is stopped.
    pub(super) fn cut_requests(&mut self, handheld: u32, cloudlet: u32) {
        let lost = |active: &Active| active.handheld == handheld && active.cloudlet == cloudlet;
        let requests: Vec<u64> =
            self.active.iter().filter(|(_, active)| lost(active)).map(|(request, _)| *request).collect();
        for request in requests {
            let Some(active) = self.active.remove(&request) else { continue };
            match active.phase {
                Phase::Starting => self.report.cut_before_ready += 1,
                Phase::InUse => self.report.cut_in_use += 1,
            }
            self.tell(format_args!("cut {request}"));
            self.stop(&active);
        }
    }

    fn stop(&mut self, active: &Active) {
        let now = self.engine.now();
        if let Some(host) = self.cloudlets.get_mut(&active.cloudlet) {
            host.stop(now, active.vm);
        }
    }

    /// Requests that the end of the run found neither ready nor cut.
    pub(super) fn still_starting(&self) -> usize {
        self.active.values().filter(|active| active.phase == Phase::Starting).count()
    }
}
