//! Files of keys and certificates: written atomically, secrets for their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::error::Error;
use super::random;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner only: mode 0600.
    Owner,
    /// Everybody: mode 0644.
    Everybody,
}

impl Readers {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everybody => 0o644,
        }
    }
}

fn at(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::File { doing, path: path.to_owned(), source }
}

/// Reads a whole file of at most `limit` bytes; `None` if there is none. With [`Readers::Owner`], a file that others
/// may read or write is an error, because its secret is none any more.
pub fn read(path: &Path, limit: u64, readers: Readers) -> Result<Option<Vec<u8>>, Error> {
    let failed = at("read", path);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(&failed)?.permissions().mode();
    if readers == Readers::Owner && mode & 0o077 != 0 {
        let words = format!(
            "its mode is {:o}, so others may have read or changed it; chmod 600 it if nobody did",
            mode & 0o777
        );
        return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, words)));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(&failed)?;
    if bytes.len() as u64 > limit {
        let words = format!("it is longer than {limit} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, words)));
    }
    Ok(Some(bytes))
}

/// Replaces or makes a file, so that a crash leaves the old content or the new one.
pub fn write(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), Error> {
    put(path, bytes, readers, |from| fs::rename(from, path))
}

/// Makes a file; one that is there already is an error and stays as it is.
pub fn create(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), Error> {
    // Unlike a rename, a link never replaces what is there.
    put(path, bytes, readers, |from| fs::hard_link(from, path))
}

fn put(
    path: &Path,
    bytes: &[u8],
    readers: Readers,
    place: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), Error> {
    let failed = at("write", path);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = directory.join(format!(".new-{}", hex::encode(random::bytes::<8>()?)));
    let result = (|| {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(readers.mode()).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        place(&temporary)
    })();
    // Gone already after a rename; after a link or an error this is what is left.
    let _ = fs::remove_file(&temporary);
    result.map_err(&failed)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(&failed)
}

/// Makes a directory that only its owner enters, and what leads to it.
pub fn private_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_private_and_what_is_there_is_not_replaced_by_create() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, b"one", Readers::Owner).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(create(&path, b"two", Readers::Owner).is_err());
        assert_eq!(read(&path, 3, Readers::Owner).unwrap().unwrap(), b"one");
        write(&path, b"two", Readers::Owner).unwrap();
        assert_eq!(read(&path, 3, Readers::Owner).unwrap().unwrap(), b"two");
        assert!(read(&path, 2, Readers::Owner).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, b"one", Readers::Everybody).unwrap();
        let error = read(&path, 10, Readers::Owner).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("mode is 644"), "{error}");
        assert!(read(&path, 10, Readers::Everybody).unwrap().is_some());
    }
}
