//! The file that keeps a node's id over restarts: one line of 32 hexadecimal digits, readable by everybody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{NodeId, ParseNodeIdError};

/// Most bytes that are read from an id file; a right one has 33.
const MAX_FILE_BYTES: u64 = 256;

/// Why a node has no id.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file is there but is not an id. It was left alone: a new id would make this node a stranger to its peers.
    #[error("{path} does not hold a node id; restore it, or remove it to become a new node")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ParseNodeIdError,
    },
    /// The file could not be read. Nothing was changed.
    #[error("cannot read the node id from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A new id could not be stored. There is no id file.
    #[error("cannot store a new node id in {path}; its directory must exist and be writable")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl NodeId {
    /// The id in `path`; if there is no such file, a new id that is stored there first.
    ///
    /// Of several processes that do this at once all get the same id. A crash leaves either no file or a whole one.
    pub fn load_or_create(path: &Path, rng: &mut impl rand::Rng) -> Result<Self, FileError> {
        if let Some(id) = load(path)? {
            return Ok(id);
        }
        let id = Self::generate(rng);
        let at = |source| FileError::Write { path: path.to_owned(), source };
        if create(path, id, Self::generate(rng)).map_err(at)? {
            return Ok(id);
        }
        // Somebody else was quicker; theirs counts.
        load(path)?.ok_or_else(|| at(io::ErrorKind::NotFound.into()))
    }
}

fn load(path: &Path) -> Result<Option<NodeId>, FileError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FileError::Read { path: path.to_owned(), source }),
    }
    let id =
        text.trim_end().parse().map_err(|source| FileError::Damaged { path: path.to_owned(), source })?;
    Ok(Some(id))
}

/// Makes the file unless it is there; says whether it did. `unique` names the temporary file.
fn create(path: &Path, id: NodeId, unique: NodeId) -> io::Result<bool> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = directory.join(format!(".node-id-{unique}"));
    let made = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        writeln!(file, "{id}")?;
        file.sync_all()?;
        // A link never replaces what is there, as a rename would.
        match fs::hard_link(&temporary, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    })();
    let removed = fs::remove_file(&temporary);
    let made = made?;
    removed?;
    File::open(directory)?.sync_all()?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn an_id_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-id");
        let first = NodeId::load_or_create(&path, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        let again = NodeId::load_or_create(&path, &mut ChaCha8Rng::seed_from_u64(2)).unwrap();
        assert_eq!(first, again);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file is gone");
    }

    #[test]
    fn many_at_once_agree_on_one_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-id");
        let ids: std::collections::BTreeSet<NodeId> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|seed| {
                    let path = &path;
                    scope.spawn(move || {
                        NodeId::load_or_create(path, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(ids.len(), 1);
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-id");
        fs::write(&path, "half an i").unwrap();
        let error = NodeId::load_or_create(&path, &mut ChaCha8Rng::seed_from_u64(1)).unwrap_err();
        assert!(matches!(error, FileError::Damaged { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "half an i");
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not/there");
        let error = NodeId::load_or_create(&path, &mut ChaCha8Rng::seed_from_u64(1)).unwrap_err();
        assert!(error.to_string().contains("not/there"), "{error}");
    }
}
