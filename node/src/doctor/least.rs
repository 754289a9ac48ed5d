//! The least versions of what a cloudlet stands on, and why. `packaging/system-packages` installs by the same numbers;
//! a test compares the two.

use std::fmt;

/// Major and minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The first version number in `text`, such as `10.0` in `QEMU emulator version 10.0.2 (Debian …)`.
    pub fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let mut numbers = word.split('.');
            let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?);
            let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
            Some(Self(major, minor[..digits].parse().ok()?))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A version that must be reached, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Least {
    /// The least version.
    pub version: Version,
    /// Why not an older one.
    pub why: &'static str,
}

/// The machine type that images are pinned to; a suspended guest wakes up on no other.
pub const MACHINE: &str = "pc-q35-10.0";

/// Of QEMU.
pub const QEMU: Least = Least {
    version: Version(10, 0),
    why: "images are pinned to its machine type pc-q35-10.0, which older ones do not have",
};

/// Of libvirt.
pub const LIBVIRT: Least =
    Least { version: Version(11, 0), why: "it is the first that is tested here against QEMU 10" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let qemu = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)";
        assert_eq!(Version::find(qemu), Some(Version(10, 0)));
        assert_eq!(Version::find("11.3.0"), Some(Version(11, 3)));
        assert_eq!(Version::find("7.2rc1"), Some(Version(7, 2)));
        assert_eq!(Version::find("version ten"), None);
        assert!(Version(10, 0) > Version(9, 11));
    }

    #[test]
    fn the_reason_names_the_machine_type() {
        assert!(QEMU.why.contains(MACHINE));
        assert_eq!(Version::find(MACHINE.trim_start_matches("pc-q35-")), Some(QEMU.version));
    }
}
