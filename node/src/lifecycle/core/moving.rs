//! Instances that come from other cloudlets and go to them. Who owns a VM meanwhile is decided elsewhere
//! ([`migration::handoff`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration::VmId;

use super::super::message::{Effect, Refused};
use super::super::{Claim, Instance, Phase, Saved, Service};
use super::Core;

/// How long setting the clock of a guest that has moved may take. Guess: its agent answers at once.
const CLOCK_LIMIT: Duration = Duration::from_secs(30);

impl Core {
    /// Keeps room for an instance that may come. On `Refused` nothing has changed.
    pub fn reserve(&mut self, vm: VmId, claim: Claim, memory_available_bytes: u64) -> Result<(), Refused> {
        if let Some(closed) = self.closed {
            return Err(Refused::Closed(closed));
        }
        if self.draining {
            return Err(Refused::Draining);
        }
        self.reserved.remove(&vm);
        self.free(memory_available_bytes).admit(claim, &self.limits)?;
        self.reserved.insert(vm, claim);
        Ok(())
    }

    /// It does not come.
    pub fn unreserve(&mut self, vm: VmId) {
        self.reserved.remove(&vm);
    }

    /// The VM stands still for a handoff: nothing here concludes anything from that, or stops it. Says whether there is
    /// such an instance, and that it is ready.
    pub fn hold(&mut self, vm: VmId) -> bool {
        let ready =
            self.instances.get(&vm).is_some_and(|instance| matches!(instance.phase, Phase::Ready { .. }));
        if ready {
            self.held.insert(vm);
        }
        ready
    }

    /// The VM runs on here. What became due meanwhile happens now.
    pub fn let_go(&mut self, now: Duration, vm: VmId, out: &mut Vec<Effect>) {
        if !self.held.remove(&vm) {
            return;
        }
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        for heard in instance.users.values_mut() {
            // Its users could not reach it.
            *heard = now;
        }
        if let Phase::Ready { running_since, next_check, failed_checks } = &mut instance.phase {
            // A list that was made while it stood still says nothing any more.
            (*running_since, *next_check, *failed_checks) = (now, Some(now), 0);
        }
        if instance.users.is_empty() {
            instance.idle_since = Some(now);
        }
        if self.closed.is_some() {
            self.force_stop(vm, out);
        }
    }

    /// An instance that was ready elsewhere runs here now.
    pub fn arrive(
        &mut self,
        now: Duration,
        saved: &Saved,
        service: Arc<Service>,
        address: SocketAddr,
        out: &mut Vec<Effect>,
    ) {
        let vm = saved.vm;
        self.reserved.remove(&vm);
        self.held.remove(&vm);
        let instance = Instance {
            vm,
            service,
            sharing: saved.sharing,
            owner: saved.owner.clone(),
            users: saved.users.iter().map(|token| (token.clone(), now)).collect(),
            idle_since: saved.users.is_empty().then_some(now),
            phase: Phase::Ready { running_since: now, next_check: Some(now), failed_checks: 0 },
            address: Some(address),
            requested_unix_ms: saved.requested_unix_ms,
            begun_at: None,
            ready_after_ms: saved.ready_after_ms,
            reason: None,
            backed_bytes: 0,
        };
        self.instances.insert(vm, instance);
        self.changed(vm, out);
        // It stood still for a moment, and its clock with it.
        out.push(Effect::SetClock { vm, limit: CLOCK_LIMIT });
    }

    /// An instance runs elsewhere now, and nothing of it is left here.
    pub fn moved_away(&mut self, vm: VmId, out: &mut Vec<Effect>) {
        self.held.remove(&vm);
        if self.instances.contains_key(&vm) {
            self.forget(vm, out);
        }
    }

    /// Whether a handoff has it in its hands.
    pub fn is_held(&self, vm: VmId) -> bool {
        self.held.contains(&vm)
    }
}
