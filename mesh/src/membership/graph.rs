//! Who is reached from whom along links.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::NodeId;

/// Neighbours by node, as each node says itself.
pub(super) type Graph = BTreeMap<NodeId, BTreeSet<NodeId>>;

/// Distance in links of everybody who is reached from `start`. A link counts if the nearer end names it: what a node
/// says that nobody names keeps nobody alive.
pub(super) fn distances(graph: &Graph, start: NodeId) -> BTreeMap<NodeId, u16> {
    walk(graph, start, None)
}

/// Whether `from` still reaches `to` without the link between them.
pub(super) fn has_detour(graph: &Graph, from: NodeId, to: NodeId) -> bool {
    walk(graph, from, Some((from, to))).contains_key(&to)
}

fn walk(graph: &Graph, start: NodeId, without: Option<(NodeId, NodeId)>) -> BTreeMap<NodeId, u16> {
    let mut distance = BTreeMap::from([(start, 0_u16)]);
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        let hops = distance.get(&node).copied().unwrap_or(0).saturating_add(1);
        for &next in graph.get(&node).into_iter().flatten() {
            let cut = without.is_some_and(|(a, b)| (node, next) == (a, b) || (node, next) == (b, a));
            if !cut && graph.contains_key(&next) && !distance.contains_key(&next) {
                distance.insert(next, hops);
                queue.push_back(next);
            }
        }
    }
    distance
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 16])
    }

    fn graph(edges: &[(u8, u8)]) -> Graph {
        let mut graph = Graph::new();
        for &(a, b) in edges {
            graph.entry(node(a)).or_default().insert(node(b));
            graph.entry(node(b)).or_default();
        }
        graph
    }

    #[test]
    fn only_what_the_nearer_end_names_counts() {
        let reached = distances(&graph(&[(1, 2), (2, 3), (4, 1)]), node(1));
        assert_eq!(reached, BTreeMap::from([(node(1), 0), (node(2), 1), (node(3), 2)]));
    }

    #[test]
    fn a_bridge_has_no_detour() {
        let both = |edges: &[(u8, u8)]| -> Vec<(u8, u8)> {
            edges.iter().flat_map(|&(a, b)| [(a, b), (b, a)]).collect()
        };
        let triangle_and_tail = graph(&both(&[(1, 2), (2, 3), (3, 1), (3, 4)]));
        assert!(has_detour(&triangle_and_tail, node(1), node(2)));
        assert!(!has_detour(&triangle_and_tail, node(3), node(4)));
    }
}
