//! What holds for everybody in a mission, said once and for good in the authority's certificate.
//!
//! It is signed with the rest of that certificate, every member has it from the start, and nobody but the authority could
//! have written it: a captured cloudlet adds nothing to it and takes nothing away.

use std::collections::BTreeSet;

use vm_images::PublicKey;

use super::error::Error;
use super::refusal::Refusal;

/// Most keys whose images a mission trusts. Guess: a few places build images; more would make the authority's certificate,
/// which is sent to each member, as long as [`super::MAX_CERTIFICATE_BYTES`] allows. A key takes 86 bytes.
pub const MAX_IMAGE_SIGNERS: usize = 16;

/// What holds for everybody in a mission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Nobody sends multicast.
    pub quiet: bool,
    /// Whose images every cloudlet of the mission uses, beside its own and those that its operator trusts. The secret halves
    /// need not be anywhere near the mission.
    pub image_signers: BTreeSet<PublicKey>,
}

impl Rules {
    /// Whether anything is said at all.
    pub fn is_empty(&self) -> bool {
        !self.quiet && self.image_signers.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.image_signers.len() <= MAX_IMAGE_SIGNERS {
            return Ok(());
        }
        Err(Error::bad(
            "the mission's rules",
            format!("they trust more than {MAX_IMAGE_SIGNERS} keys for images"),
        ))
    }

    /// What goes behind the prefix of every name, in a fixed order.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let signers = self.image_signers.iter().map(|key| format!("images:{key}"));
        self.quiet.then(|| "rule:quiet".to_owned()).into_iter().chain(signers)
    }

    pub(super) fn add_rule(&mut self, name: &str) -> Result<(), Refusal> {
        match name {
            "quiet" => {
                self.quiet = true;
                Ok(())
            }
            // What everybody must obey and this release cannot is no mission for it.
            _ => Err(Refusal::Malformed("it has a rule that this release does not know")),
        }
    }

    pub(super) fn add_image_signer(&mut self, key: &str) -> Result<(), Refusal> {
        let key = key.parse().map_err(|_| Refusal::Malformed("it trusts a key that is none"))?;
        self.image_signers.insert(key);
        match self.image_signers.len() {
            0..=MAX_IMAGE_SIGNERS => Ok(()),
            _ => Err(Refusal::Malformed("it trusts too many keys")),
        }
    }
}
