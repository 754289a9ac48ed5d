//! The node's signing key on disk.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rand::TryRng as _;
use rand::rngs::SysRng;

use super::error::{Error, reading};
use super::files;
use crate::signature::SigningKey;

/// 64 hexadecimal digits and a newline.
const MAX_BYTES: u64 = 66;

/// Reads the key file, or makes it with a new key from the operating system's generator, readable by its owner only.
///
/// Two processes that start at the same time get the same key. A file that is not a key is never overwritten.
pub(super) fn load_or_create(path: &Path) -> Result<SigningKey, Error> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    if let Some(dir) = path.parent() {
        files::make_directory(dir)?;
    }
    let mut secret = [0; 32];
    fill_random(&mut secret)?;
    let key = SigningKey::from_secret(&secret);
    let temporary = path.with_extension(format!("new-{}", random_name()?));
    files::write_new(&temporary, format!("{}\n", hex::encode(key.secret())).as_bytes(), 0o600)?;
    // A hard link fails if the name is taken, so of two processes one wins and the other reads the winner's key.
    let linked = std::fs::hard_link(&temporary, path);
    files::remove(&temporary)?;
    match linked {
        Ok(()) => Ok(key),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            load(path)?.ok_or_else(|| reading("read", path)(io::ErrorKind::NotFound.into()))
        }
        Err(source) => Err(reading("create", path)(source)),
    }
}

fn load(path: &Path) -> Result<Option<SigningKey>, Error> {
    let Some(bytes) = files::read_small(path, MAX_BYTES)? else { return Ok(None) };
    let refused = |reason: &str| Error::KeyFile { path: path.to_owned(), reason: reason.to_owned() };
    let mode = std::fs::metadata(path).map_err(reading("read", path))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(refused(&format!(
            "others may read or write it, its mode is {:o}; chmod 600 it if nobody did",
            mode & 0o777
        )));
    }
    let mut secret = [0; 32];
    hex::decode_to_slice(bytes.trim_ascii(), &mut secret)
        .map_err(|_| refused("64 hexadecimal digits are wanted"))?;
    Ok(Some(SigningKey::from_secret(&secret)))
}

/// A name that nobody else uses: 16 random hexadecimal digits.
pub(super) fn random_name() -> Result<String, Error> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(hex::encode(bytes))
}

fn fill_random(bytes: &mut [u8]) -> Result<(), Error> {
    SysRng.try_fill_bytes(bytes).map_err(|source| {
        reading("read", Path::new("the system's random generator"))(io::Error::other(source))
    })
}

impl SigningKey {
    /// Reads the key file at `path`, or makes it (mode 0600) with a new random key. A file that is not a key, or
    /// that others can read, is an error and stays as it is.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        load_or_create(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/signing.key");
        let key = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(SigningKey::load_or_create(&path).unwrap().public(), key.public());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(dir.path().join("keys")).unwrap().count(),
            1,
            "a temporary file was left"
        );
    }

    #[test]
    fn threads_that_race_for_a_new_key_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| SigningKey::load_or_create(&path).unwrap().public())).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_bad_key_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        files::write_new(&path, b"not a key\n", 0o600).unwrap();
        let said = SigningKey::load_or_create(&path).unwrap_err().to_string();
        assert!(
            said.contains("signing.key is not a signing key (64 hexadecimal digits are wanted)"),
            "{said}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"not a key\n");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let said = SigningKey::load_or_create(&path).unwrap_err().to_string();
        assert!(said.contains("its mode is 644"), "{said}");
    }
}
