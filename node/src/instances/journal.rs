//! Records of instances on disk (sled), written by one thread that gathers what waits and flushes it at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use migration::VmId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::record;
use crate::lifecycle::{Instance, Reading};
use crate::records::Records;

/// Writes that may wait. Each instance has one or two under way; more means that the disk is stuck, and then the owner
/// task waits rather than hold ever more in memory.
const WAITING: usize = 256;
/// Most memory for sled's cache, bytes. All records of a full cloudlet have under 1 MiB.
const CACHE_BYTES: u64 = 16 << 20;

/// Why records cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be opened; nothing was changed.
    #[error("cannot open the instance records in {}; if another daemon uses them, stop it; if they are damaged beyond \
             repair, move the directory away: VMs without a record are then stopped", path.display())]
    Open {
        /// Where it lies.
        path: PathBuf,
        /// Why not.
        #[source]
        source: sled::Error,
    },
    /// The database cannot be read.
    #[error("cannot read the instance records")]
    Read(#[source] sled::Error),
    /// A record was not written, so what it says may be lost with the daemon.
    #[error("cannot write the record of an instance: {0}")]
    Write(String),
}

/// The records, opened.
#[derive(Debug)]
pub struct Journal {
    records: Records,
}

impl Journal {
    /// Opens or creates the records in directory `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let records = Records::open(path, CACHE_BYTES);
        records
            .map(|records| Self { records })
            .map_err(|source| Error::Open { path: path.to_owned(), source })
    }

    /// Every record. One that cannot be read is logged and found as such; a key that is no id is removed.
    pub fn read(&self) -> Result<BTreeMap<VmId, Reading>, Error> {
        let entries: Vec<_> = self.records.with(|db| db.iter().collect()).map_err(Error::Read)?;
        let mut found = BTreeMap::new();
        for (key, value) in entries {
            let Ok(id) = Uuid::from_slice(&key) else {
                tracing::error!(
                    key = hex::encode(&key),
                    "a record under a key that is no instance id; it is removed"
                );
                self.records.with(|db| db.remove(&key)).map_err(Error::Read)?;
                continue;
            };
            let vm = VmId(id);
            let reading = match record::decode(&value) {
                Ok(saved) if saved.vm == vm => Reading::Good(Box::new(saved)),
                Ok(saved) => {
                    tracing::error!(%vm, names = %saved.vm, "a record names another instance; its VM is stopped");
                    Reading::Unreadable
                }
                Err(error) => {
                    tracing::error!(%vm, error = &error as &dyn std::error::Error, "unreadable record; its VM is stopped");
                    Reading::Unreadable
                }
            };
            found.insert(vm, reading);
        }
        Ok(found)
    }

    /// Starts the thread that writes.
    pub fn into_writer(self) -> Writer {
        let (sender, receiver) = mpsc::channel(WAITING);
        let thread = tokio::task::spawn_blocking(move || write_all(&self.records, receiver));
        Writer { sender, thread }
    }
}

enum Write {
    Put(VmId, Vec<u8>),
    Remove(VmId),
    Flushed(oneshot::Sender<Result<(), Error>>),
}

/// Writes records in the order in which they are given.
#[derive(Debug)]
pub struct Writer {
    sender: mpsc::Sender<Write>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Writes the record of an instance.
    pub async fn put(&self, instance: &Instance) {
        match record::encode(instance) {
            Ok(bytes) => self.send(Write::Put(instance.vm, bytes)).await,
            Err(error) => {
                tracing::error!(vm = %instance.vm, error = &error as &dyn std::error::Error, "no record written")
            }
        }
    }

    /// Removes a record.
    pub async fn remove(&self, vm: VmId) {
        self.send(Write::Remove(vm)).await;
    }

    /// Resolves when everything given so far is on disk. A dropped sender means that it is not.
    ///
    /// Takes 0.3 to 2 ms, most of it while the image is checked anyway (measured, ext4 on a virtual disk). sled waits
    /// for the kernel to have written (`sync_file_range`), not for the disk's cache: enough for a daemon that is killed.
    /// A host that loses power loses its VMs, too.
    pub async fn flushed(&self) -> oneshot::Receiver<Result<(), Error>> {
        let (sender, receiver) = oneshot::channel();
        self.send(Write::Flushed(sender)).await;
        receiver
    }

    /// Writes what waits and closes the database.
    pub async fn close(self) {
        drop(self.sender);
        if let Err(error) = self.thread.await {
            tracing::error!(%error, "the thread that writes instance records ended badly");
        }
    }

    async fn send(&self, write: Write) {
        if self.sender.send(write).await.is_err() {
            tracing::error!("instance records are no longer written: their thread has ended");
        }
    }
}

fn write_all(records: &Records, mut receiver: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(WAITING);
    // What is not known to be on disk, the latest of each instance; `None`: its record goes.
    let mut pending: BTreeMap<VmId, Option<Vec<u8>>> = BTreeMap::new();
    while receiver.blocking_recv_many(&mut batch, WAITING) > 0 {
        let mut waiting = Vec::new();
        for write in batch.drain(..) {
            match write {
                Write::Put(vm, bytes) => drop(pending.insert(vm, Some(bytes))),
                Write::Remove(vm) => drop(pending.insert(vm, None)),
                Write::Flushed(reply) => waiting.push(reply),
            }
        }
        let result = flush(records, &mut pending);
        if let Err(error) = &result {
            tracing::error!(%error, "cannot write instance records; is the disk full?");
        }
        for reply in waiting {
            // The start that asked may have been given up.
            let _ =
                reply.send(result.as_ref().map(|&()| ()).map_err(|error| Error::Write(error.to_string())));
        }
    }
    if let Err(error) = flush(records, &mut pending) {
        tracing::error!(%error, "cannot write the last instance records");
    }
}

/// Writes what is pending, and what that fails for stays so.
fn flush(records: &Records, pending: &mut BTreeMap<VmId, Option<Vec<u8>>>) -> Result<(), sled::Error> {
    records.with(|db| {
        for (vm, bytes) in &*pending {
            match bytes {
                Some(bytes) => db.insert(vm.0.as_bytes(), bytes.as_slice())?,
                None => db.remove(vm.0.as_bytes())?,
            };
        }
        db.flush().map(drop)
    })?;
    pending.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_found_as_such_and_strange_keys_go() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let id = Uuid::from_u128(5);
        let insert = |key: &[u8], value: &[u8]| journal.records.with(|db| db.insert(key, value)).unwrap();
        insert(id.as_bytes(), b"rubbish");
        insert(b"odd", b"");
        assert_eq!(journal.read().unwrap(), BTreeMap::from([(VmId(id), Reading::Unreadable)]));
        assert!(!journal.records.with(|db| db.contains_key(b"odd")).unwrap());
    }
}
