//! Names: which mission object, and which content.

use std::fmt;
use std::str::FromStr;

/// Names a mission object through all its changes, such as `reports/team-2/position`.
///
/// Parts of 1 or more of `a-z 0-9 . _ -`, separated by `/`, no part `.` or `..`: safe as a relative path, so a folder
/// and an object store can both keep it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Longest key, bytes. Short enough for every file system's 255 bytes of a name, with room for a suffix.
    pub const MAX_BYTES: usize = 200;

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that names no mission object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an object key (1 to 200 bytes; parts of a-z, 0-9, '.', '_' and '-' separated by '/')")]
pub struct ParseKeyError(String);

impl FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let part_is_fine =
            |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed);
        if text.len() <= Self::MAX_BYTES && text.split('/').all(part_is_fine) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseKeyError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a content for ever: its BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId([u8; Self::BYTES]);

impl ContentId {
    /// Length of an id in bytes.
    pub const BYTES: usize = 32;

    /// The id of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// The id with these bytes, as another node wrote it.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_safe_as_relative_paths() {
        for good in ["a", "reports/team-2/position", "map_3.osm", "a/..b"] {
            assert_eq!(good.parse::<Key>().map(|key| key.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "A", "a b", "a\\b", "ä", &"x".repeat(201)] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    #[test]
    fn equal_content_has_one_name() {
        assert_eq!(ContentId::of(b"map"), ContentId::of(b"map"));
        assert_ne!(ContentId::of(b"map"), ContentId::of(b"mop"));
        // BLAKE3 of nothing, from the test vectors of its authors.
        assert!(ContentId::of(b"").to_string().starts_with("af1349b9f5f9a1a6a0404dea36dcc949"));
    }
}
