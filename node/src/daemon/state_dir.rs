//! The directory for everything that survives a restart, used by one daemon at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mesh::NodeId;
use mesh::node_id::FileError;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Longest process id that is read from a lock file, bytes.
const MAX_PID_BYTES: u64 = 20;

/// Why a state directory cannot be used; nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon uses it.
    #[error("another cloudlet ({holder}) already runs on {}; stop it, or give this one a state directory of its own \
             with --state-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other daemon, such as `process 123`.
        holder: String,
    },
    /// It cannot be made, read or written.
    #[error("cannot use the state directory {}; make it writable for this user, or choose another one with --state-dir", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A state directory that this process alone uses, until this is dropped or the process ends in whatever way.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory if there is none, and locks it.
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::Unusable { path: path.to_owned(), source };
        // Keys and client tokens are in it.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        // Images and sockets are named by absolute paths.
        let path = path.canonicalize().map_err(unusable)?;
        let unusable = |source| Error::Unusable { path: path.clone(), source };
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(lock)
            .map_err(unusable)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                write_holder(&mut lock).map_err(unusable)?;
                Ok(Self { path, _lock: lock })
            }
            Err((file, Errno::EWOULDBLOCK)) => Err(Error::InUse { path, holder: holder(file) }),
            Err((_, errno)) => Err(unusable(errno.into())),
        }
    }

    /// Where it is; absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: File) -> String {
    let mut text = String::new();
    match file
        .take(MAX_PID_BYTES)
        .read_to_string(&mut text)
        .ok()
        .and_then(|_| text.trim().parse::<u32>().ok())
    {
        Some(pid) => format!("process {pid}"),
        None => "a process that has not written its number down".to_owned(),
    }
}

/// Where the daemon keeps its records below the state directory.
pub fn records(state_dir: &Path) -> PathBuf {
    state_dir.join("records")
}

/// File of this node's id below the state directory.
pub fn node_id_file(state_dir: &Path) -> PathBuf {
    state_dir.join("node-id")
}

/// This node's id, made if there is none.
pub fn node_id(state_dir: &Path) -> Result<NodeId, FileError> {
    #[expect(clippy::disallowed_methods, reason = "a new node's id must differ from every other node's")]
    let mut generator = rand::rng();
    NodeId::load_or_create(&node_id_file(state_dir), &mut generator)
}

/// Directory of this node's key and certificates below the state directory.
pub fn trust_home(state_dir: &Path) -> mesh::trust::Home {
    mesh::trust::Home::at(state_dir.join("trust"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::lock(&path).unwrap();
        let error = StateDir::lock(&path).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())) && error.contains("--state-dir"),
            "{error}"
        );
        drop(first);
        StateDir::lock(&path).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = StateDir::lock(Path::new("/proc/nowhere")).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    }
}
