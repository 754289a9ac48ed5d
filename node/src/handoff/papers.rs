//! What travels with a VM beside its pages: the instance's record, and where it is at home.
//!
//! ```text
//! 0x50, home (16 bytes), record
//! ```
//! A record alone, whose first byte is its version, is taken as well: then its home is not known.

use mesh::NodeId;

/// First byte; no version of a record.
const MARK: u8 = 0x50;

/// Of an instance that was first started there.
pub(super) fn encode(home: NodeId, record: &[u8]) -> Vec<u8> {
    [&[MARK], home.as_bytes().as_slice(), record].concat()
}

/// Home, if it is said, and record. What is cut ends as a record that cannot be read.
pub(super) fn decode(papers: &[u8]) -> (Option<NodeId>, &[u8]) {
    match papers.split_first() {
        Some((&MARK, rest)) => match rest.split_first_chunk::<{ NodeId::BYTES }>() {
            Some((home, record)) => (Some(NodeId::from_bytes(*home)), record),
            None => (None, &[]),
        },
        _ => (None, papers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn papers_come_back_and_a_record_alone_has_no_home() {
        let home = NodeId::from_bytes([7; NodeId::BYTES]);
        let papers = encode(home, &[1, 2, 3]);
        assert_eq!(papers, [&[0x50_u8][..], &[7; 16], &[1, 2, 3]].concat());
        assert_eq!(decode(&papers), (Some(home), [1, 2, 3].as_slice()));
        assert_eq!(decode(&[1, 2, 3]), (None, [1, 2, 3].as_slice()));
        for end in 0..17 {
            assert_eq!(decode(&papers[..end]), (None, [].as_slice()), "cut to {end}");
        }
    }
}
