//! What the policy is told: from the adverts of others, the links, the instances here and their handoffs.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh::NodeId;
use mesh::membership::Reach;
use mesh::placement::{self, Other, Site, Situation};
use migration::VmId;

use super::forecast::{Forecast, Need, Way};
use super::{AVOID, Tools};
use crate::handoff::{Phase, Status};
use crate::instances;
use crate::lifecycle::{self, Instance};

/// How long it holds what an instance needs: reading it opens its disk. A guess.
const NEED_HOLDS: Duration = Duration::from_secs(10);
/// Share of the CPU in use from which on the queue of the processors says how much more is wanted, percent. Guess.
const BUSY_PERCENT: u64 = 90;

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Since when each instance has been here.
    here: BTreeMap<VmId, Duration>,
    /// When it came or went, as far as this daemon saw it.
    moves: BTreeMap<VmId, Vec<Duration>>,
    /// Who did not take it, when, and why.
    failures: BTreeMap<(VmId, NodeId), (Duration, String)>,
    needs: BTreeMap<VmId, (Duration, Need)>,
}

impl History {
    /// `came`: whether it comes from another cloudlet.
    pub fn note(
        &mut self,
        now: Duration,
        instances: &[Instance],
        statuses: &[Status],
        came: impl Fn(VmId) -> bool,
    ) {
        let live = |vm: &VmId| instances.iter().any(|instance| instance.vm == *vm && instance.is_live());
        let left: Vec<VmId> = self.here.keys().filter(|vm| !live(vm)).copied().collect();
        for vm in left {
            self.here.remove(&vm);
            self.needs.remove(&vm);
            let has_moved = |status: &Status| status.vm == vm && status.phase == Phase::Done;
            if statuses.iter().any(has_moved) {
                self.moves.entry(vm).or_default().push(now);
            }
        }
        for instance in instances.iter().filter(|instance| instance.is_live()) {
            if self.here.insert(instance.vm, self.here.get(&instance.vm).copied().unwrap_or(now)).is_none()
                && came(instance.vm)
            {
                self.moves.entry(instance.vm).or_default().push(now);
            }
        }
        for status in statuses {
            if let Phase::Failed { reason } = &status.phase
                && live(&status.vm)
            {
                let place = (status.vm, status.to);
                self.failures.entry(place).or_insert_with(|| (now, reason.clone()));
            }
        }
        self.forget(now, live);
    }

    fn forget(&mut self, now: Duration, live: impl Fn(&VmId) -> bool) {
        // As long as anybody may have configured it to count.
        let remembered = Duration::from_secs(crate::config::REMEMBER_MOST_S.into());
        for moves in self.moves.values_mut() {
            moves.retain(|at| now.saturating_sub(*at) < remembered);
        }
        self.moves.retain(|_, moves| !moves.is_empty());
        self.failures.retain(|(vm, _), _| live(vm));
    }

    pub fn failed(&mut self, now: Duration, vm: VmId, to: NodeId, reason: String) {
        self.failures.insert((vm, to), (now, reason));
    }

    /// Why an instance was not taken, by whom.
    pub fn failures(&self, vm: VmId) -> Vec<(NodeId, String)> {
        let of = self.failures.iter().filter(|((of, _), _)| *of == vm);
        of.map(|((_, to), (_, reason))| (*to, reason.clone())).collect()
    }

    fn avoids(&self, now: Duration, vm: VmId, to: NodeId) -> bool {
        self.failures.get(&(vm, to)).is_some_and(|(at, _)| now.saturating_sub(*at) < AVOID)
    }
}

impl Tools {
    /// What an instance needs.
    pub(super) async fn need(&self, instance: &Instance) -> Result<Need, String> {
        let (store, vm) = (self.handoffs.store().clone(), instance.vm);
        let (service, overlay) = (instance.service.clone(), self.handoffs.overlay(vm));
        let known = self.handoffs.experience(service.image);
        let handoffs = self.handoffs.clone();
        let look = tokio::task::spawn_blocking(move || {
            handoffs.get_ready(service.image);
            Need::of(&store, vm, &service, &overlay, known)
        });
        look.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// What it would cost to send it there.
    pub(super) fn forecast(&self, need: Need, to: NodeId) -> Forecast {
        let members = self.handoffs.members();
        let way = Way::to(to, &members, self.handoffs.rate_bytes_s(to), self.range_m);
        let last = self.handoffs.status(need.vm);
        let kept = last.filter(|last| last.to == to && last.phase != Phase::Done);
        let there = members.get(&to).map(|member| &*member.advert);
        Forecast::new(need, way, there, kept.map_or(0, |last| last.sent_bytes))
    }

    /// Everything that is known now.
    pub(super) async fn situation(
        &self,
        now: Duration,
        history: &mut History,
        instances: &[Instance],
        statuses: &[Status],
    ) -> Result<Situation, instances::Error> {
        let members = self.handoffs.members();
        let away = members
            .iter()
            .filter(|(_, member)| matches!(member.reach, Reach::Neighbour { .. } | Reach::Far { .. }));
        let others: Vec<Other> = away
            .map(|(node, member)| {
                let way = Way::to(*node, &members, None, self.range_m);
                Other { site: Site::of(&member.advert), contact: way.contact }
            })
            .collect();
        let mut ready = Vec::new();
        for instance in instances {
            if matches!(instance.phase, lifecycle::Phase::Ready { .. })
                && let Some(known) = self.instance(now, history, instance, statuses, &others).await
            {
                ready.push(known);
            }
        }
        let travels =
            |status: &&Status| !status.phase.is_end() && !matches!(status.phase, Phase::Waiting { .. });
        Ok(Situation {
            here: self.here().await?,
            shutdown: None,
            instances: ready,
            others,
            under_way: statuses.iter().filter(travels).count(),
        })
    }

    async fn here(&self) -> Result<Site, instances::Error> {
        let load = self.instances.load().await?;
        let node = self.handoffs.node();
        let members = self.handoffs.members();
        let name = members.get(&node).map_or_else(|| node.short(), |own| own.advert.name.clone());
        let busy = u64::from(load.cpu_used_millis) * 100 >= u64::from(load.cpu_total_millis) * BUSY_PERCENT;
        // What is used is never more than there is; what waits for a processor is wanted as well.
        let wanted = if busy { (sysinfo::System::load_average().one * 1000.0) as u32 } else { 0 };
        Ok(Site {
            node,
            name,
            cpu_wanted_millis: load.cpu_used_millis.max(wanted),
            cpu_total_millis: load.cpu_total_millis,
            memory_free_bytes: load.memory_free_bytes,
            power: self.standing.power(),
            draining: self.standing.is_draining(),
        })
    }

    async fn instance(
        &self,
        now: Duration,
        history: &mut History,
        instance: &Instance,
        statuses: &[Status],
        others: &[Other],
    ) -> Option<placement::Instance> {
        let vm = instance.vm;
        let need = match history.needs.get(&vm) {
            Some((at, need)) if now.saturating_sub(*at) < NEED_HOLDS => need.clone(),
            _ => match self.need(instance).await {
                Ok(need) => {
                    history.needs.insert(vm, (now, need.clone()));
                    need
                }
                Err(reason) => {
                    tracing::warn!(%vm, reason, "what an instance needs elsewhere cannot be said");
                    return None;
                }
            },
        };
        let nodes = others.iter().map(|other| other.site.node).filter(|node| !history.avoids(now, vm, *node));
        let mut costs = BTreeMap::new();
        for to in nodes {
            let forecast = self.forecast(need.clone(), to);
            if forecast.can_run() {
                costs.insert(to, forecast.cost());
            }
        }
        let ago = |at: &Duration| now.saturating_sub(*at);
        Some(placement::Instance {
            id: vm.to_string(),
            here_for: history.here.get(&vm).map(ago).unwrap_or_default(),
            moves: history.moves.get(&vm).map(|all| all.iter().map(ago).collect()).unwrap_or_default(),
            cpu_millis: need.claim.cpu_millis,
            memory_bytes: need.claim.memory_bytes,
            // Nobody says where they are: they are taken to reach every cloudlet alike.
            users: Vec::new(),
            costs,
            pinned: statuses.iter().any(|status| status.vm == vm && !status.phase.is_end()),
        })
    }
}
