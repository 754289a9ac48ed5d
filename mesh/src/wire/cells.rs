//! An advert as small named pieces.
//!
//! A cell has a key (one byte that says what it is, then perhaps of whom) and a value. A release that meets a kind
//! of cell that it does not know keeps it and passes it on, so the owner's signature stays good on the way.

use std::collections::BTreeMap;

use super::Error;

/// Most cells of one advert. Room for 500 services with their images; a guess.
pub const MAX_CELLS: usize = 1200;
/// Longest key, bytes: one byte and a service id or an image id.
pub const MAX_KEY_BYTES: usize = 64;
/// Longest value, bytes.
pub const MAX_VALUE_BYTES: usize = 4096;
/// Longest advert: all keys and values together, bytes. An advert with 100 services has about 8 KiB.
pub const MAX_STATE_BYTES: usize = 32 * 1024;

/// What turns one state into another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Cells that are new or have another value.
    pub set: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys of cells that are gone.
    pub removed: Vec<Vec<u8>>,
}

impl Delta {
    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        let set: usize = self.set.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        set + self.removed.iter().map(|key| key.len() + 1).sum::<usize>()
    }
}

/// The state of one advert.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cells(BTreeMap<Vec<u8>, Vec<u8>>);

impl Cells {
    /// Puts a cell; the last one with a key holds.
    pub fn set(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.0.insert(key, value);
    }

    /// The value of a cell.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// All cells, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Cells of a kind: the rest of their key, and their value.
    pub fn of_kind(&self, kind: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.iter().filter_map(move |(key, value)| Some((key.strip_prefix(&[kind])?, value)))
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// What turns `base` into this.
    pub fn since(&self, base: &Self) -> Delta {
        let changed = |(key, value): &(&Vec<u8>, &Vec<u8>)| base.0.get(*key) != Some(*value);
        Delta {
            set: self.0.iter().filter(changed).map(|(key, value)| (key.clone(), value.clone())).collect(),
            removed: base.0.keys().filter(|key| !self.0.contains_key(*key)).cloned().collect(),
        }
    }

    /// This state with `delta` applied; refused if it would be larger than an advert may be.
    pub fn with(&self, delta: &Delta) -> Result<Self, Error> {
        let mut cells = self.clone();
        for key in &delta.removed {
            cells.0.remove(key);
        }
        cells.0.extend(delta.set.iter().cloned());
        cells.check()?;
        Ok(cells)
    }

    /// Whether every length is within its bounds.
    pub fn check(&self) -> Result<(), Error> {
        let fits = |(key, value): (&[u8], &[u8])| {
            (1..=MAX_KEY_BYTES).contains(&key.len()) && value.len() <= MAX_VALUE_BYTES
        };
        if self.0.len() > MAX_CELLS || !self.iter().all(fits) {
            return Err(Error::Value("set of cells"));
        }
        match self.bytes() {
            length if length > MAX_STATE_BYTES => Err(Error::TooLong { length, most: MAX_STATE_BYTES }),
            _ => Ok(()),
        }
    }

    /// BLAKE3 over the cells by key: for each the length of the key (one byte), the key, the length of the value
    /// (two bytes, big-endian), the value.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (key, value) in self.iter() {
            hasher.update(&[u8::try_from(key.len()).unwrap_or(u8::MAX)]);
            hasher.update(key);
            hasher.update(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
            hasher.update(value);
        }
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(pairs: &[(&str, &str)]) -> Cells {
        let mut cells = Cells::default();
        for (key, value) in pairs {
            cells.set(key.as_bytes().to_vec(), value.as_bytes().to_vec());
        }
        cells
    }

    #[test]
    fn a_delta_holds_what_changed_and_nothing_else() {
        let old = cells(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let new = cells(&[("a", "1"), ("b", "9"), ("d", "4")]);
        let delta = new.since(&old);
        assert_eq!(delta.set.len(), 2);
        assert_eq!(delta.removed, [b"c".to_vec()]);
        assert_eq!(old.with(&delta).unwrap(), new);
        assert_eq!(new.since(&new), Delta::default());
        assert_eq!(new.since(&Cells::default()).set.len(), 3, "against nothing it is the whole");
    }

    #[test]
    fn the_digest_depends_on_every_border() {
        let one = cells(&[("ab", "c")]).digest();
        assert_ne!(one, cells(&[("a", "bc")]).digest());
        assert_ne!(one, cells(&[("ab", "c"), ("d", "")]).digest());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let long = cells(&[("a", &"x".repeat(MAX_VALUE_BYTES + 1))]);
        assert!(long.check().is_err());
        let mut many = Cells::default();
        for n in 0..9_u8 {
            many.set(vec![n], vec![0; 4000]);
        }
        assert!(many.check().unwrap_err().to_string().contains("too long"));
        assert!(cells(&[("", "x")]).check().is_err());
    }
}
