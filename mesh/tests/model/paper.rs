//! Certificates of paper: node, key and expiry, signed by a mission that everybody knows.

use std::collections::BTreeSet;

use ed25519_dalek::{Signature, Signer, SigningKey};
use mesh::NodeId;
use mesh::membership::{Learnt, Proof, Refused, Verifier};

#[derive(Default)]
pub struct Paper {
    revoked: BTreeSet<Vec<u8>>,
}

/// What a real certificate says beside: names of mission and algorithms. A real one has 654 bytes.
const FILLER_BYTES: usize = 542;

fn mission() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

/// The device key of a node.
pub fn key(node: usize) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(&[b"key", &node.to_be_bytes()[..]].concat()).as_bytes())
}

/// Its certificate, good for ever but a year.
pub fn certificate(node: usize) -> Vec<u8> {
    let body = [&super::id(node).as_bytes()[..], &key(node).verifying_key().to_bytes()].concat();
    let signature = mission().sign(&body).to_bytes();
    [&body[..], &signature, &[b'.'; FILLER_BYTES]].concat()
}

impl Verifier for Paper {
    fn verify(&self, certificate: &[u8], _: u64) -> Result<Proof, Refused> {
        let refused = || Refused("no good paper".to_owned());
        let (body, rest) = certificate.split_at_checked(48).ok_or_else(refused)?;
        let (signature, _) = rest.split_at_checked(64).ok_or_else(refused)?;
        let signature = Signature::from_slice(signature).map_err(|_| refused())?;
        mission().verifying_key().verify_strict(body, &signature).map_err(|_| refused())?;
        if self.revoked.contains(&body[..16]) {
            return Err(Refused("revoked".to_owned()));
        }
        let node = NodeId::from_bytes(body[..16].try_into().map_err(|_| refused())?);
        let key = body[16..].try_into().map_err(|_| refused())?;
        Ok(Proof { node, key, expires_unix_s: u64::MAX })
    }

    fn revoke(&mut self, statement: &[u8], _: u64) -> Result<Learnt, Refused> {
        let is_new = self.revoked.insert(statement.to_vec());
        Ok(if is_new { Learnt::New } else { Learnt::Known })
    }

    fn revocations(&self) -> Vec<Vec<u8>> {
        self.revoked.iter().cloned().collect()
    }
}
