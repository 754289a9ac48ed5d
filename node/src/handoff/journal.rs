//! What must survive the daemon: who owns each VM, what is known of a VM that came here, and what was ordered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh::NodeId;
use migration::VmId;
use migration::handoff::Record;
use migration::handoff::share::Priority;
use uuid::Uuid;

use crate::instances::record;
use crate::lifecycle::Saved;
use crate::records::Records;

/// Version of the records.
const VERSION: u8 = 1;
/// Longest record, bytes: a place, at most 16 grants that are not released, and grants that operators declared dead.
const MAX_BYTES: usize = 64 * 1024;
/// Most memory for sled's cache, bytes.
const CACHE_BYTES: u64 = 4 << 20;

/// Why records cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be opened; nothing was changed.
    #[error("cannot open the records of handoffs in {}; they say which cloudlet owns which VM, so do not remove them \
             while a VM may be on its way", path.display())]
    Open {
        /// Where it lies.
        path: PathBuf,
        /// Why not.
        #[source]
        source: sled::Error,
    },
    /// The database cannot be read or written.
    #[error("cannot use the records of handoffs; is the disk full?")]
    Use(#[from] sled::Error),
    /// A record cannot be written or read.
    #[error("the record of a handoff of VM {vm} is damaged: {what}")]
    Damaged {
        /// Whose.
        vm: VmId,
        /// What is wrong.
        what: String,
    },
}

/// Where VMs are ([`Record`]).
const PLACES: &str = "places";
/// Records of instances that were taken over.
const ARRIVALS: &str = "arrivals";
/// Where VMs are to be sent.
const ORDERS: &str = "orders";
/// Where instances were first started that came from elsewhere.
const HOMES: &str = "homes";

/// Where a VM is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// The cloudlet.
    pub to: NodeId,
    /// Before or after others that go there.
    pub priority: Priority,
}

/// The records. A disk that was full for a while loses none of them.
#[derive(Debug, Clone)]
pub struct Journal {
    records: Arc<Records>,
}

impl Journal {
    /// Opens or creates the records in directory `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = || {
            let records = Records::open(path, CACHE_BYTES)?;
            // Made now, so that nothing but a record needs room later.
            records.with(|db| {
                [PLACES, ARRIVALS, ORDERS, HOMES].iter().try_for_each(|tree| db.open_tree(tree).map(drop))
            })?;
            Ok(Self { records: Arc::new(records) })
        };
        open().map_err(|source| Error::Open { path: path.to_owned(), source })
    }

    /// Writes down where a VM is, or that nothing is known of it; on disk when it returns.
    pub fn put(&self, vm: VmId, record: Option<&Record>) -> Result<(), Error> {
        let bytes = record.map(|record| encode(vm, record)).transpose()?;
        self.set(PLACES, vm, bytes.as_deref())
    }

    /// Where a VM is.
    pub fn get(&self, vm: VmId) -> Result<Option<Record>, Error> {
        self.value(PLACES, vm)?.map(|bytes| decode(vm, &bytes)).transpose()
    }

    /// Where all VMs are. One that cannot be read is an error: guessing whose a VM is could make two of it.
    pub fn all(&self) -> Result<BTreeMap<VmId, Record>, Error> {
        self.entries(PLACES)?.into_iter().map(|(vm, bytes)| Ok((vm, decode(vm, &bytes)?))).collect()
    }

    /// Keeps the record of an instance that is about to be taken over; on disk when it returns.
    pub fn put_arrival(&self, vm: VmId, record: &[u8]) -> Result<(), Error> {
        self.set(ARRIVALS, vm, Some(record))
    }

    /// The record of an instance that was taken over.
    pub fn arrival(&self, vm: VmId) -> Result<Option<Saved>, Error> {
        let damaged = |error: record::Error| Error::Damaged { vm, what: error.to_string() };
        self.value(ARRIVALS, vm)?.map(|bytes| record::decode(&bytes).map_err(damaged)).transpose()
    }

    /// It has moved on, or did not come.
    pub fn forget_arrival(&self, vm: VmId) -> Result<(), Error> {
        // Nothing depends on when that is on disk.
        for tree in [ARRIVALS, HOMES] {
            self.records.with(|db| db.open_tree(tree)?.remove(vm.0.as_bytes()))?;
        }
        Ok(())
    }

    /// Keeps where an instance that is about to be taken over was first started.
    pub fn put_home(&self, vm: VmId, home: NodeId) -> Result<(), Error> {
        self.set(HOMES, vm, Some(home.as_bytes()))
    }

    /// Where instances were first started that came from elsewhere.
    pub fn homes(&self) -> Result<BTreeMap<VmId, NodeId>, Error> {
        self.nodes(HOMES)
    }

    /// Keeps where a VM is to be sent, or that it is not to be sent any more.
    pub fn put_order(&self, vm: VmId, goal: Option<Goal>) -> Result<(), Error> {
        let bytes = goal.map(|goal| [goal.to.as_bytes().as_slice(), &[goal.priority as u8]].concat());
        self.set(ORDERS, vm, bytes.as_deref())
    }

    /// Where VMs are to be sent.
    pub fn orders(&self) -> Result<BTreeMap<VmId, Goal>, Error> {
        let goal = |(vm, bytes): (VmId, sled::IVec)| {
            let (to, rest) = bytes.split_first_chunk()?;
            let all = [Priority::Low, Priority::Normal, Priority::High];
            // Earlier releases wrote none.
            let written = |priority: &Priority| rest == [*priority as u8];
            let priority = all.into_iter().find(written).unwrap_or_default();
            Some((vm, Goal { to: NodeId::from_bytes(*to), priority }))
        };
        Ok(self.entries(ORDERS)?.into_iter().filter_map(goal).collect())
    }

    /// On disk when it returns.
    fn set(&self, tree: &str, vm: VmId, value: Option<&[u8]>) -> Result<(), Error> {
        let set = |db: &sled::Db| {
            let tree = db.open_tree(tree)?;
            match value {
                Some(value) => tree.insert(vm.0.as_bytes(), value)?,
                None => tree.remove(vm.0.as_bytes())?,
            };
            db.flush().map(drop)
        };
        Ok(self.records.with(set)?)
    }

    fn value(&self, tree: &str, vm: VmId) -> Result<Option<sled::IVec>, Error> {
        Ok(self.records.with(|db| db.open_tree(tree)?.get(vm.0.as_bytes()))?)
    }

    fn entries(&self, tree: &str) -> Result<Vec<(VmId, sled::IVec)>, Error> {
        let entries: Vec<_> = self.records.with(|db| db.open_tree(tree)?.iter().collect())?;
        let named = |(key, value): (sled::IVec, _)| Some((VmId(Uuid::from_slice(&key).ok()?), value));
        Ok(entries.into_iter().filter_map(named).collect())
    }

    /// A tree of cloudlets by VM.
    fn nodes(&self, tree: &str) -> Result<BTreeMap<VmId, NodeId>, Error> {
        let node = |(vm, bytes): (VmId, sled::IVec)| {
            Some((vm, NodeId::from_bytes(<[u8; NodeId::BYTES]>::try_from(&bytes[..]).ok()?)))
        };
        Ok(self.entries(tree)?.into_iter().filter_map(node).collect())
    }
}

fn encode(vm: VmId, record: &Record) -> Result<Vec<u8>, Error> {
    let config = bincode::config::standard();
    let body = bincode::serde::encode_to_vec(record, config);
    let body = body.map_err(|error| Error::Damaged { vm, what: error.to_string() })?;
    Ok([&[VERSION], blake3::hash(&body).as_bytes().as_slice(), &body].concat())
}

fn decode(vm: VmId, bytes: &[u8]) -> Result<Record, Error> {
    let damaged = |what: &str| Error::Damaged { vm, what: what.to_owned() };
    let (version, rest) = bytes.split_first().ok_or_else(|| damaged("it is empty"))?;
    if *version != VERSION {
        return Err(damaged(&format!("it has version {version}, this release reads {VERSION}")));
    }
    let (hash, body) = rest.split_first_chunk::<32>().ok_or_else(|| damaged("it is cut"))?;
    if blake3::hash(body).as_bytes() != hash {
        return Err(damaged("its hash does not fit"));
    }
    let config = bincode::config::standard().with_limit::<MAX_BYTES>();
    let (record, used) =
        bincode::serde::decode_from_slice(body, config).map_err(|error| damaged(&error.to_string()))?;
    if used == body.len() { Ok(record) } else { Err(damaged("it is too long")) }
}

#[cfg(test)]
mod tests {
    use migration::handoff::{Accepted, Grant, Place};

    use super::*;

    #[test]
    fn records_come_back_and_damaged_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let (vm, node) = (VmId(Uuid::from_u128(7)), NodeId::from_bytes([3; NodeId::BYTES]));
        let accepted = Accepted { grant: Grant(9), from: node, epoch: 2 };
        let record = Record {
            place: Place::Owner { epoch: 2 },
            accepted: vec![accepted],
            forced: vec![(node, Grant(1))],
        };
        journal.put(vm, Some(&record)).unwrap();
        assert_eq!(journal.all().unwrap(), BTreeMap::from([(vm, record.clone())]));
        let good = encode(vm, &record).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(vm, &bad).is_err(), "bit {bit}");
        }
        for end in 0..good.len() {
            assert!(decode(vm, &good[..end]).is_err(), "cut to {end}");
        }
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            let goal = Goal { to: node, priority };
            journal.put_order(vm, Some(goal)).unwrap();
            assert_eq!(journal.orders().unwrap(), BTreeMap::from([(vm, goal)]));
        }
        journal.put_order(vm, None).unwrap();
        journal.put_home(vm, node).unwrap();
        assert_eq!(journal.homes().unwrap(), BTreeMap::from([(vm, node)]));
        journal.forget_arrival(vm).unwrap();
        assert!(journal.homes().unwrap().is_empty());
        journal.put(vm, None).unwrap();
        assert!(journal.all().unwrap().is_empty() && journal.orders().unwrap().is_empty());
    }
}
