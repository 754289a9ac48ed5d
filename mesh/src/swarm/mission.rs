//! The mission's certificates as the core's [`Verifier`].
//!
//! A certificate on the wire is the chain, leaf first, each with its length (two bytes, big-endian) before it.

use super::{Error, Hail};
use crate::membership::{self, Learnt, Proof, Refused, Verifier};
use crate::trust::{CertificateDer, MAX_CERTIFICATE_BYTES, MAX_CHAIN, Trust, revocation};

/// Judges by the mission's certificates. What it learns of revocations, every clone of the [`Trust`] knows.
pub struct MissionVerifier {
    trust: Trust,
}

impl MissionVerifier {
    /// Judges for this member.
    pub fn new(trust: Trust) -> Self {
        Self { trust }
    }
}

/// Who this device is in the mesh.
pub fn identity(trust: &Trust) -> Result<membership::Identity, Error> {
    let own = trust.identity();
    let node = own.member().node().ok_or(Error::NotACloudlet)?;
    let key = ed25519_dalek::SigningKey::from_bytes(own.device().secret_seed());
    let chain: Vec<&[u8]> = own.chain().iter().map(|certificate| certificate.as_ref()).collect();
    Ok(membership::Identity { node, key, certificate: encode(&chain) })
}

/// Name of the mission's gossip topic: a keyed hash, so that it says nothing to strangers.
pub fn topic(trust: &Trust) -> String {
    trust.with(|mission| mission.topic_name("notices"))
}

impl Hail {
    /// How members of the mission call out: on [`Hail::GROUP`], with the first bytes of a keyed hash.
    pub fn of(trust: &Trust) -> Self {
        let name = trust.with(|mission| mission.topic_name("hail"));
        let mut tag = [0; 8];
        tag.iter_mut().zip(name.as_bytes()).for_each(|(to, from)| *to = *from);
        Self { group: Self::GROUP, tag }
    }
}

fn encode(chain: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for certificate in chain {
        bytes.extend_from_slice(&u16::try_from(certificate.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(certificate);
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    let mut chain = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        if chain.len() == MAX_CHAIN || length > MAX_CERTIFICATE_BYTES {
            return None;
        }
        let (certificate, rest) = rest.split_at_checked(length)?;
        chain.push(CertificateDer::from(certificate));
        bytes = rest;
    }
    bytes.is_empty().then_some(chain)
}

impl Verifier for MissionVerifier {
    fn verify(&self, certificate: &[u8], unix_s: u64) -> Result<Proof, Refused> {
        let chain = decode(certificate).ok_or_else(|| Refused("no certificate chain".to_owned()))?;
        let member = self.trust.verify(&chain, unix_s).map_err(|refusal| Refused(refusal.to_string()))?;
        let node = member.node().ok_or_else(|| Refused("the certificate is not a cloudlet's".to_owned()))?;
        Ok(Proof { node, key: member.public_key(), expires_unix_s: member.expires_unix_s })
    }

    fn revoke(&mut self, statement: &[u8], _: u64) -> Result<Learnt, Refused> {
        let learned = self.trust.learn(statement).map_err(|error| Refused(error.to_string()))?;
        match learned {
            learned if learned.refused > 0 => Err(Refused("the mission did not sign it".to_owned())),
            learned if learned.new > 0 => Ok(Learnt::New),
            _ => Ok(Learnt::Known),
        }
    }

    fn revocations(&self) -> Vec<Vec<u8>> {
        self.trust.with(|mission| {
            mission.revoked().statements().map(|statement| revocation::encode([statement])).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_comes_back_and_a_cut_one_is_none() {
        let chain: [&[u8]; 2] = [b"leaf", b"enroller"];
        let bytes = encode(&chain);
        let back = decode(&bytes).unwrap();
        assert_eq!(back.iter().map(|one| one.as_ref()).collect::<Vec<_>>(), chain);
        for cut in 1..bytes.len() {
            assert!(decode(&bytes[..cut]).is_none_or(|chain| chain.len() == 1), "{cut}");
        }
        assert!(decode(&encode(&[b"a", b"b", b"c"])).is_none());
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_shown_as_a_chain_is_short_or_none(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
            length in 0..70_000_usize,
        ) {
            let fits = |chain: Vec<CertificateDer<'_>>| {
                chain.len() <= MAX_CHAIN && chain.iter().all(|one| one.len() <= MAX_CERTIFICATE_BYTES)
            };
            proptest::prop_assert!(decode(&bytes).is_none_or(fits));
            let claims = [&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()[..], &bytes].concat();
            proptest::prop_assert!(decode(&claims).is_none_or(fits));
        }
    }
}
