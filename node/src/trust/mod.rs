//! This cloudlet's place in its mission: who it is, whom it lets in, what is revoked.
//!
//! * [`Membership`]: identity, mission and revocations, kept on disk, shared by everything that checks peers.
//! * [`pairing`]: the endpoint at which handhelds get in, open while a code is shown.
//! * [`ledger`]: the directory of a mission's authority, which need not be on a cloudlet at all.

use std::net::SocketAddr;
use std::sync::Arc;

use handheld::api::PairingCode;
use mesh::NodeId;
use mesh::crowd::Limits;
use mesh::trust::revocation::DecodeError;
use mesh::trust::{
    CertificateDer, Home, Learned, Member, ParsePermissionsError, Permissions, Refusal, Rules, Trust,
};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::instances::clock::unix;

pub mod ledger;
mod pairing;

/// What can go wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no mission, and it was not said that none is wanted. Nothing was started.
    #[error(
        "this cloudlet belongs to no mission, so nobody could use it; make or join one ('cloudlet mission --help'), or let \
         everybody in for development with --insecure"
    )]
    NoMission,
    /// Key, certificates or revocations cannot be read or written.
    #[error("this cloudlet's key, certificates or revocations cannot be used")]
    Store(#[source] mesh::trust::Error),
    /// The certificate names another cloudlet.
    #[error(
        "the certificate is for the node {certified}, this is {own}; join with a bundle made for this node"
    )]
    OtherNode {
        /// In the certificate.
        certified: String,
        /// This node.
        own: NodeId,
    },
    /// This cloudlet's own certificate is no longer good.
    #[error("this cloudlet is no longer in its mission; enroll it again, or join another mission")]
    NoLonger(#[source] Refusal),
    /// The mission's authority did not allow it to enroll.
    #[error("this cloudlet may not enroll handhelds; it was enrolled without --may-enroll")]
    MayNotEnroll,
    /// More was asked for than it may grant.
    #[error("this cloudlet may grant {may} only, not {asked}")]
    MayNotGrant {
        /// What it may.
        may: Permissions,
        /// What was asked for.
        asked: Permissions,
    },
    /// No such permission.
    #[error(transparent)]
    Permissions(#[from] ParsePermissionsError),
    /// The pairing endpoint cannot be opened.
    #[error("cannot listen on {address} for pairing; choose another address with trust.pairing_listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What was told is no revocations.
    #[error(transparent)]
    Encoding(#[from] DecodeError),
}

/// A cloudlet in its mission. Cheap to clone.
#[derive(Clone)]
pub struct Membership {
    trust: Trust,
    home: Home,
    pairing: Arc<pairing::Endpoint>,
    strangers: Limits,
}

impl Membership {
    /// This cloudlet's membership; `None` if the configuration lets everybody in.
    ///
    /// Codes are no longer good once `stop` is cancelled.
    pub fn open(config: &Config, node: NodeId, stop: CancellationToken) -> Result<Option<Self>, Error> {
        if config.trust.insecure {
            tracing::warn!(
                "no mission: everybody on the network may use and operate this cloudlet, over plain HTTP"
            );
            return Ok(None);
        }
        let home = config.trust_home();
        let trust = home.load().map_err(Error::Store)?.ok_or(Error::NoMission)?;
        let member = trust.identity().member();
        if member.node() != Some(node) {
            let certified =
                member.node().map_or_else(|| "of no cloudlet".to_owned(), |node| node.to_string());
            return Err(Error::OtherNode { certified, own: node });
        }
        trust.still(member, unix().as_secs()).map_err(Error::NoLonger)?;
        let pairing = Arc::new(pairing::Endpoint::new(trust.clone(), config.pairing_listen(), stop));
        Ok(Some(Self { trust, home, pairing, strangers: config.strangers() }))
    }

    /// How many connections there may be, to the API and to the mesh each, whose other end has not proved itself yet.
    pub fn strangers(&self) -> Limits {
        self.strangers
    }

    /// What holds for everybody in the mission.
    pub fn rules(&self) -> Rules {
        self.trust.with(|mission| mission.rules().clone())
    }

    /// Identity and mission.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// See [`mesh::trust::Mission::verify`]; now.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Member, Refusal> {
        self.trust.verify(chain, unix().as_secs())
    }

    /// See [`mesh::trust::Mission::still`]; now.
    pub fn still(&self, member: &Member) -> Result<(), Refusal> {
        self.trust.still(member, unix().as_secs())
    }

    /// Whether this is the cloudlet itself: its operator at the console.
    pub fn is_own(&self, member: &Member) -> bool {
        member.public_key == self.trust.identity().member().public_key
    }

    /// When this cloudlet's certificate ends, with the tolerance for wrong clocks, seconds since 1970 UTC.
    pub fn ends_unix_s(&self) -> u64 {
        self.trust.identity().member().expires_unix_s.saturating_add(mesh::trust::CLOCK_TOLERANCE_S)
    }

    /// Hears of revocations, and keeps those that are new on disk before it returns.
    pub fn learn(&self, encoded: &[u8]) -> Result<Learned, Error> {
        let learned = self.trust.learn(encoded)?;
        if learned.new > 0 {
            tracing::info!(new = learned.new, "certificates were revoked");
            self.keep_revocations()?;
        }
        Ok(learned)
    }

    /// Keeps on disk what is known to be revoked.
    pub fn keep_revocations(&self) -> Result<(), Error> {
        self.home.keep_revocations(&self.trust).map_err(Error::Store)
    }

    /// Shows a new pairing code; see [`pairing::Endpoint::show`].
    pub async fn show_code(&self, allow: Option<&str>) -> Result<PairingCode, Error> {
        self.pairing.show(allow.map(str::parse).transpose()?).await
    }
}
