//! The state machine of all instances.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use handheld::api::Sharing;
use migration::VmId;

use super::message::{
    Closed, Created, Effect, Image, Input, Keep, Patience, Refused, Request, Seen, Started,
};
use super::{
    CHECK_INTERVAL, CHECKS_FAILED_MAX, Claim, Free, Instance, Limits, Outcome, Phase, START_GRACE, StopStep,
    Token,
};

mod ending;
mod fetching;
mod moving;
mod timers;

/// All instances of this cloudlet. `now` is time since the daemon's start and never goes backwards.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    closed: Option<Closed>,
    draining: bool,
    instances: BTreeMap<VmId, Instance>,
    /// Room for instances that may come from other cloudlets.
    reserved: BTreeMap<VmId, Claim>,
    /// Instances that stand still for a handoff.
    held: BTreeSet<VmId>,
}

impl Core {
    /// A cloudlet without instances.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            closed: None,
            draining: false,
            instances: BTreeMap::new(),
            reserved: BTreeMap::new(),
            held: BTreeSet::new(),
        }
    }

    /// Takes instances over from an earlier daemon; the phases say what is to be done with each.
    pub fn restore(&mut self, now: Duration, instances: Vec<Instance>, out: &mut Vec<Effect>) {
        for instance in instances {
            let vm = instance.vm;
            match (&instance.phase, instance.address) {
                (Phase::Checking { deadline, .. }, Some(address)) => {
                    let limit = deadline.saturating_sub(START_GRACE).saturating_sub(now);
                    let path = instance.service.health_path.clone();
                    out.push(Effect::CheckHealth { vm, address, path, patience: Patience::Until(limit) });
                }
                (Phase::Stopping { .. }, _) => out.push(Effect::StopVm { vm }),
                (Phase::Fetching, _) => {
                    out.push(Effect::Fetch { vm, service: instance.service.clone() });
                }
                _ => {}
            }
            self.instances.insert(vm, instance);
            self.changed(vm, out);
        }
        self.prune(out);
    }

    /// The limits that it keeps.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Every instance, also those that ended lately.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// One instance.
    pub fn instance(&self, vm: VmId) -> Option<&Instance> {
        self.instances.get(&vm)
    }

    /// Why nothing is started any more, if so.
    pub fn closed(&self) -> Option<Closed> {
        self.closed
    }

    /// From now on nobody new is taken, or they are again. Whoever uses an instance goes on.
    pub fn drain(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// What is free on a host that has this much memory available.
    pub fn free(&self, memory_available_bytes: u64) -> Free {
        let free = Free::beside(self.instances.values(), &self.limits, memory_available_bytes);
        self.reserved.values().fold(free, |free, claim| free.without(*claim))
    }

    /// A client asks for an instance, for the first time or again. On `Refused` nothing has changed.
    ///
    /// The token and the service decide which instance is meant: a repeated request gets the live instance that
    /// the client already uses, even if it asks for another `sharing` now.
    pub fn start(
        &mut self,
        now: Duration,
        request: Request,
        out: &mut Vec<Effect>,
    ) -> Result<Started, Refused> {
        if let Some(vm) = self.in_use_by(&request) {
            self.renew(now, vm, &request.token);
            return Ok(Started { vm, created: Created::No });
        }
        if let Some(closed) = self.closed {
            return Err(Refused::Closed(closed));
        }
        if self.draining {
            return Err(Refused::Draining);
        }
        if let Some(vm) = self.joinable(&request) {
            if let Some(instance) = self.instances.get_mut(&vm) {
                instance.users.insert(request.token, now);
                instance.idle_since = None;
            }
            self.changed(vm, out);
            return Ok(Started { vm, created: Created::No });
        }
        self.free(request.memory_available_bytes).admit(request.service.needs, &self.limits)?;
        Ok(Started { vm: self.create(now, request, out), created: Created::Yes })
    }

    /// A client says that it still uses an instance. Without effect if it does not use it.
    pub fn renew(&mut self, now: Duration, vm: VmId, token: &Token) {
        if let Some(heard) = self.instances.get_mut(&vm).and_then(|instance| instance.users.get_mut(token)) {
            *heard = now;
        }
    }

    /// A client no longer uses an instance; the last one stops it. Without effect if it did not use it.
    pub fn release(&mut self, vm: VmId, token: &Token, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&vm).filter(|instance| instance.is_live()) else {
            return;
        };
        if instance.users.remove(token).is_none() {
            return;
        }
        if instance.users.is_empty() {
            self.stop(vm, Outcome::Stopped, "its last client released it".to_owned(), out);
        } else {
            self.changed(vm, out);
        }
    }

    /// Stops an instance whoever uses it.
    pub fn force_stop(&mut self, vm: VmId, out: &mut Vec<Effect>) {
        self.stop(vm, Outcome::Stopped, "it was stopped by request, whoever used it".to_owned(), out);
    }

    /// Takes in what happened. Inputs about instances that are past it are ignored: answers may come late.
    pub fn step(&mut self, now: Duration, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Described { vm, service, memory_available_bytes } => {
                self.described(vm, service, memory_available_bytes, out);
            }
            Input::Fetched { vm, service, memory_available_bytes } => {
                self.fetched(now, vm, service, memory_available_bytes, out);
            }
            Input::VmStarted { vm, address } => self.vm_started(now, vm, address, out),
            Input::VmFailed { vm, reason } => self.vm_failed(vm, reason, out),
            Input::ClockSet { vm } => self.progress(now, vm, |clock_set, _| *clock_set = true, out),
            Input::ClockFailed { vm, reason } => self.clock_failed(vm, reason, out),
            Input::HealthOk { vm } => self.health_ok(now, vm, out),
            Input::HealthFailed { vm, reason } => self.health_failed(now, vm, reason, out),
            Input::VmStopped { vm } => self.vm_stopped(now, vm, out),
            Input::StopFailed { vm, .. } => self.stop_failed(now, vm),
            Input::Listed { asked_at, running } => self.listed(asked_at, &running, out),
            Input::Tick => self.tick(now, out),
            Input::MissionEnded => self.close(Closed::MissionEnded, Keep::Nothing, out),
            Input::Shutdown(keep) => self.close(Closed::ShuttingDown, keep, out),
        }
    }

    fn in_use_by(&self, request: &Request) -> Option<VmId> {
        let uses = |instance: &&Instance| {
            instance.is_live()
                && instance.service.id == request.service.id
                && instance.users.contains_key(&request.token)
        };
        self.instances.values().find(uses).map(|instance| instance.vm)
    }

    /// An instance that the client may join: its own private one that it was absent from, else the shared one that
    /// is furthest and fullest, so that others fall idle and give their memory back.
    fn joinable(&self, request: &Request) -> Option<VmId> {
        let fits = |instance: &&Instance| {
            instance.is_live()
                && instance.service.id == request.service.id
                && instance.service.image == request.service.image
                && instance.sharing == request.sharing
                && instance.has_room()
                && (request.sharing == Sharing::Shared || instance.owner == request.token)
        };
        let rank = |instance: &&Instance| {
            (
                matches!(instance.phase, Phase::Ready { .. }),
                instance.users.len(),
                std::cmp::Reverse(instance.vm),
            )
        };
        self.instances.values().filter(fits).max_by_key(rank).map(|instance| instance.vm)
    }

    fn create(&mut self, now: Duration, request: Request, out: &mut Vec<Effect>) -> VmId {
        let vm = request.vm;
        let service = request.service;
        let (phase, effect) = match request.image {
            Image::Here => (self.waking(now), Effect::StartVm { vm, service: service.clone() }),
            Image::Elsewhere => (Phase::Fetching, Effect::Fetch { vm, service: service.clone() }),
        };
        let instance = Instance {
            vm,
            service,
            sharing: request.sharing,
            owner: request.token.clone(),
            users: BTreeMap::from([(request.token, now)]),
            idle_since: None,
            phase,
            address: None,
            requested_unix_ms: request.unix_ms,
            begun_at: Some(now),
            ready_after_ms: None,
            reason: None,
            backed_bytes: 0,
        };
        self.instances.insert(vm, instance);
        self.changed(vm, out);
        out.push(effect);
        vm
    }

    fn waking(&self, now: Duration) -> Phase {
        Phase::Waking { deadline: now.saturating_add(self.limits.start_limit) }
    }

    fn vm_started(&mut self, now: Duration, vm: VmId, address: SocketAddr, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        match instance.phase {
            Phase::Waking { deadline } => {
                instance.phase = Phase::Checking {
                    deadline: deadline.saturating_add(START_GRACE),
                    running_since: now,
                    clock_set: false,
                    healthy: false,
                };
                instance.address = Some(address);
                let path = instance.service.health_path.clone();
                let limit = deadline.saturating_sub(now);
                out.push(Effect::SetClock { vm, limit });
                out.push(Effect::CheckHealth { vm, address, path, patience: Patience::Until(limit) });
            }
            Phase::Stopping { step: StopStep::AwaitStart, .. } => self.call_stop(vm, out),
            _ => {}
        }
    }

    fn vm_failed(&mut self, vm: VmId, reason: String, out: &mut Vec<Effect>) {
        match self.instances.get(&vm).map(|instance| &instance.phase) {
            Some(Phase::Fetching | Phase::Waking { .. }) => {
                self.stop_vm(vm, Outcome::Failed, reason, StopStep::Called, out);
            }
            Some(Phase::Stopping { step: StopStep::AwaitStart, .. }) => self.call_stop(vm, out),
            _ => {}
        }
    }

    fn clock_failed(&mut self, vm: VmId, reason: String, out: &mut Vec<Effect>) {
        if matches!(
            self.instances.get(&vm).map(|i| &i.phase),
            Some(Phase::Checking { .. } | Phase::Waking { .. })
        ) {
            self.stop(vm, Outcome::Failed, reason, out);
        }
    }

    fn health_ok(&mut self, now: Duration, vm: VmId, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        if let Phase::Ready { next_check, failed_checks, .. } = &mut instance.phase {
            *next_check = Some(now.saturating_add(CHECK_INTERVAL));
            *failed_checks = 0;
        } else {
            self.progress(now, vm, |_, healthy| *healthy = true, out);
        }
    }

    fn health_failed(&mut self, now: Duration, vm: VmId, reason: String, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        match &mut instance.phase {
            Phase::Ready { next_check, failed_checks, .. } => {
                *next_check = Some(now.saturating_add(CHECK_INTERVAL));
                *failed_checks = failed_checks.saturating_add(1);
                if *failed_checks >= CHECKS_FAILED_MAX {
                    let reason =
                        format!("its service failed {CHECKS_FAILED_MAX} health checks in a row: {reason}");
                    self.stop(vm, Outcome::Failed, reason, out);
                }
            }
            Phase::Checking { healthy: false, .. } => self.stop(vm, Outcome::Failed, reason, out),
            _ => {}
        }
    }

    /// Notes a condition of readiness; when all hold, the instance is ready.
    fn progress(
        &mut self,
        now: Duration,
        vm: VmId,
        note: impl FnOnce(&mut bool, &mut bool),
        out: &mut Vec<Effect>,
    ) {
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        let Phase::Checking { running_since, clock_set, healthy, .. } = &mut instance.phase else { return };
        note(clock_set, healthy);
        if !(*clock_set && *healthy) {
            return;
        }
        let (running_since, next_check) = (*running_since, Some(now.saturating_add(CHECK_INTERVAL)));
        instance.phase = Phase::Ready { running_since, next_check, failed_checks: 0 };
        if let Some(begun_at) = instance.begun_at {
            let took = now.saturating_sub(begun_at).as_millis();
            instance.ready_after_ms = Some(u64::try_from(took).unwrap_or(u64::MAX));
        }
        if instance.users.is_empty() {
            instance.idle_since = Some(now);
        }
        self.changed(vm, out);
    }

    fn listed(&mut self, asked_at: Duration, running: &BTreeMap<VmId, Seen>, out: &mut Vec<Effect>) {
        let mut dead = Vec::new();
        for instance in self.instances.values_mut() {
            let Some(since) = instance.running_since() else { continue };
            if self.held.contains(&instance.vm) {
                continue;
            }
            match running.get(&instance.vm) {
                Some(seen) if seen.executing => instance.backed_bytes = seen.backed_bytes,
                // The list may have been made before it was resumed.
                _ if since >= asked_at => {}
                Some(_) => dead.push((
                    instance.vm,
                    "its VM stands still: the hypervisor has paused it; is the disk full?",
                )),
                None => dead.push((instance.vm, "its VM ended by itself")),
            }
        }
        for (vm, reason) in dead {
            self.stop(vm, Outcome::Failed, reason.to_owned(), out);
        }
    }

    fn changed(&self, vm: VmId, out: &mut Vec<Effect>) {
        if let Some(instance) = self.instances.get(&vm) {
            out.push(Effect::Persist(Box::new(instance.clone())));
            out.push(Effect::Tell(Box::new(instance.clone())));
        }
    }
}
