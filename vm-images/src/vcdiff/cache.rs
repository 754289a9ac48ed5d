//! The address cache of RFC 3284, section 5: addresses of earlier copies, so that those near them are short.

use super::varint::{self, Stop};

const NEAR: usize = 4;
const SAME: usize = 3;
/// How many modes there are: itself, from here, four near ones and three same ones.
pub(super) const MODES: u8 = 2 + NEAR as u8 + SAME as u8;

/// Addresses are those in the source segment followed by the window of the target.
#[derive(Debug, Clone)]
pub(super) struct AddressCache {
    near: [u64; NEAR],
    next: usize,
    same: [u64; SAME * 256],
}

impl AddressCache {
    pub fn new() -> Self {
        Self { near: [0; NEAR], next: 0, same: [0; SAME * 256] }
    }

    fn update(&mut self, address: u64) {
        self.near[self.next] = address;
        self.next = (self.next + 1) % NEAR;
        self.same[(address % (SAME as u64 * 256)) as usize] = address;
    }

    /// Appends the shortest form of an address that is below `here`; gives its mode.
    pub fn put(&mut self, address: u64, here: u64, to: &mut Vec<u8>) -> u8 {
        let slot = (address % (SAME as u64 * 256)) as usize;
        let same = self.same[slot] == address;
        let (mut mode, mut value) = (0, address);
        let near = self
            .near
            .iter()
            .enumerate()
            .filter_map(|(number, near)| Some((2 + number as u8, address.checked_sub(*near)?)));
        for (other, short) in std::iter::once((1, here - address)).chain(near) {
            if short < value {
                (mode, value) = (other, short);
            }
        }
        if same && value > 127 {
            mode = 2 + NEAR as u8 + (slot / 256) as u8;
            to.push((slot % 256) as u8);
        } else {
            varint::put(to, value);
        }
        self.update(address);
        mode
    }

    /// Takes an address from the front of `from`; the mode is one of [`MODES`]. `None` for one that cannot be.
    pub fn take(&mut self, mode: u8, here: u64, from: &mut &[u8]) -> Result<Option<u64>, Stop> {
        let same = 2 + NEAR as u8;
        let address = if mode >= same {
            let (first, rest) = from.split_first().ok_or(Stop::Short)?;
            *from = rest;
            Some(self.same[usize::from(mode - same) * 256 + usize::from(*first)])
        } else {
            let value = varint::take(from)?;
            match mode {
                0 => Some(value),
                1 => here.checked_sub(value),
                near => self.near[usize::from(near) - 2].checked_add(value),
            }
        };
        let address = address.filter(|address| *address < here);
        if let Some(address) = address {
            self.update(address);
        }
        Ok(address)
    }
}
