//! What a change has seen: version vectors.
//!
//! A [`Version`] counts for every node how many of that node's changes to the object are contained. Comparing two of
//! them tells without any clock whether one change was made in knowledge of the other (Parker et al., "Detection of
//! mutual inconsistency in distributed systems", 1983).

use std::collections::BTreeMap;

use mesh::NodeId;

/// How many changes of each node are contained. Nodes without one are not listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(BTreeMap<NodeId, u64>);

/// How two versions relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Causality {
    /// They contain the same changes.
    Equal,
    /// The left one is contained in the right one.
    Before,
    /// The right one is contained in the left one.
    After,
    /// Each contains a change that the other lacks: made without knowledge of each other.
    Concurrent,
}

impl Version {
    /// Most nodes that one object's version may list. A mission's group is small; the cap bounds what a peer can
    /// make us keep. Guess.
    pub const MAX_NODES: usize = 256;

    /// The version with these counts; zeros are dropped.
    pub fn from_counts(counts: impl IntoIterator<Item = (NodeId, u64)>) -> Self {
        Self(counts.into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// The nodes that made changes, with how many, in the order of their ids.
    pub fn counts(&self) -> impl ExactSizeIterator<Item = (NodeId, u64)> + '_ {
        self.0.iter().map(|(node, count)| (*node, *count))
    }

    /// How many changes of `node` are contained.
    pub fn count(&self, node: NodeId) -> u64 {
        self.0.get(&node).copied().unwrap_or(0)
    }

    /// This version with one more change by `node`.
    pub fn after_change_by(&self, node: NodeId) -> Self {
        let mut next = self.clone();
        let count = next.0.entry(node).or_default();
        *count = count.saturating_add(1);
        next
    }

    /// Everything that either contains.
    pub fn merge(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        for (node, count) in other.counts() {
            let mine = merged.0.entry(node).or_default();
            *mine = count.max(*mine);
        }
        merged
    }

    /// Whether everything in `other` is contained here.
    pub fn contains(&self, other: &Self) -> bool {
        other.counts().all(|(node, count)| self.count(node) >= count)
    }

    /// How this one (left) relates to `other` (right).
    pub fn causality(&self, other: &Self) -> Causality {
        match (self.contains(other), other.contains(self)) {
            (true, true) => Causality::Equal,
            (false, true) => Causality::Before,
            (true, false) => Causality::After,
            (false, false) => Causality::Concurrent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; NodeId::BYTES])
    }

    fn versions() -> impl Strategy<Value = Version> {
        prop::collection::btree_map((0_u8..4).prop_map(node), 0_u64..4, 0..4).prop_map(Version::from_counts)
    }

    #[test]
    fn concurrent_changes_are_told_from_later_ones() {
        let base = Version::default().after_change_by(node(1));
        let (left, right) = (base.after_change_by(node(1)), base.after_change_by(node(2)));
        assert_eq!(base.causality(&left), Causality::Before);
        assert_eq!(left.causality(&base), Causality::After);
        assert_eq!(left.causality(&right), Causality::Concurrent);
        assert_eq!(left.merge(&right).after_change_by(node(2)).causality(&left), Causality::After);
    }

    proptest! {
        #[test]
        fn merge_is_the_least_version_that_contains_both(a in versions(), b in versions(), c in versions()) {
            let both = a.merge(&b);
            prop_assert!(both.contains(&a) && both.contains(&b));
            prop_assert_eq!(c.contains(&a) && c.contains(&b), c.contains(&both));
            prop_assert_eq!(&both, &b.merge(&a));
            prop_assert_eq!(a.merge(&b).merge(&c), a.merge(&b.merge(&c)));
            prop_assert_eq!(&a.merge(&a), &a);
        }

        #[test]
        fn causality_reads_the_same_from_both_sides(a in versions(), b in versions()) {
            let mirrored = match b.causality(&a) {
                Causality::Before => Causality::After,
                Causality::After => Causality::Before,
                same => same,
            };
            prop_assert_eq!(a.causality(&b), mirrored);
            prop_assert_eq!(a.causality(&b) == Causality::Equal, a == b);
        }
    }
}
