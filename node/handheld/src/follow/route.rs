//! Ways to a cloudlet.

use mesh::NodeId;

/// A way to a cloudlet. Its order is the order in which ways are tried: direct ones first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// At this URL of its API.
    Direct(String),
    /// Through another cloudlet, on the best way to that one.
    Through(NodeId),
}

/// A cloudlet, and a way to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The cloudlet. Whoever else answers on that way is not believed.
    pub node: NodeId,
    /// The way.
    pub way: Way,
}

impl Route {
    /// At this URL.
    pub fn direct(node: NodeId, url: impl Into<String>) -> Self {
        Self { node, way: Way::Direct(url.into()) }
    }

    /// Through `first`.
    pub fn through(first: NodeId, node: NodeId) -> Self {
        Self { node, way: Way::Through(first) }
    }

    /// Whether no other cloudlet is in between.
    pub fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct(_))
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.way {
            Way::Direct(url) => write!(f, "{} at {url}", self.node),
            Way::Through(first) => write!(f, "{} through {first}", self.node),
        }
    }
}
