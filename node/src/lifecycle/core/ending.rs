//! How instances end.

use std::time::Duration;

use migration::VmId;

use super::super::message::{Closed, Effect, Keep};
use super::super::{ENDED_MAX, ENDED_VISIBLE, Instance, Outcome, Phase, STOP_RETRY, StopStep};
use super::Core;

impl Core {
    /// Begins to stop a live instance.
    pub(super) fn stop(&mut self, vm: VmId, outcome: Outcome, reason: String, out: &mut Vec<Effect>) {
        if self.is_held(vm) {
            return;
        }
        let step = match self.instances.get(&vm).map(|instance| &instance.phase) {
            Some(Phase::Fetching | Phase::Waking { .. }) => StopStep::AwaitStart,
            Some(Phase::Checking { .. } | Phase::Ready { .. }) => StopStep::Called,
            _ => return,
        };
        self.stop_vm(vm, outcome, reason, step, out);
    }

    pub(super) fn stop_vm(
        &mut self,
        vm: VmId,
        outcome: Outcome,
        reason: String,
        step: StopStep,
        out: &mut Vec<Effect>,
    ) {
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        instance.phase = Phase::Stopping { outcome, step };
        instance.users.clear();
        instance.idle_since = None;
        instance.address = None;
        instance.reason = Some(reason);
        self.changed(vm, out);
        out.push(match step {
            StopStep::AwaitStart => Effect::CancelStart { vm },
            _ => Effect::StopVm { vm },
        });
    }

    pub(super) fn call_stop(&mut self, vm: VmId, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        if let Phase::Stopping { step, .. } = &mut instance.phase {
            *step = StopStep::Called;
            out.push(Effect::StopVm { vm });
        }
    }

    pub(super) fn vm_stopped(&mut self, now: Duration, vm: VmId, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        let Phase::Stopping { outcome, step: StopStep::Called } = instance.phase else { return };
        instance.phase = Phase::Ended { outcome, forget_at: now.saturating_add(ENDED_VISIBLE) };
        instance.backed_bytes = 0;
        self.changed(vm, out);
        self.prune(out);
    }

    pub(super) fn stop_failed(&mut self, now: Duration, vm: VmId) {
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        if let Phase::Stopping { step: step @ StopStep::Called, .. } = &mut instance.phase {
            *step = StopStep::RetryAt(now.saturating_add(STOP_RETRY));
        }
    }

    pub(super) fn close(&mut self, closed: Closed, keep: Keep, out: &mut Vec<Effect>) {
        if self.closed != Some(Closed::ShuttingDown) {
            self.closed = Some(closed);
        }
        let reason = match closed {
            Closed::MissionEnded => "the mission has ended",
            Closed::ShuttingDown => "the cloudlet shut down",
        };
        let stays =
            |instance: &Instance| keep == Keep::Ready && matches!(instance.phase, Phase::Ready { .. });
        let ending: Vec<VmId> =
            self.instances.values().filter(|i| i.is_live() && !stays(i)).map(|i| i.vm).collect();
        for vm in ending {
            self.stop(vm, Outcome::Stopped, reason.to_owned(), out);
        }
    }

    /// Keeps the list of ended instances short.
    pub(super) fn prune(&mut self, out: &mut Vec<Effect>) {
        let mut ended: Vec<(Duration, VmId)> = (self.instances.values())
            .filter_map(|instance| match instance.phase {
                Phase::Ended { forget_at, .. } => Some((forget_at, instance.vm)),
                _ => None,
            })
            .collect();
        ended.sort_unstable();
        let surplus = ended.len().saturating_sub(ENDED_MAX);
        for (_, vm) in ended.into_iter().take(surplus) {
            self.forget(vm, out);
        }
    }

    pub(super) fn forget(&mut self, vm: VmId, out: &mut Vec<Effect>) {
        self.instances.remove(&vm);
        out.push(Effect::Forget { vm });
    }
}
