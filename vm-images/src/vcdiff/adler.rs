//! Adler-32 (RFC 1950), which xdelta3 adds to each window.

const MODULUS: u32 = 65_521;
/// Most bytes that can be summed before the sums must be reduced (RFC 1950's reference: NMAX).
const BATCH: usize = 5552;

/// The checksum of these bytes.
pub(super) fn adler32(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (1_u32, 0_u32);
    for batch in bytes.chunks(BATCH) {
        for byte in batch {
            low += u32::from(*byte);
            high += low;
        }
        low %= MODULUS;
        high %= MODULUS;
    }
    high << 16 | low
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_values() {
        assert_eq!(super::adler32(b""), 1);
        assert_eq!(super::adler32(b"Wikipedia"), 0x11e6_0398);
        // The sums that are largest between reductions: python3 -c 'import zlib; print(zlib.adler32(b"\xff"*20000))'
        assert_eq!(super::adler32(&[0xff; 20_000]), ADLER_OF_20000_FF);
    }

    const ADLER_OF_20000_FF: u32 = 0x9f51_d664;
}
