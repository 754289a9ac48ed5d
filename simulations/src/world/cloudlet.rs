//! A simulated cloudlet: what it holds, the memory and CPU that its instances take, and what it says of itself.
//!
//! It publishes an advert at fixed times, so what handhelds go by may be old: a cloudlet that looked free may refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh::NodeId;
use mesh::advert::{Advert, Capabilities, Gpu, Held, Load};
use migration::VmId;
use vm_images::ServiceId;
use vm_images::manifest::Accelerator;

use crate::provisioning::{CachedVm, Cost, Mechanism};
use crate::scenario::{Cloudlets, Scenario, Service};

/// Bytes of a MiB.
const MIB: u64 = 1024 * 1024;

/// A cloudlet and what runs on it.
#[derive(Debug)]
pub(super) struct Cloudlet {
    memory_total_bytes: u64,
    cpu_total_millis: u32,
    holds: BTreeMap<ServiceId, Mechanism>,
    instances: BTreeMap<VmId, Needs>,
    advert_interval: Duration,
    advert: Advert,
    /// When the advert was published, in intervals.
    published: u128,
    /// Mission data that it was handed.
    pub(super) log: sync::Log,
}

/// What an instance takes.
#[derive(Debug, Clone, Copy)]
struct Needs {
    memory_bytes: u64,
    cpu_millis: u32,
}

/// The cloudlet has too little memory left for an instance. Nothing has changed on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The id of node number `node`: the number, so that logs and adverts can be read together.
pub(super) fn node_id(node: u32) -> NodeId {
    let mut bytes = [0; NodeId::BYTES];
    bytes[NodeId::BYTES - 4..].copy_from_slice(&node.to_be_bytes());
    NodeId::from_bytes(bytes)
}

impl Cloudlet {
    pub(super) fn new(node: u32, group: &Cloudlets, scenario: &Scenario) -> Self {
        let id = node_id(node);
        let mut cloudlet = Self {
            memory_total_bytes: group.memory_mib.saturating_mul(MIB),
            cpu_total_millis: group.cores.saturating_mul(1000),
            holds: group.holds.clone(),
            instances: BTreeMap::new(),
            advert_interval: scenario.advert_interval(),
            advert: first_advert(id, group, scenario),
            published: 0,
            log: sync::Log::default(),
        };
        cloudlet.advert.load = cloudlet.load();
        cloudlet
    }

    /// What `service` costs here; `None` if it cannot be had here at all.
    pub(super) fn cost(&self, service: &Service, cached_vm: CachedVm) -> Option<Cost> {
        self.holds.get(&service.id).map(|mechanism| service.figures.cost(*mechanism, cached_vm))
    }

    /// Takes memory and CPU for an instance. CPU may be overcommitted, memory may not.
    pub(super) fn admit(&mut self, now: Duration, vm: VmId, service: &Service) -> Result<(), Full> {
        self.publish_if_due(now);
        let memory_bytes = service.needs_memory_mib.saturating_mul(MIB);
        if memory_bytes > self.memory_free_bytes() {
            return Err(Full);
        }
        self.instances.insert(vm, Needs { memory_bytes, cpu_millis: service.needs_cpu_millis });
        Ok(())
    }

    /// Gives back what an instance took.
    pub(super) fn stop(&mut self, now: Duration, vm: VmId) {
        self.publish_if_due(now);
        self.instances.remove(&vm);
    }

    fn memory_used_bytes(&self) -> u64 {
        self.instances.values().map(|needs| needs.memory_bytes).sum()
    }

    fn memory_free_bytes(&self) -> u64 {
        self.memory_total_bytes.saturating_sub(self.memory_used_bytes())
    }

    /// Invariant of admission; checked after every event in debug builds.
    pub(super) fn is_within_its_memory(&self) -> bool {
        self.memory_used_bytes() <= self.memory_total_bytes
    }

    /// Instances that run or start.
    pub(super) fn instance_count(&self) -> usize {
        self.instances.len()
    }

    /// What the cloudlet said of itself last.
    pub(super) fn advert(&mut self, now: Duration) -> &Advert {
        self.publish_if_due(now);
        &self.advert
    }

    /// Publishes the advert that was due since the last look. Called before every change, so the load now is the load
    /// that there was at the due time.
    fn publish_if_due(&mut self, now: Duration) {
        let due = now.as_nanos() / self.advert_interval.as_nanos().max(1);
        if due > self.published {
            self.published = due;
            self.advert.sequence += 1;
            self.advert.load = self.load();
        }
    }

    fn load(&self) -> Load {
        let cpu: u64 = self.instances.values().map(|needs| u64::from(needs.cpu_millis)).sum();
        Load {
            cpu_used_millis: u32::try_from(cpu).unwrap_or(u32::MAX).min(self.cpu_total_millis),
            cpu_total_millis: self.cpu_total_millis,
            memory_free_bytes: self.memory_free_bytes(),
            memory_total_bytes: self.memory_total_bytes,
            instances: u32::try_from(self.instances.len()).unwrap_or(u32::MAX),
            queue_length: 0,
        }
    }
}

/// The advert of a cloudlet on which nothing runs yet. It lists the services whose Service VM is cached.
fn first_advert(node: NodeId, group: &Cloudlets, scenario: &Scenario) -> Advert {
    let cached = |service: &Service| {
        let mechanism = *group.holds.get(&service.id)?;
        let ready_time = service.figures.cost(mechanism, scenario.workload.cached_vm).work;
        let held = Held { ready_instances: 0, ready_time: Some(ready_time) };
        (mechanism == Mechanism::CachedVm).then(|| (service.id.clone(), held))
    };
    let capabilities = Capabilities {
        accelerator: Accelerator::Kvm,
        gpu: Gpu::None,
        architecture: "x86_64".to_owned(),
        cpu_models: BTreeSet::new(),
        machines: BTreeSet::new(),
        guest_systems: BTreeSet::new(),
        guest_speed_permille: None,
    };
    Advert {
        sequence: 1,
        services: scenario.services.iter().filter_map(cached).collect(),
        ..Advert::new(node, node.short(), capabilities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn adverts_are_as_old_as_their_interval_and_admission_is_not() {
        let scenario = Scenario::from_toml(include_str!("../../scenarios/patrol.toml")).unwrap();
        assert_eq!(scenario.advert_interval(), Duration::from_secs(10));
        let service = Service { needs_memory_mib: 3000, ..scenario.services[0].clone() };
        let mut cloudlet = Cloudlet::new(1, &scenario.cloudlets[1], &scenario);
        let (one, two) = (VmId(Uuid::from_u128(1)), VmId(Uuid::from_u128(2)));
        let second = Duration::from_secs;

        assert_eq!(cloudlet.admit(second(3), one, &service), Ok(()));
        assert_eq!(cloudlet.advert(second(9)).load.memory_free_bytes, 4096 * MIB, "published at 0 s");
        assert_eq!(cloudlet.admit(second(9), two, &service), Err(Full));
        // At 10 s it published what it had then; that it was free again at 12 s shows at 20 s.
        cloudlet.stop(second(12), one);
        assert_eq!(cloudlet.advert(second(19)).load.memory_free_bytes, 1096 * MIB);
        assert_eq!(cloudlet.admit(second(19), two, &service), Ok(()));
        cloudlet.stop(second(19), two);
        assert_eq!(cloudlet.advert(second(20)).load.memory_free_bytes, 4096 * MIB);
        assert!(cloudlet.is_within_its_memory());
    }
}
