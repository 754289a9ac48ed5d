//! The world around the core.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use handheld::api::Sharing;
use migration::VmId;
use node::lifecycle::{
    Adoptable, Claim, Core, Created, Effect, Image, Input, Instance, Keep, Limits, Patience, Phase, Reading,
    Refused, Request, Saved, SavedPhase, Seen, Service, Token, reconcile,
};

pub fn limits() -> Limits {
    Limits {
        max_instances: 5,
        memory_total_bytes: 1000,
        memory_reserve_bytes: 100,
        cpu_millis: 2000,
        idle_stop: Duration::from_secs(60),
        user_timeout: Some(Duration::from_secs(300)),
        start_limit: Duration::from_secs(30),
    }
}

pub fn services() -> Vec<Arc<Service>> {
    let service = |name: &str, memory_bytes, cpu_millis, max_users| {
        Arc::new(Service {
            id: name.parse().unwrap(),
            image: vm_images::ImageId(vm_images::Digest::of(name.as_bytes())),
            guest_port: 80,
            health_path: "/healthz".into(),
            needs: Claim { memory_bytes, cpu_millis },
            max_users,
        })
    };
    vec![service("small", 150, 300, 3), service("big", 400, 900, 2), service("solo", 200, 500, 1)]
}

pub fn token(n: u8) -> Token {
    Token::try_from(format!("client-{n}")).unwrap()
}

#[derive(Debug, Clone)]
pub enum Op {
    Start { token: u8, service: usize, private: bool, elsewhere: bool, available: u64 },
    Describe { which: usize, available: u64 },
    Release { token: u8, instance: usize },
    Renew { token: u8, instance: usize },
    Force { instance: usize },
    Answer { which: usize, good: bool },
    Pass { seconds: u64 },
    Die { which: usize },
    Freeze { which: usize },
    List,
    Restart,
    Mission,
    Shutdown { keep: bool },
}

/// An effect that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    Fetch(VmId, usize),
    Start(VmId),
    Clock(VmId),
    Health(VmId, Patience),
    Stop(VmId),
}

impl Open {
    /// Whether this must be over before the VM may be stopped.
    fn is_before_stop(&self, vm: VmId) -> bool {
        matches!(self, Self::Start(other) | Self::Fetch(other, _) if *other == vm)
    }
}

pub struct World {
    pub core: Core,
    pub now: Duration,
    pub next_vm: u128,
    pub open: Vec<Open>,
    /// What runs, and whether it executes. Survives restarts.
    pub vms: BTreeMap<VmId, bool>,
    pub disk: BTreeMap<VmId, Instance>,
    /// VMs whose service answered its health check since the daemon's start.
    pub answered: BTreeSet<VmId>,
    pub clocked: BTreeSet<VmId>,
    /// `StartVm` without a `StopVm` so far.
    pub owed_stops: BTreeSet<VmId>,
}

impl World {
    pub fn new() -> Self {
        Self {
            core: Core::new(limits()),
            now: Duration::ZERO,
            next_vm: 1,
            open: Vec::new(),
            vms: BTreeMap::new(),
            disk: BTreeMap::new(),
            answered: BTreeSet::new(),
            clocked: BTreeSet::new(),
            owed_stops: BTreeSet::new(),
        }
    }

    fn address(vm: VmId) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1024 + (vm.0.as_u128() % 60000) as u16))
    }

    fn pick(&self, n: usize) -> Option<VmId> {
        let all: Vec<VmId> = self.core.instances().map(|i| i.vm).collect();
        all.get(n % all.len().max(1)).copied()
    }

    pub fn apply(&mut self, op: &Op) {
        let mut out = Vec::new();
        let now = self.now;
        match *op {
            Op::Start { token: t, service, private, elsewhere, available } => {
                let image = if elsewhere { Image::Elsewhere } else { Image::Here };
                self.start(t, service, private, image, available, &mut out)
            }
            Op::Describe { which, available } => self.describe(which, available, &mut out),
            Op::Release { token: t, instance } => {
                if let Some(vm) = self.pick(instance) {
                    self.core.release(vm, &token(t), &mut out);
                    let left = self.core.instance(vm).unwrap();
                    assert!(!left.users.contains_key(&token(t)), "released and still a user");
                }
            }
            Op::Renew { token: t, instance } => {
                if let Some(vm) = self.pick(instance) {
                    self.core.renew(now, vm, &token(t));
                }
            }
            Op::Force { instance } => {
                if let Some(vm) = self.pick(instance) {
                    self.core.force_stop(vm, &mut out);
                    assert!(!self.core.instance(vm).unwrap().is_live());
                }
            }
            Op::Answer { which, good } => self.answer(which, good, &mut out),
            Op::Pass { seconds } => {
                self.now += Duration::from_secs(seconds);
                self.core.step(self.now, Input::Tick, &mut out);
            }
            Op::Die { which } => {
                if let Some(vm) = self.vms.keys().nth(which).copied() {
                    self.vms.remove(&vm);
                }
            }
            Op::Freeze { which } => {
                if let Some(executing) = self.vms.values_mut().nth(which) {
                    *executing = false;
                }
            }
            Op::List => {
                let running = (self.vms.iter())
                    .map(|(vm, executing)| (*vm, Seen { executing: *executing, backed_bytes: 40 }))
                    .collect();
                self.core.step(now, Input::Listed { asked_at: now, running }, &mut out);
            }
            Op::Restart => self.restart(&mut out),
            Op::Mission => self.core.step(now, Input::MissionEnded, &mut out),
            Op::Shutdown { keep } => {
                let keep = if keep { Keep::Ready } else { Keep::Nothing };
                self.core.step(now, Input::Shutdown(keep), &mut out);
            }
        }
        self.perform(out);
        self.check();
    }

    /// The manifest of an image that is on its way is here.
    fn describe(&mut self, which: usize, memory_available_bytes: u64, out: &mut Vec<Effect>) {
        let fetches: Vec<(VmId, usize)> = (self.open.iter())
            .filter_map(|open| if let Open::Fetch(vm, service) = open { Some((*vm, *service)) } else { None })
            .collect();
        let Some((vm, service)) = fetches.get(which % fetches.len().max(1)).copied() else { return };
        let service = services()[service].clone();
        self.core.step(self.now, Input::Described { vm, service, memory_available_bytes }, out);
    }

    fn start(
        &mut self,
        t: u8,
        service: usize,
        private: bool,
        image: Image,
        available: u64,
        out: &mut Vec<Effect>,
    ) {
        let mut service = services()[service].clone();
        if image == Image::Elsewhere {
            service = Arc::new(Service::elsewhere(service.id.clone(), service.image));
        }
        let is_solo = image == Image::Here && service.max_users == 1;
        let sharing = if private || is_solo { Sharing::Private } else { Sharing::Shared };
        let vm = VmId(uuid::Uuid::from_u128(self.next_vm));
        self.next_vm += 1;
        let request = Request {
            vm,
            token: token(t),
            service: service.clone(),
            image,
            sharing,
            unix_ms: 0,
            memory_available_bytes: available,
        };
        let before = self.uses(&token(t), &service);
        let free = self.core.free(available);
        let count = self.core.instances().count();
        match self.core.start(self.now, request, out) {
            Ok(started) => {
                let instance = self.core.instance(started.vm).unwrap();
                assert!(instance.is_live() && instance.users.contains_key(&token(t)));
                assert_eq!(instance.service.id, service.id);
                if let Some(before) = before {
                    assert_eq!(started.vm, before, "a repeated request got another instance");
                }
                assert_eq!(started.created == Created::Yes, started.vm == vm);
                assert!(self.core.closed().is_none() || before.is_some());
            }
            Err(refused) => {
                assert!(before.is_none(), "a user was refused its own instance");
                assert_eq!(self.core.instances().count(), count);
                assert!(out.is_empty(), "a refusal had effects");
                if let Refused::Insufficient(missing) = refused {
                    let short = service.needs.memory_bytes.saturating_sub(free.memory_bytes);
                    assert_eq!(missing.memory_bytes, short);
                    assert!(missing.memory_bytes > 0 || missing.cpu_millis > 0);
                }
            }
        }
    }

    fn uses(&self, token: &Token, service: &Service) -> Option<VmId> {
        let uses = |i: &&Instance| i.is_live() && i.service.id == service.id && i.users.contains_key(token);
        self.core.instances().find(uses).map(|i| i.vm)
    }

    fn answer(&mut self, which: usize, good: bool, out: &mut Vec<Effect>) {
        if self.open.is_empty() {
            return;
        }
        let open = self.open.remove(which % self.open.len());
        let reason = "told to fail".to_owned();
        let input = match open {
            Open::Fetch(vm, service) if good => {
                let service = services()[service].clone();
                Input::Fetched { vm, service, memory_available_bytes: 1000 }
            }
            Open::Fetch(vm, _) => Input::VmFailed { vm, reason },
            Open::Start(vm) if good => {
                self.vms.insert(vm, true);
                Input::VmStarted { vm, address: Self::address(vm) }
            }
            Open::Start(vm) => Input::VmFailed { vm, reason },
            Open::Clock(vm) if good => {
                self.clocked.insert(vm);
                Input::ClockSet { vm }
            }
            Open::Clock(vm) => Input::ClockFailed { vm, reason },
            Open::Health(vm, _) if good && self.vms.get(&vm) == Some(&true) => {
                self.answered.insert(vm);
                Input::HealthOk { vm }
            }
            Open::Health(vm, _) => Input::HealthFailed { vm, reason },
            Open::Stop(vm) if good => {
                self.vms.remove(&vm);
                Input::VmStopped { vm }
            }
            Open::Stop(vm) => Input::StopFailed { vm, reason },
        };
        self.core.step(self.now, input, out);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist(instance) => drop(self.disk.insert(instance.vm, *instance)),
                Effect::Forget { vm } => {
                    assert!(!self.vms.contains_key(&vm), "a VM that runs was forgotten");
                    self.disk.remove(&vm);
                }
                Effect::Tell(instance) => {
                    assert_eq!(Some(&*instance), self.disk.get(&instance.vm), "told before it was written");
                }
                Effect::Fetch { vm, service } => {
                    assert!(self.disk.contains_key(&vm), "fetched before it was recorded");
                    let known = services().iter().position(|one| one.id == service.id).unwrap();
                    self.open.push(Open::Fetch(vm, known));
                }
                Effect::StartVm { vm, .. } => {
                    assert!(self.disk.contains_key(&vm), "started before it was recorded");
                    assert!(self.owed_stops.insert(vm), "started twice");
                    self.open.push(Open::Start(vm));
                }
                Effect::CancelStart { vm } => assert!(self.open.iter().any(|open| open.is_before_stop(vm))),
                Effect::SetClock { vm, .. } => self.open.push(Open::Clock(vm)),
                Effect::CheckHealth { vm, patience, address, .. } => {
                    assert_eq!(address, Self::address(vm));
                    let one = |open: &&Open| matches!(open, Open::Health(other, _) if *other == vm);
                    assert_eq!(self.open.iter().filter(one).count(), 0, "two health checks of one instance");
                    self.open.push(Open::Health(vm, patience));
                }
                Effect::StopVm { vm } => {
                    let outstanding = self.open.iter().any(|open| open.is_before_stop(vm));
                    assert!(!outstanding, "stopped while its start was outstanding");
                    assert!(!self.open.contains(&Open::Stop(vm)), "stopped twice at once");
                    self.owed_stops.remove(&vm);
                    self.open.push(Open::Stop(vm));
                }
            }
        }
    }

    /// The daemon is killed and started again: what was under way ends without an answer.
    fn restart(&mut self, out: &mut Vec<Effect>) {
        for open in std::mem::take(&mut self.open) {
            // A call that the hypervisor had already got may still have its effect.
            if let Open::Start(vm) = open {
                self.vms.insert(vm, true);
            }
        }
        self.answered.clear();
        let records = self.disk.iter().map(|(vm, i)| (*vm, Reading::Good(Box::new(saved(i))))).collect();
        let running = (self.vms.iter())
            .map(|(vm, executing)| {
                (*vm, Adoptable::Adopted { executing: *executing, forwards: vec![(Self::address(*vm), 80)] })
            })
            .collect();
        let dirs = self.disk.keys().copied().collect();
        let plan = reconcile(self.now, &limits(), &records, &running, &dirs);
        assert!(plan.stop.is_empty() && plan.forget.is_empty(), "everything has a record: {plan:?}");
        self.core = Core::new(limits());
        self.core.restore(self.now, plan.instances, out);
    }

    pub fn check(&self) {
        let holding: Vec<&Instance> = self.core.instances().filter(|i| i.holds_claim()).collect();
        let memory: u64 = holding.iter().map(|i| i.service.needs.memory_bytes).sum();
        let cpu: u64 = holding.iter().map(|i| u64::from(i.service.needs.cpu_millis)).sum();
        assert!(memory <= 900 && cpu <= 2000 && holding.len() <= 5, "{memory} {cpu} {}", holding.len());
        let mut uses = BTreeSet::new();
        for instance in self.core.instances() {
            assert!(instance.users.len() <= instance.max_users());
            assert!(instance.is_live() || instance.users.is_empty());
            for user in instance.users.keys() {
                assert!(uses.insert((user, &instance.service.id)), "two live instances for {user:?}");
            }
            if let Phase::Ready { .. } = instance.phase {
                assert!(self.answered.contains(&instance.vm), "ready without an answer");
                assert!(self.clocked.contains(&instance.vm), "ready with a wrong clock");
                assert!(instance.address.is_some());
                assert_eq!(instance.users.is_empty(), instance.idle_since.is_some());
            }
            if matches!(instance.phase, Phase::Ended { .. }) {
                assert!(!self.vms.contains_key(&instance.vm), "ended and still running");
            }
        }
        for vm in self.owed_stops.iter().chain(self.vms.keys()) {
            let instance = self.core.instance(*vm).expect("a VM that nobody knows");
            assert!(instance.holds_claim(), "a VM without claim");
        }
        if let Some(at) = self.core.next_wakeup() {
            assert!(at < Duration::from_secs(1 << 30));
        }
    }

    /// Everything is answered well, and time passes: in the end nothing is left.
    pub fn drain(&mut self) {
        for _ in 0..2000 {
            let quiet = self.open.is_empty();
            if !quiet {
                self.apply(&Op::Answer { which: 0, good: true });
            } else if let Some(at) = self.core.next_wakeup() {
                let mut out = Vec::new();
                self.now = self.now.max(at);
                self.core.step(self.now, Input::Tick, &mut out);
                assert!(
                    self.core.next_wakeup() != Some(at) || !out.is_empty(),
                    "a tick that achieves nothing"
                );
                self.perform(out);
                self.check();
            } else {
                break;
            }
        }
    }
}

fn saved(instance: &Instance) -> Saved {
    Saved {
        vm: instance.vm,
        service: (*instance.service).clone(),
        sharing: instance.sharing,
        owner: instance.owner.clone(),
        users: instance.users.keys().cloned().collect(),
        phase: match instance.phase {
            Phase::Fetching => SavedPhase::Fetching,
            Phase::Waking { .. } | Phase::Checking { .. } => SavedPhase::Starting,
            Phase::Ready { .. } => SavedPhase::Ready,
            Phase::Stopping { outcome, .. } => SavedPhase::Stopping(outcome),
            Phase::Ended { outcome, .. } => SavedPhase::Ended(outcome),
        },
        address: instance.address,
        requested_unix_ms: instance.requested_unix_ms,
        ready_after_ms: instance.ready_after_ms,
        reason: instance.reason.clone(),
    }
}
