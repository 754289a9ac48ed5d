//! A member at work: its identity and what it knows of the mission, shared by everything that checks peers.

use std::sync::{Arc, PoisonError, RwLock};

use rustls_pki_types::CertificateDer;

use super::identity::Identity;
use super::mission::{Learned, Member, Mission};
use super::refusal::Refusal;
use super::revocation::{DecodeError, Statement, encode};
use crate::NodeId;

/// An identity and its mission. Cheap to clone; what one clone learns, every clone knows.
#[derive(Debug, Clone)]
pub struct Trust {
    identity: Arc<Identity>,
    mission: Arc<RwLock<Mission>>,
}

impl Trust {
    /// Of an identity in its mission.
    pub fn new(identity: Identity, mission: Mission) -> Self {
        Self { identity: Arc::new(identity), mission: Arc::new(RwLock::new(mission)) }
    }

    /// The own identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// See [`Mission::verify`].
    pub fn verify(&self, chain: &[CertificateDer<'_>], now_unix_s: u64) -> Result<Member, Refusal> {
        self.with(|mission| mission.verify(chain, now_unix_s))
    }

    /// See [`Mission::verify_server`].
    pub fn verify_server(
        &self,
        chain: &[CertificateDer<'_>],
        now_unix_s: u64,
        expected: Option<NodeId>,
    ) -> Result<Member, Refusal> {
        self.with(|mission| mission.verify_server(chain, now_unix_s, expected))
    }

    /// See [`Mission::still`].
    pub fn still(&self, member: &Member, now_unix_s: u64) -> Result<(), Refusal> {
        self.with(|mission| mission.still(member, now_unix_s))
    }

    /// See [`Mission::learn`].
    pub fn learn(&self, encoded: &[u8]) -> Result<Learned, DecodeError> {
        // Nothing that a panic could leave half done is done under the lock.
        self.mission.write().unwrap_or_else(PoisonError::into_inner).learn(encoded)
    }

    /// As [`Self::learn`], of a single statement.
    pub fn learn_one(&self, statement: &Statement) -> Result<Learned, DecodeError> {
        self.learn(&encode([statement]))
    }

    /// Looks at the mission as it is now.
    pub fn with<T>(&self, look: impl FnOnce(&Mission) -> T) -> T {
        look(&self.mission.read().unwrap_or_else(PoisonError::into_inner))
    }
}
