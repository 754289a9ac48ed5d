//! As whom a handheld speaks to cloudlets.

use std::path::PathBuf;

use mesh::trust::{Error, Home, Permissions, Trust};

/// As whom a handheld speaks to cloudlets.
#[derive(Debug, Clone)]
pub enum Access {
    /// As nobody, over plain HTTP, to cloudlets that run without a mission. For development only: whoever is on the
    /// network reads and changes everything.
    Insecure,
    /// As a member of a mission, over TLS, to cloudlets of the same mission.
    Member(Trust),
}

impl Access {
    /// As the member that the directory holds; `None` if this handheld was never paired.
    pub fn load(home: &Home) -> Result<Option<Self>, Error> {
        Ok(home.load()?.map(Self::Member))
    }

    /// Where a handheld keeps its key and certificates unless told otherwise: `$XDG_STATE_HOME/handheld`, else
    /// `~/.local/state/handheld`. `None` for a user without a home.
    pub fn default_home() -> Option<Home> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        Some(Home::at(state?.join("handheld")))
    }

    /// Whether this device's certificate lets it use services; a cloudlet that runs without a mission lets everybody.
    pub fn may_use_services(&self) -> bool {
        match self {
            Self::Insecure => true,
            Self::Member(trust) => trust.identity().member().may(Permissions::USE_SERVICES).is_ok(),
        }
    }

    /// Whether its mission forbids multicast.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Insecure => false,
            Self::Member(trust) => trust.with(|mission| mission.rules().quiet),
        }
    }

    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Self::Insecure => "http",
            Self::Member(_) => "https",
        }
    }
}
