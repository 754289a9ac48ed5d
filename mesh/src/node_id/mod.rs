//! The name of a cloudlet.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[cfg(feature = "net")]
mod file;
#[cfg(feature = "net")]
pub use file::FileError;

/// Names one cloudlet for ever: 16 random bytes, 32 lower-case hexadecimal digits in text.
///
/// Sixteen bytes make a collision between a million nodes less likely than 2⁻⁸⁸, so nobody needs to hand ids out.
/// An id is a name, not a proof: anybody may claim it until certificates bind it to a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId([u8; Self::BYTES]);

impl NodeId {
    /// Length of an id in bytes.
    pub const BYTES: usize = 16;

    /// The id with these bytes.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// A new id from the caller's generator, which must be seeded from the system for real nodes.
    pub fn generate(rng: &mut impl rand::Rng) -> Self {
        let mut bytes = [0; Self::BYTES];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The first 8 hexadecimal digits: for people and log lines, never for look-ups by machines.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// Text that is not a node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a node id (32 hexadecimal digits)")]
pub struct ParseNodeIdError(String);

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| ParseNodeIdError(text.chars().take(80).collect()))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for NodeId {
    type Error = ParseNodeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_ids_and_text_round_trips() {
        let (mut one, mut two) = (ChaCha8Rng::seed_from_u64(7), ChaCha8Rng::seed_from_u64(7));
        let id = NodeId::generate(&mut one);
        assert_eq!(id, NodeId::generate(&mut two));
        assert_ne!(id, NodeId::generate(&mut one));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with(&id.short()));
        assert_eq!(id.short().len(), 8);
    }

    #[test]
    fn other_text_is_refused_and_a_long_one_is_not_repeated_whole() {
        for bad in ["", "ab", &"g".repeat(32), &"a".repeat(31), &"a".repeat(33)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
        let message = "x".repeat(10_000).parse::<NodeId>().unwrap_err().to_string();
        assert!(message.len() < 200, "{}", message.len());
    }
}
