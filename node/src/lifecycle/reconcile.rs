//! What becomes of the records, VMs and directories that an earlier daemon left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use handheld::api::Sharing;
use migration::VmId;

use super::{ENDED_VISIBLE, Instance, Limits, Outcome, Phase, START_GRACE, Service, StopStep, Token};

/// What a record on disk says about an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Its id.
    pub vm: VmId,
    /// What runs in it.
    pub service: Service,
    /// Whether others may join.
    pub sharing: Sharing,
    /// Who asked for it first.
    pub owner: Token,
    /// Who used it.
    pub users: BTreeSet<Token>,
    /// How far it was.
    pub phase: SavedPhase,
    /// Where its service was reached.
    pub address: Option<SocketAddr>,
    /// When it was asked for, milliseconds since 1970.
    pub requested_unix_ms: u64,
    /// From the request until the service answered, milliseconds.
    pub ready_after_ms: Option<u64>,
    /// Why it was being stopped or had ended.
    pub reason: Option<String>,
}

/// How far an instance was when its record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavedPhase {
    /// Its image was not here yet.
    Fetching,
    /// Not ready yet.
    Starting,
    /// Ready.
    Ready,
    /// Being stopped.
    Stopping(Outcome),
    /// Nothing more to do.
    Ended(Outcome),
}

/// A record as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It says this.
    Good(Box<Saved>),
    /// It cannot be read; only the id, which is its key, is known.
    Unreadable,
}

/// A VM that runs, after this daemon tried to take it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adoptable {
    /// It is in this daemon's hands.
    Adopted {
        /// Whether its guest executes.
        executing: bool,
        /// Host address and guest port of each forward.
        forwards: Vec<(SocketAddr, u16)>,
    },
    /// It runs, but taking it over failed, or nobody tried.
    NotAdopted(String),
}

/// What is to be done at start-up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Instances for [`super::Core::restore`], which also says what to do with each.
    pub instances: Vec<Instance>,
    /// VMs that no readable record names: stop them and remove their directories.
    pub stop: Vec<VmId>,
    /// Records to delete.
    pub forget: Vec<VmId>,
    /// Directories that belong to nothing.
    pub remove_dirs: Vec<VmId>,
}

/// Decides about everything that was found.
///
/// * ready and running: in use again with port, users and tokens as before, once its service answers again
/// * its image was on its way: goes on
/// * half made, or being stopped: stopped
/// * ready but not running: failed, "lost"
/// * VM or directory without record: stopped and removed
pub fn reconcile(
    now: Duration,
    limits: &Limits,
    records: &BTreeMap<VmId, Reading>,
    running: &BTreeMap<VmId, Adoptable>,
    dirs: &BTreeSet<VmId>,
) -> Plan {
    let mut plan = Plan::default();
    for (vm, reading) in records {
        match reading {
            Reading::Good(saved) => plan.instances.push(revive(now, limits, saved, running.get(vm))),
            Reading::Unreadable => {
                plan.forget.push(*vm);
                plan.stop.push(*vm);
            }
        }
    }
    plan.stop.extend(running.keys().filter(|vm| !records.contains_key(vm)));
    let in_use = |vm: &VmId| {
        plan.stop.contains(vm)
            || plan.instances.iter().any(|instance| instance.vm == *vm && instance.holds_claim())
    };
    plan.remove_dirs = dirs.iter().filter(|vm| !in_use(vm)).copied().collect();
    plan
}

/// An instance whose VM stands still, and stays so until it is known whose it is.
pub fn standing_still(now: Duration, saved: &Saved) -> Instance {
    Instance {
        vm: saved.vm,
        service: Arc::new(saved.service.clone()),
        sharing: saved.sharing,
        owner: saved.owner.clone(),
        users: saved.users.iter().map(|token| (token.clone(), now)).collect(),
        idle_since: None,
        phase: Phase::Ready { running_since: now, next_check: None, failed_checks: 0 },
        address: saved.address,
        requested_unix_ms: saved.requested_unix_ms,
        begun_at: None,
        ready_after_ms: saved.ready_after_ms,
        reason: None,
        backed_bytes: 0,
    }
}

fn revive(now: Duration, limits: &Limits, saved: &Saved, running: Option<&Adoptable>) -> Instance {
    let (phase, reason) = fate(now, limits, saved, running);
    let live = matches!(phase, Phase::Fetching | Phase::Checking { .. });
    Instance {
        vm: saved.vm,
        service: Arc::new(saved.service.clone()),
        sharing: saved.sharing,
        owner: saved.owner.clone(),
        users: if live {
            saved.users.iter().map(|token| (token.clone(), now)).collect()
        } else {
            BTreeMap::new()
        },
        idle_since: None,
        phase,
        address: saved.address.filter(|_| live),
        requested_unix_ms: saved.requested_unix_ms,
        begun_at: None,
        ready_after_ms: saved.ready_after_ms,
        reason: reason.or_else(|| saved.reason.clone()),
        backed_bytes: 0,
    }
}

fn fate(
    now: Duration,
    limits: &Limits,
    saved: &Saved,
    running: Option<&Adoptable>,
) -> (Phase, Option<String>) {
    let stopping = |outcome| Phase::Stopping { outcome, step: StopStep::Called };
    let failed = |reason: &str| (stopping(Outcome::Failed), Some(reason.to_owned()));
    match saved.phase {
        SavedPhase::Fetching => (Phase::Fetching, None),
        SavedPhase::Starting => failed("the cloudlet was restarted while it started; ask for it again"),
        SavedPhase::Stopping(outcome) => (stopping(outcome), None),
        SavedPhase::Ended(outcome) if running.is_some() => (stopping(outcome), None),
        SavedPhase::Ended(outcome) => {
            (Phase::Ended { outcome, forget_at: now.saturating_add(ENDED_VISIBLE) }, None)
        }
        SavedPhase::Ready => match running {
            None => failed("it was lost: its VM no longer ran when the cloudlet came back"),
            Some(Adoptable::NotAdopted(why)) => {
                failed(&format!("its VM could not be taken over again: {why}"))
            }
            Some(Adoptable::Adopted { executing: false, .. }) => {
                failed("its VM stood still when the cloudlet came back")
            }
            Some(Adoptable::Adopted { forwards, .. }) => {
                let open = |address| forwards.contains(&(address, saved.service.guest_port));
                if !saved.address.is_some_and(open) {
                    return failed("its forwarded port was gone when the cloudlet came back");
                }
                let deadline = now.saturating_add(limits.start_limit).saturating_add(START_GRACE);
                // Its guest ran on all the time, so its clock is as right as it was.
                (Phase::Checking { deadline, running_since: now, clock_set: true, healthy: false }, None)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            max_instances: 4,
            memory_total_bytes: 1 << 30,
            memory_reserve_bytes: 0,
            cpu_millis: 4000,
            idle_stop: Duration::from_secs(60),
            user_timeout: None,
            start_limit: Duration::from_secs(60),
        }
    }

    fn vm(n: u128) -> VmId {
        VmId(uuid::Uuid::from_u128(n))
    }

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 4000))
    }

    fn record(n: u128, phase: SavedPhase) -> (VmId, Reading) {
        let token = Token::try_from(format!("client-{n}")).unwrap();
        let service = Service {
            id: "echo".parse().unwrap(),
            image: vm_images::ImageId(vm_images::Digest::of(b"image")),
            guest_port: 80,
            health_path: "/healthz".into(),
            needs: super::super::Claim { memory_bytes: 1, cpu_millis: 1 },
            max_users: 3,
        };
        let saved = Saved {
            vm: vm(n),
            service,
            sharing: Sharing::Shared,
            owner: token.clone(),
            users: BTreeSet::from([token]),
            phase,
            address: Some(address()),
            requested_unix_ms: 7,
            ready_after_ms: Some(9),
            reason: None,
        };
        (vm(n), Reading::Good(Box::new(saved)))
    }

    fn runs(executing: bool, guest_port: u16) -> Adoptable {
        Adoptable::Adopted { executing, forwards: vec![(address(), guest_port)] }
    }

    #[test]
    fn each_thing_found_meets_its_fate() {
        let records = BTreeMap::from([
            record(1, SavedPhase::Ready),
            record(2, SavedPhase::Ready),
            record(3, SavedPhase::Starting),
            record(4, SavedPhase::Ready),
            record(5, SavedPhase::Ended(Outcome::Stopped)),
            record(6, SavedPhase::Ready),
            (vm(7), Reading::Unreadable),
            record(8, SavedPhase::Ready),
            record(11, SavedPhase::Fetching),
        ]);
        let running = BTreeMap::from([
            (vm(1), runs(true, 80)),
            (vm(3), runs(true, 80)),
            (vm(4), runs(false, 80)),
            (vm(6), runs(true, 81)),
            (vm(7), runs(true, 80)),
            (vm(8), Adoptable::NotAdopted("monitor is gone".into())),
            (vm(9), Adoptable::NotAdopted("no record".into())),
        ]);
        let dirs = (1..=10).map(vm).collect();
        let plan = reconcile(Duration::ZERO, &limits(), &records, &running, &dirs);

        let failing = |n: u128| {
            let instance = plan.instances.iter().find(|i| i.vm == vm(n)).unwrap();
            let stopping = Phase::Stopping { outcome: Outcome::Failed, step: StopStep::Called };
            assert_eq!(instance.phase, stopping, "{n}");
            assert!(instance.users.is_empty() && instance.address.is_none());
            instance.reason.clone().unwrap()
        };
        let kept = plan.instances.iter().find(|i| i.vm == vm(1)).unwrap();
        assert!(matches!(kept.phase, Phase::Checking { healthy: false, clock_set: true, .. }));
        assert_eq!((kept.address, kept.users.len(), kept.ready_after_ms), (Some(address()), 1, Some(9)));
        let waiting = plan.instances.iter().find(|i| i.vm == vm(11)).unwrap();
        assert_eq!((&waiting.phase, waiting.users.len()), (&Phase::Fetching, 1));
        assert!(failing(2).contains("lost"));
        assert!(failing(3).contains("while it started"));
        assert!(failing(4).contains("stood still"));
        assert!(failing(6).contains("port"));
        assert!(failing(8).contains("monitor is gone"));
        assert_eq!(plan.stop, [vm(7), vm(9)]);
        assert_eq!(plan.forget, [vm(7)]);
        // 5 has ended, 10 has no record: their directories hold nothing that is needed.
        assert_eq!(plan.remove_dirs, [vm(5), vm(10)]);
    }
}
