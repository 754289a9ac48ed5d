//! Integers of RFC 3284, section 2: base 128, the most significant digit first, the high bit set on all but the last.

/// Why no integer could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The bytes end before it does.
    Short,
    /// It does not fit 63 bits.
    TooLarge,
}

/// Appends an integer.
pub(super) fn put(to: &mut Vec<u8>, value: u64) {
    let digits = (u64::BITS - value.leading_zeros()).div_ceil(7).max(1);
    for digit in (0..digits).rev() {
        let more = if digit > 0 { 0x80 } else { 0 };
        to.push((value >> (7 * digit)) as u8 & 0x7f | more);
    }
}

/// Takes an integer from the front of `from`.
pub(super) fn take(from: &mut &[u8]) -> Result<u64, Stop> {
    let mut value = 0_u64;
    // Nine digits are 63 bits.
    for (at, byte) in from.iter().enumerate().take(9) {
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            *from = &from[at + 1..];
            return Ok(value);
        }
    }
    Err(if from.len() < 9 { Stop::Short } else { Stop::TooLarge })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_round_trip_and_the_rfc_s_example_is_ours() {
        let mut bytes = Vec::new();
        put(&mut bytes, 123_456_789);
        assert_eq!(bytes, [0b1011_1010, 0b1110_1111, 0b1001_1010, 0b0001_0101]);
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), (1 << 63) - 1] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            let mut rest = &bytes[..];
            assert_eq!(take(&mut rest), Ok(value));
            assert!(rest.is_empty());
            assert_eq!(take(&mut &bytes[..bytes.len() - 1]), Err(Stop::Short));
        }
        assert_eq!(take(&mut &[0xff; 20][..]), Err(Stop::TooLarge));
    }
}
