//! What a guest does.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::http::{Answer, Request};
use crate::hypervisor::GuestOutput;

/// A guest. The default one is healthy: its agent answers, its service says 200 to everything, and it lives on.
#[derive(Debug, Clone, Default)]
pub struct Guest {
    /// Whether the agent answers.
    pub agent: Agent,
    /// What comes back through a forwarded port.
    pub service: Service,
    /// When it dies by itself.
    pub death: Death,
    /// Programs beside those that every guest has (`/bin/{cat,date,echo,false,sleep,sync,true}`); asked first.
    pub programs: Program,
}

/// Whether the agent in the guest answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Agent {
    /// Always.
    #[default]
    Answers,
    /// After so many calls that it did not answer, as while the guest boots.
    AnswersAfter(u32),
    /// Never.
    Silent,
}

/// What the service in the guest says to a request over HTTP.
#[derive(Clone, Default)]
pub enum Service {
    /// 200 to everything.
    #[default]
    Healthy,
    /// 503 to so many requests, then 200.
    HealthyAfter(u32),
    /// 503 to everything.
    Unhealthy,
    /// Takes connections and says nothing.
    Silent,
    /// Nobody listens: connections are closed at once.
    Absent,
    /// What the function says. It runs on the connection's own thread.
    Custom(Arc<dyn Fn(&Request) -> Answer + Send + Sync>),
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("Healthy"),
            Self::HealthyAfter(requests) => write!(f, "HealthyAfter({requests})"),
            Self::Unhealthy => f.write_str("Unhealthy"),
            Self::Silent => f.write_str("Silent"),
            Self::Absent => f.write_str("Absent"),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// When a guest dies by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Death {
    /// Not.
    #[default]
    Never,
    /// So long after it started.
    After(Duration),
}

/// Programs in the guest: `None` is one that it does not have.
#[derive(Clone, Default)]
pub struct Program(Option<Arc<Run>>);

type Run = dyn Fn(&str, &[&str]) -> Option<GuestOutput> + Send + Sync;

impl Program {
    /// Runs programs by their path and arguments. It must not call the [`Fake`](super::Fake), which waits for it.
    pub fn new(run: impl Fn(&str, &[&str]) -> Option<GuestOutput> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(run)))
    }

    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Option<GuestOutput> {
        self.0.as_ref().and_then(|run| run(program, arguments))
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Program" } else { "none" })
    }
}
