//! The opaque end of a stream: device sections whose lengths only QEMU knows.
//!
//! They are copied as they are. What can be checked is that the stream was not cut: QEMU writes, after the last
//! section's footer, an end mark and a JSON description whose length is stated, and then nothing.

use super::Error;
use super::source::READ_BUFFER_BYTES;
use super::wire;

/// Longest description at the end of a stream, bytes. Measured: 45 KB for a guest with six devices; the rest is room.
pub const MAX_DESCRIPTION_BYTES: usize = 1024 * 1024;

/// End mark, section type and length before the description.
const HEAD_BYTES: usize = 6;
/// The footer before that.
const FOOTER_BYTES: usize = 5;
/// All that the check at the end may have to look at.
const KEEP_BYTES: usize = FOOTER_BYTES + HEAD_BYTES + MAX_DESCRIPTION_BYTES;
/// Held at most; the excess over [`KEEP_BYTES`] is so that bytes are moved down seldom, not with every chunk.
const HOLD_BYTES: usize = 2 * MAX_DESCRIPTION_BYTES;
const _: () = assert!(KEEP_BYTES + READ_BUFFER_BYTES <= HOLD_BYTES);

/// Remembers the last bytes that went by.
pub(super) struct Tail {
    last: Vec<u8>,
    /// Bytes that went by in all.
    seen: u64,
}

impl Tail {
    pub fn new() -> Self {
        Self { last: Vec::with_capacity(HOLD_BYTES), seen: 0 }
    }

    /// Takes a chunk of at most [`READ_BUFFER_BYTES`].
    pub fn push(&mut self, chunk: &[u8]) {
        self.seen += chunk.len() as u64;
        if self.last.len() + chunk.len() > HOLD_BYTES {
            self.last.drain(..self.last.len() - KEEP_BYTES);
        }
        self.last.extend_from_slice(chunk);
    }

    /// Whether the stream, which ends here at offset `at`, ends as it should.
    pub fn check(&self, at: u64) -> Result<(), Error> {
        let complete = (0..self.last.len()).any(|start| self.ends_from(start));
        if complete {
            Ok(())
        } else {
            Err(Error::Truncated { at, expected: "the rest of the device sections and their description" })
        }
    }

    /// Whether end mark and description are exactly the bytes from `start` on.
    fn ends_from(&self, start: usize) -> bool {
        let Some((head, json)) = self.last[start..].split_first_chunk::<HEAD_BYTES>() else { return false };
        let [wire::END_OF_FILE, wire::DESCRIPTION, length @ ..] = *head else { return false };
        let is_whole =
            u32::from_be_bytes(length) as usize == json.len() && json.len() <= MAX_DESCRIPTION_BYTES;
        let is_first = start == 0 && self.seen == self.last.len() as u64;
        let after_footer = start >= FOOTER_BYTES && self.last[start - FOOTER_BYTES] == wire::FOOTER;
        is_whole && json.starts_with(b"{") && json.ends_with(b"}") && (is_first || after_footer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(json: &[u8]) -> Vec<u8> {
        let length = (json.len() as u32).to_be_bytes();
        [&[wire::FOOTER, 0, 0, 0, 9, wire::END_OF_FILE, wire::DESCRIPTION], &length[..], json].concat()
    }

    fn check(bytes: &[u8], chunk_bytes: usize) -> Result<(), Error> {
        let mut tail = Tail::new();
        bytes.chunks(chunk_bytes).for_each(|chunk| tail.push(chunk));
        assert!(tail.last.capacity() <= HOLD_BYTES);
        tail.check(bytes.len() as u64)
    }

    #[test]
    fn a_stream_that_lacks_its_last_bytes_is_found_out() {
        let device_bytes = vec![0x7e; 5 * MAX_DESCRIPTION_BYTES];
        let whole = [&device_bytes[..], &end(br#"{"devices":[]}"#)].concat();
        for chunk_bytes in [1000, 4096, READ_BUFFER_BYTES] {
            check(&whole, chunk_bytes).unwrap();
            for missing in 1..40 {
                let error = check(&whole[..whole.len() - missing], chunk_bytes).unwrap_err();
                assert_eq!(error.offset(), (whole.len() - missing) as u64);
            }
        }
    }

    #[test]
    fn the_longest_description_fits_and_a_longer_one_does_not() {
        let json = |bytes: usize| [&b"{"[..], &vec![b' '; bytes - 2], b"}"].concat();
        check(&end(&json(MAX_DESCRIPTION_BYTES)), 4096).unwrap();
        let longer = [vec![0; HOLD_BYTES], end(&json(MAX_DESCRIPTION_BYTES + 1))].concat();
        assert!(check(&longer, READ_BUFFER_BYTES).is_err());
    }
}
