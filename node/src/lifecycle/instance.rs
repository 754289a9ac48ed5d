//! What the core knows about one instance.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use handheld::api::{MAX_CLIENT_TOKEN_BYTES, Sharing, State};
use migration::VmId;
use vm_images::{ImageId, ServiceId};

use super::Claim;

/// The same for every request of one client; chosen by the client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(String);

/// Text that is no client token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client token has 1 to {MAX_CLIENT_TOKEN_BYTES} bytes and no control characters")]
pub struct BadToken;

impl Token {
    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Token {
    type Error = BadToken;

    fn try_from(text: String) -> Result<Self, BadToken> {
        let fits = !text.is_empty() && text.len() <= MAX_CLIENT_TOKEN_BYTES;
        if fits && !text.chars().any(char::is_control) { Ok(Self(text)) } else { Err(BadToken) }
    }
}

/// What must be known about a service to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What clients ask for.
    pub id: ServiceId,
    /// The image that instances are copies of.
    pub image: ImageId,
    /// TCP port of the service in the guest.
    pub guest_port: u16,
    /// Path that answers 200 when the service can work.
    pub health_path: String,
    /// What one instance may use.
    pub needs: Claim,
    /// Most users of one shared instance.
    pub max_users: u32,
}

impl Service {
    /// What is known of a service whose image is elsewhere: its name. What it needs is known once the image's manifest is
    /// here; until then nobody joins.
    pub fn elsewhere(id: ServiceId, image: ImageId) -> Self {
        Self { id, image, guest_port: 0, health_path: String::new(), needs: Claim::default(), max_users: 1 }
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id, also its VM's.
    pub vm: VmId,
    /// What runs in it.
    pub service: Arc<Service>,
    /// Whether others may join.
    pub sharing: Sharing,
    /// Who asked for it first; a private instance is this client's alone, also after its lease ran out.
    pub owner: Token,
    /// Who uses it, and when each was last heard of.
    pub users: BTreeMap<Token, Duration>,
    /// Since when nobody uses it.
    pub idle_since: Option<Duration>,
    /// How far it is.
    pub phase: Phase,
    /// Where the service can be reached; known once the VM runs.
    pub address: Option<SocketAddr>,
    /// When it was asked for, by the wall clock, milliseconds since 1970.
    pub requested_unix_ms: u64,
    /// When its start began: when it was asked for, or when its image had come. `None` after a restart of the daemon.
    pub begun_at: Option<Duration>,
    /// From then until the service answered, milliseconds.
    pub ready_after_ms: Option<u64>,
    /// Why it is being stopped or has ended, for people.
    pub reason: Option<String>,
    /// How much of its memory claim the host already provides, bytes; what is left must still be there.
    pub backed_bytes: u64,
}

/// How far an instance is. Each phase owns the deadlines that only make sense in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// `Fetch` is outstanding: its image comes from another cloudlet.
    Fetching,
    /// `StartVm` is outstanding.
    Waking {
        /// When the start has failed.
        deadline: Duration,
    },
    /// The VM executes; its service has not answered, or its clock is not yet set.
    Checking {
        /// When the start has failed.
        deadline: Duration,
        /// Since when the VM is known to run.
        running_since: Duration,
        /// Whether the guest's clock is right.
        clock_set: bool,
        /// Whether the service answered its health check.
        healthy: bool,
    },
    /// The service answered through its forwarded port.
    Ready {
        /// Since when the VM is known to run.
        running_since: Duration,
        /// When to check its health again; `None` while a check is under way.
        next_check: Option<Duration>,
        /// Health checks that failed in a row.
        failed_checks: u32,
    },
    /// It is being stopped.
    Stopping {
        /// What it will have come to.
        outcome: Outcome,
        /// How far that is.
        step: StopStep,
    },
    /// Nothing more will happen to it.
    Ended {
        /// What it came to.
        outcome: Outcome,
        /// When it is forgotten.
        forget_at: Duration,
    },
}

/// What an instance came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ended as it should.
    Stopped,
    /// It could not start, or died.
    Failed,
}

/// How far the stopping of an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopStep {
    /// `Fetch` or `StartVm` is still outstanding: stopping a VM that a moment later is created would leave it running.
    AwaitStart,
    /// `StopVm` is outstanding.
    Called,
    /// `StopVm` failed and is repeated then.
    RetryAt(Duration),
}

impl Instance {
    /// Whether clients may use it, now or soon.
    pub fn is_live(&self) -> bool {
        matches!(
            self.phase,
            Phase::Fetching | Phase::Waking { .. } | Phase::Checking { .. } | Phase::Ready { .. }
        )
    }

    /// Whether its VM exists, may exist or will soon, so that it counts against the limits.
    pub fn holds_claim(&self) -> bool {
        !matches!(self.phase, Phase::Ended { .. })
    }

    /// What clients are told about how far it is.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Fetching => State::Fetching,
            Phase::Waking { .. } | Phase::Checking { .. } => State::Starting,
            Phase::Ready { .. } => State::Ready,
            Phase::Stopping { .. } => State::Stopping,
            Phase::Ended { outcome: Outcome::Stopped, .. } => State::Stopped,
            Phase::Ended { outcome: Outcome::Failed, .. } => State::Failed,
        }
    }

    /// Most users at a time.
    pub fn max_users(&self) -> usize {
        match self.sharing {
            Sharing::Private => 1,
            Sharing::Shared => usize::try_from(self.service.max_users.max(1)).unwrap_or(usize::MAX),
        }
    }

    /// Whether one more client fits.
    pub fn has_room(&self) -> bool {
        self.users.len() < self.max_users()
    }

    /// Since when the VM is known to run, if it is.
    pub fn running_since(&self) -> Option<Duration> {
        match self.phase {
            Phase::Checking { running_since, .. } | Phase::Ready { running_since, .. } => Some(running_since),
            _ => None,
        }
    }
}

/// Ready instances of a service that a client may join: shared ones with room for another user.
pub fn joinable(service: &Service, instances: &[Instance]) -> u32 {
    let fits = |instance: &&Instance| {
        instance.service.id == service.id
            && instance.service.image == service.image
            && instance.sharing == Sharing::Shared
            && matches!(instance.phase, Phase::Ready { .. })
            && instance.has_room()
    };
    u32::try_from(instances.iter().filter(fits).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_short_and_printable() {
        assert!(Token::try_from("phone-1".to_owned()).is_ok());
        for bad in [String::new(), "a\nb".to_owned(), "x".repeat(129)] {
            assert_eq!(Token::try_from(bad), Err(BadToken));
        }
    }
}
