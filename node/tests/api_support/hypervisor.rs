//! The shared fake hypervisor, watched: the order of calls, a gate in `clone_from`, VMs that stand still.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use migration::VmId;
use migration::hypervisor::fake::{Agent, Answer, Fake, Guest, Operation, Service, hardware};
use migration::hypervisor::{
    BootSpec, CloneSpec, Disk, Error, GuestOutput, Host, Hypervisor, Moving, Pace, Running, SuspendFiles,
    Suspended,
};

type Hook = Box<dyn Fn(&CloneSpec) + Send + Sync>;

/// A handle; all handles of one test see the same VMs.
pub struct Watched {
    fake: Fake,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    frozen: Mutex<BTreeSet<VmId>>,
    held: Mutex<bool>,
    released: Condvar,
    on_clone: Mutex<Option<Hook>>,
    health: Arc<AtomicU16>,
    service: Mutex<Option<SocketAddr>>,
    binds: Mutex<Vec<IpAddr>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Clone(VmId),
    Cloned(VmId),
    SetTime(VmId),
    Stop(VmId),
    Adopt(VmId),
}

impl Default for Watched {
    fn default() -> Self {
        let watched = Self { fake: Fake::default(), shared: Arc::default() };
        watched.health(200);
        watched.agent(Agent::Answers);
        watched
    }
}

impl Watched {
    /// A handle for another daemon, which knows of no VM until it adopts it.
    pub fn reconnect(&self) -> Self {
        Self { fake: self.fake.reconnect(), shared: self.shared.clone() }
    }

    /// Services answer with this status from now on.
    pub fn health(&self, status: u16) {
        self.shared.health.store(status, Ordering::SeqCst);
    }

    /// The agents of guests that start from now on.
    pub fn agent(&self, agent: Agent) {
        let health = self.shared.health.clone();
        let answer = move |_: &_| Answer::text(health.load(Ordering::SeqCst), "ok");
        self.fake.set_guest(Guest { agent, service: Service::Custom(Arc::new(answer)), ..Guest::default() });
    }

    /// Forwarded ports of guests that start from now on are this one, where the test serves.
    pub fn serve_at(&self, address: SocketAddr) {
        *self.shared.service.lock().unwrap() = Some(address);
    }

    /// Addresses on which ports were to be forwarded.
    pub fn binds(&self) -> Vec<IpAddr> {
        self.shared.binds.lock().unwrap().clone()
    }

    pub fn fail_nth(&self, operation: Operation, nth: u64) {
        self.fake.fail_nth(operation, nth);
    }

    /// The fake itself.
    pub fn fake(&self) -> &Fake {
        &self.fake
    }

    pub fn running(&self) -> Vec<VmId> {
        self.fake.list().unwrap().into_iter().map(|running| running.vm).collect()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    pub fn clones(&self) -> usize {
        self.calls().iter().filter(|call| matches!(call, Call::Clone(_))).count()
    }

    pub fn die(&self, vm: VmId) {
        self.fake.die(vm);
    }

    /// The VM stands still, as on a full disk.
    pub fn freeze(&self, vm: VmId) {
        self.shared.frozen.lock().unwrap().insert(vm);
    }

    /// Starts a VM that nobody records.
    pub fn stray(&self, vm: VmId, files: &Path) {
        let file = |name: &str| {
            let path = files.join(name);
            std::fs::write(&path, b"x").unwrap();
            path
        };
        let spec = CloneSpec {
            vm,
            hardware: hardware(),
            disk: file("disk"),
            template: file("template"),
            device_stream: file("stream"),
            console: files.join("console"),
        };
        Hypervisor::clone_from(&self.fake, &spec).unwrap();
    }

    /// `clone_from` waits until it is released.
    pub fn hold_clones(&self) {
        *self.shared.held.lock().unwrap() = true;
    }

    pub fn release_clones(&self) {
        *self.shared.held.lock().unwrap() = false;
        self.shared.released.notify_all();
    }

    /// Called at the beginning of every `clone_from`.
    pub fn on_clone(&self, hook: impl Fn(&CloneSpec) + Send + Sync + 'static) {
        *self.shared.on_clone.lock().unwrap() = Some(Box::new(hook));
    }

    fn note(&self, call: Call) {
        self.shared.calls.lock().unwrap().push(call);
    }

    fn thawed(&self, mut running: Running) -> Running {
        running.executing &= !self.shared.frozen.lock().unwrap().contains(&running.vm);
        running
    }
}

impl Hypervisor for Watched {
    fn clone_from(&self, spec: &CloneSpec) -> Result<(), Error> {
        if let Some(hook) = &*self.shared.on_clone.lock().unwrap() {
            hook(spec);
        }
        self.note(Call::Clone(spec.vm));
        let held = self.shared.held.lock().unwrap();
        drop(self.shared.released.wait_while(held, |held| *held).unwrap());
        Hypervisor::clone_from(&self.fake, spec)?;
        self.note(Call::Cloned(spec.vm));
        Ok(())
    }

    fn stop(&self, vm: VmId) -> Result<(), Error> {
        self.note(Call::Stop(vm));
        self.fake.stop(vm)
    }

    fn list(&self) -> Result<Vec<Running>, Error> {
        Ok(self.fake.list()?.into_iter().map(|running| self.thawed(running)).collect())
    }

    fn adopt(&self, vm: VmId) -> Result<Running, Error> {
        self.note(Call::Adopt(vm));
        self.fake.adopt(vm).map(|running| self.thawed(running))
    }

    fn agent_set_time(&self, vm: VmId, since_epoch: Duration) -> Result<(), Error> {
        self.fake.agent_set_time(vm, since_epoch)?;
        assert!(since_epoch > Duration::from_secs(1_700_000_000), "the guest would live in the past");
        self.note(Call::SetTime(vm));
        Ok(())
    }

    fn host(&self) -> Result<Host, Error> {
        self.fake.host()
    }

    fn boot(&self, spec: &BootSpec) -> Result<(), Error> {
        self.fake.boot(spec)
    }

    fn suspend(&self, vm: VmId, into: &SuspendFiles) -> Result<Suspended, Error> {
        self.fake.suspend(vm, into)
    }

    fn forward_port(&self, vm: VmId, bind: IpAddr, port: u16, guest_port: u16) -> Result<SocketAddr, Error> {
        self.shared.binds.lock().unwrap().push(bind);
        if let Some(service) = *self.shared.service.lock().unwrap() {
            return Ok(service);
        }
        self.fake.forward_port(vm, bind, port, guest_port)
    }

    fn agent_ping(&self, vm: VmId, limit: Duration) -> Result<(), Error> {
        self.fake.agent_ping(vm, limit)
    }

    fn agent_exec(
        &self,
        vm: VmId,
        program: &str,
        args: &[&str],
        limit: Duration,
    ) -> Result<GuestOutput, Error> {
        self.fake.agent_exec(vm, program, args, limit)
    }

    fn agent_write_file(&self, vm: VmId, path: &str, bytes: &[u8]) -> Result<(), Error> {
        self.fake.agent_write_file(vm, path, bytes)
    }

    fn attach_disk(&self, vm: VmId, disk: &Disk) -> Result<(), Error> {
        self.fake.attach_disk(vm, disk)
    }

    fn detach_disk(&self, vm: VmId, serial: &str) -> Result<(), Error> {
        self.fake.detach_disk(vm, serial)
    }
}

impl Moving for Watched {
    fn stream_out(&self, vm: VmId) -> Result<Box<dyn Read + Send>, Error> {
        self.fake.stream_out(vm)
    }

    fn pace(&self, vm: VmId, pace: Pace) -> Result<(), Error> {
        self.fake.pace(vm, pace)
    }

    fn freeze(&self, vm: VmId) -> Result<(), Error> {
        Moving::freeze(&self.fake, vm)
    }

    fn resume(&self, vm: VmId) -> Result<(), Error> {
        self.fake.resume(vm)
    }

    fn clone_paused(&self, spec: &CloneSpec) -> Result<(), Error> {
        self.fake.clone_paused(spec)
    }
}
