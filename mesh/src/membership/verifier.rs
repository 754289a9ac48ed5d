//! Who may take part, as the core sees it.

use crate::NodeId;

/// What a good certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The node.
    pub node: NodeId,
    /// Its Ed25519 public key: it signs adverts, and libp2p's peer id follows from it.
    pub key: [u8; 32],
    /// Until when the certificate holds, seconds since 1970; of two good certificates of one node the later one counts.
    pub expires_unix_s: u64,
}

/// Why somebody may not take part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Whether a revocation was news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learnt {
    /// It was.
    New,
    /// It was known.
    Known,
}

/// Judges certificates and revocations. Pure: it is told the time.
pub trait Verifier: Send {
    /// What the certificate chain proves at this time. Must look at revocations too.
    fn verify(&self, certificate: &[u8], unix_s: u64) -> Result<Proof, Refused>;

    /// Takes a signed revocation; refuses one that the mission did not sign.
    fn revoke(&mut self, statement: &[u8], unix_s: u64) -> Result<Learnt, Refused>;

    /// All revocations, in an order that depends on nothing but the set.
    fn revocations(&self) -> Vec<Vec<u8>>;
}
