//! What all handles of a fake share.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::faults::{Faults, Operation};
use super::guest::{Death, Guest};
use super::refuse;
use super::vm::Vm;
use crate::VmId;
use crate::hypervisor::{Error, Host};

/// VMs, faults and what the next guest will be like.
pub(super) struct World {
    state: Mutex<State>,
}

pub(super) struct State {
    pub host: Host,
    pub vms: BTreeMap<VmId, Vm>,
    pub faults: Faults,
    pub next_guest: Guest,
    /// Dropping one calls its VM's death off.
    deaths: BTreeMap<VmId, mpsc::Sender<()>>,
}

impl World {
    pub fn new(host: Host) -> Self {
        let (vms, faults, next_guest, deaths) = Default::default();
        Self { state: Mutex::new(State { host, vms, faults, next_guest, deaths }) }
    }

    /// Nothing in here is left half changed by a panic, so a poisoned lock is as good as any.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, delays it and lets it fail.
    pub fn begin(&self, operation: Operation) -> Result<(), Error> {
        let verdict = self.state().faults.begin(operation);
        std::thread::sleep(verdict.wait);
        if verdict.fails {
            return refuse("a fault that the test asked for", format!("{operation:?} fails"));
        }
        Ok(())
    }

    pub fn with_vm<T>(&self, vm: VmId, act: impl FnOnce(&mut Vm) -> T) -> Result<T, Error> {
        self.state().vms.get_mut(&vm).map(act).ok_or(Error::NoSuchVm(vm))
    }

    pub fn add(&self, id: VmId, vm: Vm) -> Result<(), Error> {
        let mut state = self.state();
        if state.vms.contains_key(&id) {
            return refuse("cannot start QEMU", format!("domain {id} is already active"));
        }
        vm.check_start(state.vms.values())?;
        state.vms.insert(id, vm);
        Ok(())
    }

    /// Ends a VM, if it is there.
    pub fn end(&self, vm: VmId) {
        let mut state = self.state();
        let ended = (state.vms.remove(&vm), state.deaths.remove(&vm));
        // Closing its ports waits for their threads; other calls need not.
        drop(state);
        drop(ended);
    }

    /// Lets a VM die when its time comes, unless it ended or changed before.
    pub fn arrange_death(self: &Arc<Self>, vm: VmId, death: Death) {
        self.state().deaths.remove(&vm);
        let Death::After(wait) = death else { return };
        let (keep, called_off) = mpsc::channel();
        self.state().deaths.insert(vm, keep);
        let world = Arc::downgrade(self);
        let waiting = std::thread::Builder::new().name("fake death".to_owned()).spawn(move || {
            let due = wait_out(&called_off, wait);
            if let (true, Some(world)) = (due, world.upgrade()) {
                world.end(vm);
            }
        });
        if let Err(error) = waiting {
            tracing::error!(%vm, %error, "no thread for a fake guest's death; it dies now");
            self.end(vm);
        }
    }
}

/// Whether nothing called it off for so long.
fn wait_out(called_off: &mpsc::Receiver<()>, wait: Duration) -> bool {
    called_off.recv_timeout(wait) == Err(RecvTimeoutError::Timeout)
}
