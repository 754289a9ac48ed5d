//! What a member of a mission may do.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A set of permissions; it is written into the certificate and cannot grow afterwards.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Permissions(u8);

/// Every permission with its name, in the order in which they are shown.
const NAMES: [(Permissions, &str); 4] = [
    (Permissions::USE_SERVICES, "use-services"),
    (Permissions::PUSH_PACKAGES, "push-packages"),
    (Permissions::OPERATE, "operate"),
    (Permissions::ENROLL, "enroll"),
];

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Start, use and give back services.
    pub const USE_SERVICES: Self = Self(1);
    /// Bring packages (images, overlays) to a cloudlet.
    pub const PUSH_PACKAGES: Self = Self(2);
    /// What operators do: stop what others use, configure.
    pub const OPERATE: Self = Self(4);
    /// Let new handhelds into the mission; cloudlets only.
    pub const ENROLL: Self = Self(8);
    /// Everything.
    pub const ALL: Self = Self(15);

    /// Whether everything in `wanted` is in here.
    pub fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether this is nothing.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of what is in here.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(one, _)| self.contains(*one)).map(|(_, name)| name)
    }

    /// The permission of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.into_iter().find(|(_, known)| *known == name).map(|(one, _)| one)
    }
}

impl BitOr for Permissions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Text that names no permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no permission; there are use-services, push-packages, operate and enroll, separated by commas, or none"
)]
pub struct ParseError(String);

impl FromStr for Permissions {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        text.split(',').map(str::trim).try_fold(Self::NONE, |all, name| match Self::named(name) {
            Some(one) => Ok(all | one),
            None => Err(ParseError(name.chars().take(40).collect())),
        })
    }
}

impl TryFrom<String> for Permissions {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Permissions> for String {
    fn from(permissions: Permissions) -> Self {
        permissions.to_string()
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_for_every_set() {
        for bits in 0..16 {
            let set = Permissions(bits);
            assert_eq!(set.to_string().parse(), Ok(set));
        }
        assert!("use-services,fly".parse::<Permissions>().is_err());
        assert!("".parse::<Permissions>().is_err());
    }

    #[test]
    fn a_set_contains_its_parts_only() {
        let set = Permissions::USE_SERVICES | Permissions::OPERATE;
        assert!(set.contains(Permissions::OPERATE) && set.contains(set) && set.contains(Permissions::NONE));
        assert!(!set.contains(Permissions::ENROLL) && !set.contains(Permissions::ALL));
    }
}
