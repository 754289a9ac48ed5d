//! What happens because time has passed.

use std::time::Duration;

use migration::VmId;

use super::super::message::{Effect, Patience};
use super::super::{Instance, Outcome, Phase, StopStep};
use super::Core;

impl Core {
    /// When [`Input::Tick`](crate::lifecycle::Input::Tick) is due, if ever.
    pub fn next_wakeup(&self) -> Option<Duration> {
        self.instances.values().filter_map(|instance| self.wakeup(instance)).min()
    }

    fn wakeup(&self, instance: &Instance) -> Option<Duration> {
        if self.is_held(instance.vm) {
            return None;
        }
        let lease = self
            .limits
            .user_timeout
            .and_then(|timeout| instance.users.values().min().map(|heard| heard.saturating_add(timeout)));
        let own = match instance.phase {
            // How long to wait for other cloudlets is decided where images are fetched.
            Phase::Fetching => None,
            Phase::Waking { deadline } | Phase::Checking { deadline, .. } => Some(deadline),
            Phase::Ready { next_check, .. } => {
                let idle = instance.idle_since.map(|since| since.saturating_add(self.limits.idle_stop));
                next_check.into_iter().chain(idle).min()
            }
            Phase::Stopping { step: StopStep::RetryAt(at), .. } => Some(at),
            Phase::Stopping { .. } => None,
            Phase::Ended { forget_at, .. } => Some(forget_at),
        };
        lease.into_iter().chain(own).min()
    }

    pub(super) fn tick(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let due: Vec<VmId> = (self.instances.values())
            .filter(|instance| self.wakeup(instance).is_some_and(|at| at <= now))
            .map(|instance| instance.vm)
            .collect();
        for vm in due {
            self.expire_users(now, vm, out);
            self.expire(now, vm, out);
        }
    }

    /// Clients that were not heard of for too long count as gone. An instance without users goes on for a while.
    pub(super) fn expire_users(&mut self, now: Duration, vm: VmId, out: &mut Vec<Effect>) {
        let Some(timeout) = self.limits.user_timeout else { return };
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        let before = instance.users.len();
        instance.users.retain(|_, heard| heard.saturating_add(timeout) > now);
        if instance.users.len() == before {
            return;
        }
        if instance.users.is_empty() && instance.phase == Phase::Fetching {
            return self.stop(vm, Outcome::Stopped, "nobody waited for its image any more".to_owned(), out);
        }
        if instance.users.is_empty() && matches!(instance.phase, Phase::Ready { .. }) {
            instance.idle_since = Some(now);
        }
        self.changed(vm, out);
    }

    pub(super) fn expire(&mut self, now: Duration, vm: VmId, out: &mut Vec<Effect>) {
        let limits = self.limits;
        let Some(instance) = self.instances.get_mut(&vm) else { return };
        match &mut instance.phase {
            Phase::Waking { deadline } | Phase::Checking { deadline, .. } if *deadline <= now => {
                let reason = format!("it was not ready within {} s", limits.start_limit.as_secs());
                self.stop(vm, Outcome::Failed, reason, out);
            }
            Phase::Ready { next_check, .. } => {
                if instance.idle_since.is_some_and(|since| since.saturating_add(limits.idle_stop) <= now) {
                    let reason = format!("nobody used it for {} s", limits.idle_stop.as_secs());
                    self.stop(vm, Outcome::Stopped, reason, out);
                } else if next_check.is_some_and(|at| at <= now) {
                    *next_check = None;
                    let path = instance.service.health_path.clone();
                    let Some(address) = instance.address else { return };
                    out.push(Effect::CheckHealth { vm, address, path, patience: Patience::Once });
                }
            }
            Phase::Stopping { step: StopStep::RetryAt(at), .. } if *at <= now => self.call_stop(vm, out),
            Phase::Ended { forget_at, .. } if *forget_at <= now => self.forget(vm, out),
            _ => {}
        }
    }
}
