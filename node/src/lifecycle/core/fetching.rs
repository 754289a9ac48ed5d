//! Instances whose image comes from another cloudlet first.

use std::sync::Arc;
use std::time::Duration;

use handheld::api::Sharing;
use migration::VmId;

use super::super::message::{Effect, Refused};
use super::super::{Free, Outcome, Phase, Service, StopStep};
use super::Core;

impl Core {
    /// Room is kept from now on, so that what was fetched for minutes can start; without it there is no use in fetching.
    pub(super) fn described(
        &mut self,
        vm: VmId,
        service: Arc<Service>,
        memory_available_bytes: u64,
        out: &mut Vec<Effect>,
    ) {
        if !self.is_fetching(vm) {
            return;
        }
        match self.make_room(vm, service, memory_available_bytes) {
            Ok(()) => self.changed(vm, out),
            Err(refused) => self.stop(vm, Outcome::Failed, refused.to_string(), out),
        }
    }

    pub(super) fn fetched(
        &mut self,
        now: Duration,
        vm: VmId,
        service: Arc<Service>,
        memory_available_bytes: u64,
        out: &mut Vec<Effect>,
    ) {
        match self.instances.get(&vm).map(|instance| &instance.phase) {
            Some(Phase::Stopping { step: StopStep::AwaitStart, .. }) => return self.call_stop(vm, out),
            Some(Phase::Fetching) => {}
            _ => return,
        }
        if let Err(refused) = self.make_room(vm, service.clone(), memory_available_bytes) {
            return self.stop_vm(vm, Outcome::Failed, refused.to_string(), StopStep::Called, out);
        }
        let phase = self.waking(now);
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        instance.phase = phase;
        instance.begun_at = Some(now);
        self.changed(vm, out);
        out.push(Effect::StartVm { vm, service });
    }

    fn is_fetching(&self, vm: VmId) -> bool {
        self.instances.get(&vm).is_some_and(|instance| instance.phase == Phase::Fetching)
    }

    /// The instance will need this much; what it claims already is its own.
    fn make_room(
        &mut self,
        vm: VmId,
        service: Arc<Service>,
        memory_available_bytes: u64,
    ) -> Result<(), Refused> {
        let Some(instance) = self.instances.get(&vm) else { return Ok(()) };
        if instance.service.needs != service.needs {
            let others = self.instances.values().filter(|other| other.vm != vm);
            let free = Free::beside(others, &self.limits, memory_available_bytes);
            let free = self.reserved.values().fold(free, |free, claim| free.without(*claim));
            free.admit(service.needs, &self.limits)?;
        }
        let Some(instance) = self.instances.get_mut(&vm) else { return Ok(()) };
        if service.max_users <= 1 {
            instance.sharing = Sharing::Private;
        }
        instance.service = service;
        Ok(())
    }
}
