//! Who made an image: Ed25519 signatures over the exact bytes of manifests.
//!
//! The signature lies beside the manifest in `manifest.sig`, so that the manifest's bytes, and with them the
//! image's id, do not depend on who signed. What is signed is [`DOMAIN`] followed by the manifest, so that a
//! signature made for something else can never pass for one on an image.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::Signer as _;
use serde::{Deserialize, Serialize};

/// Goes before the manifest when it is signed.
pub const DOMAIN: &[u8] = b"tactical cloudlet image manifest v1\0";
/// Longest signature file that is read, in bytes. A real one has about 260.
pub const MAX_BYTES: u64 = 4096;

/// Why an image's origin cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no signature at all.
    #[error("it is not signed (no manifest.sig); only signed images are used")]
    Unsigned,
    /// The signature file is not a signature.
    #[error("its manifest.sig is not a signature file: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// A proper signature may be there, but nobody here trusts its maker.
    #[error(
        "it is signed by key {signer}, which this node does not trust. \
         If you know whose key this is, run `cloudlet image trust {signer}`"
    )]
    UnknownSigner {
        /// The key that is named as the signer.
        signer: PublicKey,
    },
    /// Signer trusted, signature wrong.
    #[error(
        "its signature by key {signer} does not fit its manifest: one of the two was changed. Get the image again"
    )]
    Bad {
        /// The key that is named as the signer.
        signer: PublicKey,
    },
}

/// Text that is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a signing key's public half (64 hexadecimal digits)")]
pub struct ParseKeyError(String);

/// The public half of a signing key; 64 lower-case hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseKeyError(text.chars().take(80).collect());
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| refused())?;
        ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|_| refused())?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = ParseKeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The secret half: signs images that this node builds. Wiped from memory when dropped, never printed.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key that these 32 secret bytes stand for. They must come from a generator fit for secrets.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(secret))
    }

    /// The half that others check with.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a manifest.
    pub fn sign(&self, manifest: &[u8]) -> Detached {
        let signature = self.0.sign(&message(manifest));
        Detached { signer: self.public(), signature: hex::encode(signature.to_bytes()) }
    }

    /// A key for something else, derived one-way; `purpose` keeps uses apart.
    #[cfg(feature = "store")]
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.0.as_bytes())
    }

    /// The secret itself, for writing the key file.
    #[cfg(feature = "store")]
    pub(crate) fn secret(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

/// The content of `manifest.sig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detached {
    /// Whose signature it is.
    pub signer: PublicKey,
    /// 64 bytes as 128 hexadecimal digits.
    pub signature: String,
}

impl Detached {
    /// Reads a signature file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::Malformed {
                reason: format!("it has {} bytes, at most {MAX_BYTES} are read", bytes.len()),
            });
        }
        serde_json::from_slice(bytes).map_err(|source| Error::Malformed { reason: source.to_string() })
    }

    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Both fields are hexadecimal digits, so nothing needs to be escaped and nothing can fail.
        format!("{{\n  \"signer\": \"{}\",\n  \"signature\": \"{}\"\n}}\n", self.signer, self.signature)
            .into_bytes()
    }

    /// Checks the signature over a manifest's exact bytes; says nothing about whether the signer is trusted.
    pub fn check(&self, manifest: &[u8]) -> Result<(), Error> {
        let bad = || Error::Bad { signer: self.signer };
        let mut signature = [0; 64];
        hex::decode_to_slice(&self.signature, &mut signature).map_err(|source| Error::Malformed {
            reason: format!("the signature is not 128 hexadecimal digits ({source})"),
        })?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.signer.0).map_err(|_| bad())?;
        key.verify_strict(&message(manifest), &ed25519_dalek::Signature::from_bytes(&signature))
            .map_err(|_| bad())
    }
}

/// The keys whose images are used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedSigners(BTreeSet<PublicKey>);

impl TrustedSigners {
    /// Whether images signed by `key` are used.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.0.contains(key)
    }

    /// The keys, in order.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter()
    }

    /// Checks who made a manifest: `signature` is the content of its signature file, if there is one.
    pub fn check(&self, manifest: &[u8], signature: Option<&[u8]>) -> Result<PublicKey, Error> {
        let detached = Detached::parse(signature.ok_or(Error::Unsigned)?)?;
        if !self.contains(&detached.signer) {
            return Err(Error::UnknownSigner { signer: detached.signer });
        }
        detached.check(manifest)?;
        Ok(detached.signer)
    }
}

impl FromIterator<PublicKey> for TrustedSigners {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

fn message(manifest: &[u8]) -> Vec<u8> {
    [DOMAIN, manifest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_secret(&[seed; 32])
    }

    fn trusting(keys: &[&SigningKey]) -> TrustedSigners {
        keys.iter().map(|key| key.public()).collect()
    }

    #[test]
    fn a_signature_survives_its_file_format_and_is_accepted() {
        let file = key(1).sign(b"manifest").to_bytes();
        assert_eq!(Detached::parse(&file).unwrap(), key(1).sign(b"manifest"));
        assert_eq!(trusting(&[&key(1)]).check(b"manifest", Some(&file)).unwrap(), key(1).public());
    }

    #[test]
    fn each_reason_for_refusal_says_what_to_do() {
        let trusted = trusting(&[&key(1)]);
        let said =
            |manifest: &[u8], file: Option<&[u8]>| trusted.check(manifest, file).unwrap_err().to_string();

        assert_eq!(said(b"m", None), "it is not signed (no manifest.sig); only signed images are used");
        let stranger = key(2).public();
        assert_eq!(
            said(b"m", Some(&key(2).sign(b"m").to_bytes())),
            format!(
                "it is signed by key {stranger}, which this node does not trust. \
                 If you know whose key this is, run `cloudlet image trust {stranger}`"
            )
        );
        assert!(said(b"other", Some(&key(1).sign(b"m").to_bytes())).contains("does not fit its manifest"));
        assert!(said(b"m", Some(b"{}")).contains("is not a signature file: missing field"));
        assert!(said(b"m", Some(&[b' '; 5000])).contains("5000 bytes"));
    }

    #[test]
    fn a_signature_over_the_bare_bytes_is_no_signature_on_an_image() {
        let bare = key(1).0.sign(b"m");
        let detached = Detached { signer: key(1).public(), signature: hex::encode(bare.to_bytes()) };
        assert!(matches!(detached.check(b"m"), Err(Error::Bad { .. })));
    }

    #[test]
    fn secrets_are_not_printed() {
        let shown = format!("{:?}", key(7));
        assert!(!shown.contains(&hex::encode([7; 32])), "{shown}");
        assert!(shown.contains(&key(7).public().to_string()));
    }

    #[test]
    fn public_keys_are_parsed_strictly() {
        let text = key(3).public().to_string();
        assert_eq!(text.parse(), Ok(key(3).public()));
        assert!(text[1..].parse::<PublicKey>().is_err());
        // No point on the curve has this y coordinate.
        assert!("02".repeat(32).parse::<PublicKey>().is_err());
    }
}
