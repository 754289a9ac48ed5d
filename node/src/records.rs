//! A database (sled) that outlives a full disk.
//!
//! After one write that failed, sled refuses everything, reads included, until it is opened anew: what is on disk is whole, but
//! what it has in memory is not any more. So it is opened anew before the next thing is done with it.
//!
//! A record may have to be written for a VM to run: who owns it. So some room beside the database is held in reserve, and
//! given up when there is no other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::instances::clock::Clock;

/// How long a database that was closed a moment ago may still be locked, until sled's own threads notice. Guess.
const CLOSING: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// What is held in reserve, bytes: a few of sled's segments (512 KiB). Guess.
const RESERVE_BYTES: u32 = 2 << 20;

/// Records in a directory.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    reserve: PathBuf,
    cache_bytes: u64,
    /// Nothing after a failure.
    db: Mutex<Option<sled::Db>>,
}

impl Records {
    /// Opens or creates them, with this much memory for the cache at most. Blocks, as everything here does.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, sled::Error> {
        let db = open(path, cache_bytes)?;
        let reserve = path.with_added_extension("reserve");
        keep_reserve(&reserve);
        Ok(Self { path: path.to_owned(), reserve, cache_bytes, db: Mutex::new(Some(db)) })
    }

    /// Does something with them, one thing at a time. What fails is done once more, after opening them anew: it may have failed only
    /// for what failed before it. On error nothing of it may be on disk, or all, or a part; what was flushed before is.
    pub fn with<T>(&self, act: impl Fn(&sled::Db) -> Result<T, sled::Error>) -> Result<T, sled::Error> {
        // Nothing is half done in memory after a panic: it is on disk or not.
        let mut opened = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = opened.take()
            && let Ok(done) = act(&db)
        {
            *opened = Some(db);
            keep_reserve(&self.reserve);
            return Ok(done);
        }
        // There is none left if it has been needed before and the disk is still full.
        let _ = std::fs::remove_file(&self.reserve);
        let db = self.open_again()?;
        let done = act(&db)?;
        *opened = Some(db);
        tracing::info!(path = %self.path.display(), "records are used again after a failure");
        Ok(done)
    }

    fn open_again(&self) -> Result<sled::Db, sled::Error> {
        let begun = Clock::start();
        loop {
            match open(&self.path, self.cache_bytes) {
                Err(_) if begun.now() < CLOSING => std::thread::sleep(LOOK_AGAIN),
                opened => return opened,
            }
        }
    }
}

fn open(path: &Path, cache_bytes: u64) -> Result<sled::Db, sled::Error> {
    sled::Config::new().path(path).cache_capacity(cache_bytes).mode(sled::Mode::LowSpace).open()
}

/// Sets room aside, if that is not done yet and there is twice as much.
fn keep_reserve(path: &Path) {
    if path.exists() {
        return;
    }
    let keep = || {
        let file = File::create_new(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, i64::from(RESERVE_BYTES) * 2)?;
        file.set_len(RESERVE_BYTES.into())
    };
    if let Err(error) = keep() {
        let _ = std::fs::remove_file(path);
        tracing::debug!(path = %path.display(), %error, "no room can be held in reserve for records");
    }
}
