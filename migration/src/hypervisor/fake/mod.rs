//! A hypervisor without guests, for tests: it keeps the contract of [`Hypervisor`], fails, delays and loses VMs when
//! told to, and counts its calls.
//!
//! What a guest does is a [`Guest`]: whether its agent answers, what its service says through a forwarded port
//! (the ports are real listeners on this host), which programs it has, and when it dies. Suspended, it leaves
//! a real sparse template and a device stream that only the fake understands.
//!
//! ```text
//!   Fake ──┐                      a second handle sees the same VMs, as a daemon does
//!          ├──► World: VMs, ports, faults      that was killed and started again
//!   Fake ──┘ (reconnect)
//! ```
//!
//! Nothing here waits for a time limit: a silent agent is an [`Error::AgentSilent`] at once.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vm_images::Hardware;
use vm_images::manifest::Accelerator;

use super::{
    BootSpec, CloneSpec, Disk, Error, GuestOutput, Host, Hypervisor, Running, SuspendFiles, Suspended,
    TOPOLOGY, check_compatible,
};
use crate::VmId;

mod faults;
mod files;
mod guest;
mod http;
mod moving;
mod port;
mod ram;
#[cfg(test)]
mod tests;
mod vm;
mod world;

pub use faults::Operation;
pub use guest::{Agent, Death, Guest, Program, Service};
pub use http::{Answer, Request};

use vm::Vm;
use world::World;

/// A handle on VMs that are not there.
pub struct Fake {
    world: Arc<World>,
    /// VMs that this handle started or adopted; for others only `list`, `adopt` and `stop` work.
    ours: Mutex<BTreeSet<VmId>>,
}

/// What the fake can run unless told otherwise.
pub fn host() -> Host {
    Host {
        hypervisor: "fake".to_owned(),
        libvirt_version: "11.3.0".to_owned(),
        qemu_version: "10.0.2".to_owned(),
        accelerator: Accelerator::Tcg,
        machines: vec!["pc-q35-10.0".to_owned()],
        cpu_models: vec!["Nehalem".to_owned()],
        core_permille: None,
    }
}

/// Hardware that runs on [`host`]; 64 MiB of memory.
pub fn hardware() -> Hardware {
    Hardware {
        machine: "pc-q35-10.0".to_owned(),
        cpu_model: "Nehalem".to_owned(),
        accelerator: Accelerator::Tcg,
        topology: TOPOLOGY,
        memory_bytes: 64 << 20,
        vcpus: 1,
        command_line: "console=ttyS0".to_owned(),
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self::new(host())
    }
}

impl Fake {
    /// A new world without VMs, whose guests are all [`Guest::default`].
    pub fn new(host: Host) -> Self {
        Self { world: Arc::new(World::new(host)), ours: Mutex::default() }
    }

    /// A second handle on the same world, as a daemon has that was killed and started again: VMs and ports are
    /// still there, and have to be found and adopted. Faults and counters are the world's.
    pub fn reconnect(&self) -> Self {
        Self { world: Arc::clone(&self.world), ours: Mutex::default() }
    }

    /// What guests that start from now on are like.
    pub fn set_guest(&self, guest: Guest) {
        self.world.state().next_guest = guest;
    }

    /// Makes a running guest be like this from now on. Its files and clock stay; `death` counts from now.
    pub fn change_guest(&self, vm: VmId, guest: Guest) -> Result<(), Error> {
        let death = guest.death;
        self.world.with_vm(vm, |vm| vm.behave(guest))?;
        self.world.arrange_death(vm, death);
        Ok(())
    }

    /// Lets a VM die, as a QEMU that crashes. Its ports are closed when this returns.
    pub fn die(&self, vm: VmId) {
        self.world.end(vm);
    }

    /// Makes the `nth` call of an operation from now on fail; 1 is the next. May be asked for more than once.
    ///
    /// A call that fails leaves what the trait says it leaves: nothing of a VM that was being started, and of a
    /// suspension a stopped VM and half a template.
    pub fn fail_nth(&self, operation: Operation, nth: u64) {
        self.world.state().faults.fail_nth(operation, nth);
    }

    /// Makes every call of an operation take this much longer from now on.
    pub fn delay(&self, operation: Operation, by: Duration) {
        self.world.state().faults.delay(operation, by);
    }

    /// How often an operation was called, through every handle; failed calls count.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.world.state().faults.calls(operation)
    }

    /// A file in a guest.
    pub fn guest_file(&self, vm: VmId, path: &str) -> Result<Option<Vec<u8>>, Error> {
        self.world.with_vm(vm, |vm| vm.file(path))
    }

    fn ours(&self) -> MutexGuard<'_, BTreeSet<VmId>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what this handle has not taken over; a daemon that forgets to adopt is found out.
    fn check_ours(&self, vm: VmId) -> Result<(), Error> {
        self.world.with_vm(vm, |_| ())?;
        if self.ours().contains(&vm) {
            return Ok(());
        }
        refuse("cannot use the VM", format!("VM {vm} was started by another process; adopt it first"))
    }

    /// Runs `act` on a VM of ours, after the operation's delay and unless a fault is due.
    fn on<T>(
        &self,
        operation: Operation,
        vm: VmId,
        act: impl FnOnce(&mut Vm) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.world.begin(operation)?;
        self.check_ours(vm)?;
        self.world.with_vm(vm, act)?
    }

    fn start(&self, vm: VmId, started: Vm) -> Result<(), Error> {
        let death = started.death();
        self.world.add(vm, started)?;
        self.ours().insert(vm);
        self.world.arrange_death(vm, death);
        Ok(())
    }

    fn loaded(&self, spec: &CloneSpec) -> Result<Vm, Error> {
        self.check_hardware(&spec.hardware)?;
        files::must_be_readable(&[&spec.disk, &spec.template, &spec.device_stream])?;
        let (memory, pages) = files::read_device_stream(&spec.device_stream)?;
        files::write_console(&spec.console)?;
        Ok(Vm::woken(spec, memory, pages, self.next_guest()))
    }

    fn next_guest(&self) -> Guest {
        self.world.state().next_guest.clone()
    }

    fn check_hardware(&self, hardware: &Hardware) -> Result<(), Error> {
        let host = self.world.state().host.clone();
        check_compatible(hardware, &host, TOPOLOGY).map_err(Error::Incompatible)
    }
}

impl Hypervisor for Fake {
    fn host(&self) -> Result<Host, Error> {
        self.world.begin(Operation::Host)?;
        Ok(self.world.state().host.clone())
    }

    fn boot(&self, spec: &BootSpec) -> Result<(), Error> {
        self.world.begin(Operation::Boot)?;
        self.check_hardware(&spec.hardware)?;
        files::must_be_readable(&[&spec.disk, &spec.kernel, &spec.initrd])?;
        files::write_console(&spec.console)?;
        self.start(spec.vm, Vm::booted(spec, self.next_guest()))
    }

    fn clone_from(&self, spec: &CloneSpec) -> Result<(), Error> {
        self.world.begin(Operation::CloneFrom)?;
        let vm = self.loaded(spec)?;
        self.start(spec.vm, vm)
    }

    fn suspend(&self, vm: VmId, into: &SuspendFiles) -> Result<Suspended, Error> {
        let fault = self.world.begin(Operation::Suspend);
        self.check_ours(vm)?;
        let written = self.world.with_vm(vm, |vm| (vm.memory(), vm.hardware().memory_bytes));
        self.world.end(vm);
        self.ours().remove(&vm);
        let (memory, memory_bytes) = written?;
        match fault {
            Ok(()) => files::write_suspended(into, &memory, memory_bytes),
            Err(error) => files::write_half(into, memory_bytes).and(Err(error)),
        }
    }

    fn stop(&self, vm: VmId) -> Result<(), Error> {
        self.world.begin(Operation::Stop)?;
        self.world.end(vm);
        self.ours().remove(&vm);
        Ok(())
    }

    fn list(&self) -> Result<Vec<Running>, Error> {
        self.world.begin(Operation::List)?;
        Ok(self.world.state().vms.iter().map(|(id, vm)| vm.running(*id)).collect())
    }

    fn adopt(&self, vm: VmId) -> Result<Running, Error> {
        self.world.begin(Operation::Adopt)?;
        let running = self.world.with_vm(vm, |state| state.running(vm))?;
        self.ours().insert(vm);
        Ok(running)
    }

    fn forward_port(&self, vm: VmId, bind: IpAddr, port: u16, guest_port: u16) -> Result<SocketAddr, Error> {
        self.on(Operation::ForwardPort, vm, |vm| vm.forward(bind, port, guest_port))
    }

    fn agent_ping(&self, vm: VmId, limit: Duration) -> Result<(), Error> {
        self.on(Operation::AgentPing, vm, |state| state.ping(vm, limit))
    }

    fn agent_exec(
        &self,
        vm: VmId,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<GuestOutput, Error> {
        self.on(Operation::AgentExec, vm, |state| state.exec(vm, program, arguments, limit))
    }

    fn agent_write_file(&self, vm: VmId, path: &str, bytes: &[u8]) -> Result<(), Error> {
        self.on(Operation::AgentWriteFile, vm, |state| state.write_file(vm, path, bytes))
    }

    fn agent_set_time(&self, vm: VmId, since_epoch: Duration) -> Result<(), Error> {
        self.on(Operation::AgentSetTime, vm, |state| state.set_time(vm, since_epoch))
    }

    fn attach_disk(&self, vm: VmId, disk: &Disk) -> Result<(), Error> {
        self.on(Operation::AttachDisk, vm, |vm| vm.attach(disk))
    }

    fn detach_disk(&self, vm: VmId, serial: &str) -> Result<(), Error> {
        self.on(Operation::DetachDisk, vm, |vm| vm.detach(serial))
    }
}

/// What a hypervisor says that does not want to.
fn refuse<T>(doing: &'static str, message: impl Into<String>) -> Result<T, Error> {
    Err(Error::Hypervisor { doing, message: message.into() })
}
