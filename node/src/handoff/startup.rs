//! What becomes of VMs that an earlier daemon left in the middle of a handoff. Before anything else may touch them.

use std::collections::{BTreeMap, BTreeSet};

use migration::VmId;
use migration::handoff::{Copy, Place, Record};
use migration::hypervisor::{Error as HypervisorError, Moving};

use super::journal::{Error as JournalError, Journal};
use crate::lifecycle::Saved;

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The records cannot be read.
    #[error("cannot read who owns the VMs of an earlier daemon")]
    Journal(#[from] JournalError),
    /// The hypervisor does not say what runs.
    #[error("the hypervisor does not list its VMs; `cloudlet doctor` checks the hypervisor")]
    List(#[source] HypervisorError),
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Estate {
    /// VMs that stand still and must not be touched: whose they are is not known, or an operator is to look.
    pub held: BTreeSet<VmId>,
    /// VMs that are elsewhere: what is left of them goes.
    pub gone: BTreeSet<VmId>,
    /// Instances that were taken over, and are perhaps not in the instances' records yet.
    pub arrived: BTreeMap<VmId, Saved>,
    /// What there is of each VM that took part in a handoff.
    pub(super) copies: BTreeMap<VmId, Copy>,
}

/// Reads the records, and lets VMs run on that are ours and stand still. Blocks.
pub fn settle(journal: &Journal, hypervisor: &dyn Moving) -> Result<Estate, Error> {
    let records = journal.all()?;
    let mut estate = Estate::default();
    if records.is_empty() {
        return Ok(estate);
    }
    let running = hypervisor.list().map_err(Error::List)?;
    for (vm, Record { place, .. }) in records {
        let copy = match running.iter().find(|running| running.vm == vm) {
            None => Copy::None,
            Some(running) if running.executing => Copy::Running,
            Some(_) => Copy::Paused,
        };
        let copy = match (place, copy) {
            (Place::Owner { .. }, Copy::Paused) => resumed(hypervisor, vm),
            (Place::InDoubt { .. } | Place::Fenced { .. }, _) => {
                estate.held.insert(vm);
                copy
            }
            (Place::Gone { .. } | Place::Unknown, _) => {
                estate.gone.insert(vm);
                Copy::None
            }
            (Place::Owner { .. }, copy) => copy,
        };
        if let (Place::Owner { .. }, Some(saved)) = (place, journal.arrival(vm)?) {
            estate.arrived.insert(vm, saved);
        }
        estate.copies.insert(vm, copy);
    }
    Ok(estate)
}

/// It was frozen for a handoff that was not committed, or committed to us and not begun; so it is ours to run.
fn resumed(hypervisor: &dyn Moving, vm: VmId) -> Copy {
    match hypervisor.adopt(vm).and_then(|_| hypervisor.resume(vm)) {
        Ok(()) => Copy::Running,
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(%vm, error, "a VM that stands still since a handoff cannot be let run on");
            Copy::Paused
        }
    }
}
