//! What can go wrong on the way to a service, and what to do then.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;
use vm_images::ServiceId;

use crate::Step;
use crate::api::{Code, Missing, Problem};

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answered.
    #[error("no cloudlet was found within {:.1} s", .waited.as_secs_f64())]
    NoCloudlet {
        /// How long was listened.
        waited: Duration,
        /// Cloudlets that published themselves but did not answer usefully: name and reason.
        silent: Vec<(String, String)>,
    },
    /// The mission is quiet: looking for cloudlets would be heard. Nothing was sent.
    #[error("this mission is quiet, so no cloudlet is looked for by multicast")]
    Quiet,
    /// Discovery does not work here at all.
    #[error("cannot look for cloudlets")]
    Discovery(#[source] mesh::dnssd::Error),
    /// An address of a cloudlet that is none.
    #[error("'{0}' is not the address of a cloudlet (http://HOST:PORT)")]
    Url(String),
    /// An address for the other way of access: plain HTTP for a member of a mission, or TLS for who is none.
    #[error("'{url}' is not what this handheld may use: {scheme} is")]
    Scheme {
        /// The address.
        url: String,
        /// `http` or `https`.
        scheme: &'static str,
    },
    /// There is no such way: only members are relayed, and only over so many cloudlets.
    #[error(
        "{url} is no way to a cloudlet: at most {} may be in between, and only for members of a mission",
        crate::MAX_RELAYS
    )]
    NoRelay {
        /// The way.
        url: String,
    },
    /// A cloudlet that was named as a way is not there.
    #[error("there is no cloudlet '{name}' here to go through; {}", list_names(.there))]
    NoWay {
        /// The name.
        name: String,
        /// Who is there.
        there: Vec<String>,
    },
    /// The cloudlet that was named as a way reaches no others.
    #[error("{name} reaches no other cloudlet")]
    NobodyBehind {
        /// Its name.
        name: String,
    },
    /// A local address for a tunnel cannot be opened.
    #[error("cannot open a local address for the service")]
    Local(#[source] std::io::Error),
    /// This handheld's certificate or key does not work.
    #[error("this handheld's certificate cannot be used")]
    Trust(#[source] mesh::trust::Error),
    /// Cloudlets answered, but none offers the service.
    #[error("no cloudlet offers '{service}'; {}", list_offered(.offered))]
    NotOffered {
        /// The wanted service.
        service: ServiceId,
        /// What each cloudlet offers instead.
        offered: Vec<(String, Vec<ServiceId>)>,
    },
    /// Cloudlets offer the service, but none is as the user or the mission demands. None was asked to start anything.
    #[error("no cloudlet with '{service}' is as it must be: {}", list_reasons(.reasons))]
    NoneFits {
        /// The wanted service.
        service: ServiceId,
        /// Who fails what.
        reasons: Vec<(String, String)>,
    },
    /// Cloudlets offer the service, but none can take another instance now.
    #[error("no cloudlet can run '{service}' now: {}", list_refused(.refused))]
    AllRefused {
        /// The wanted service.
        service: ServiceId,
        /// Who refused and why.
        refused: Vec<(String, Refusal)>,
    },
    /// The cloudlet understood the request and said no.
    #[error("{cloudlet} refused to {doing}: {refusal}")]
    Refused {
        /// Its address.
        cloudlet: String,
        /// What was asked for.
        doing: &'static str,
        /// Its answer.
        refusal: Refusal,
    },
    /// The instance came to its end before it was ready.
    #[error("the instance {instance} failed: {reason}")]
    InstanceFailed {
        /// Which.
        instance: Uuid,
        /// Why, as the cloudlet says.
        reason: String,
    },
    /// A step took too long.
    #[error("timed out after {:.1} s while {step}", .limit.as_secs_f64())]
    Timeout {
        /// Which step.
        step: Step,
        /// Its limit.
        limit: Duration,
    },
    /// The cloudlet does not answer, or no longer.
    #[error("{cloudlet} did not answer when asked to {doing}")]
    Vanished {
        /// Its address.
        cloudlet: String,
        /// What was asked for.
        doing: &'static str,
        /// What the connection said.
        #[source]
        source: reqwest::Error,
    },
    /// The cloudlet said that it shuts down.
    #[error("{cloudlet} is shutting down")]
    Goodbye {
        /// Its address.
        cloudlet: String,
    },
    /// Something answered, but not as a cloudlet of this API version does.
    #[error(
        "{cloudlet} did not answer as a cloudlet with API version {} does when asked to {doing}: {what}",
        crate::api::VERSION
    )]
    Protocol {
        /// Its address.
        cloudlet: String,
        /// What was asked for.
        doing: &'static str,
        /// What is wrong with the answer.
        what: String,
    },
    /// The HTTP client could not be made.
    #[error("cannot set up the HTTP client")]
    Http(#[source] reqwest::Error),
}

/// A cloudlet's "no".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Its reason.
    pub problem: Problem,
}

impl Refusal {
    /// Whether another cloudlet, or this one later, may well say yes.
    pub fn is_for_now(&self) -> bool {
        matches!(self.problem.code, Code::InsufficientResources | Code::ShuttingDown | Code::Draining)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)?;
        if let Some(Missing { memory_bytes, cpu_millis }) = self.problem.missing {
            write!(
                f,
                " (missing: {} MiB of memory, {:.1} cores)",
                memory_bytes.div_ceil(1 << 20),
                f64::from(cpu_millis) / 1000.0
            )?;
        }
        Ok(())
    }
}

impl Error {
    /// What the user can do next, where there is something.
    pub fn next_step(&self) -> Option<String> {
        let text = match self {
            Self::NoCloudlet { silent, .. } if !silent.is_empty() => {
                let list: Vec<String> = silent.iter().map(|(name, why)| format!("{name}: {why}")).collect();
                format!("these published themselves but did not answer: {}; check firewalls", list.join("; "))
            }
            Self::NoCloudlet { .. } => "check that a cloudlet runs on the same network, that the network passes \
                multicast (UDP port 5353; many guest Wi-Fi networks do not), or name one: --cloudlet http://HOST:PORT"
                .to_owned(),
            Self::Quiet => "name one: --cloudlet https://HOST:PORT".to_owned(),
            Self::Discovery(_) => "join a network, or name a cloudlet: --cloudlet http://HOST:PORT".to_owned(),
            Self::Scheme { scheme: "https", .. } => {
                "name it as https://HOST:PORT; a cloudlet without a mission is used with --insecure, for development only"
                    .to_owned()
            }
            Self::Scheme { .. } => "leave out --insecure, and pair this handheld first: handheld pair".to_owned(),
            Self::Trust(_) => "pair this handheld again: handheld pair".to_owned(),
            Self::Url(_) => "give it as http://HOST:PORT, for example http://192.168.1.10:8477".to_owned(),
            Self::NotOffered { .. } => "ask for one of those, or have the service's image added to a cloudlet \
                (cloudlet image build, there)".to_owned(),
            Self::AllRefused { .. } => "try again when an instance has ended (handheld discover shows the load)".to_owned(),
            Self::Refused { refusal, .. } if refusal.is_for_now() => {
                "try again later, or another cloudlet".to_owned()
            }
            Self::InstanceFailed { .. } => "the cloudlet's log has the details; trying again is safe".to_owned(),
            Self::Timeout { .. } => "a busy cloudlet may need longer: raise the limit with --ready-within".to_owned(),
            Self::NoneFits { .. } => "handheld select --explain shows each; loosen --require, --deadline or [selection] in \
                the configuration".to_owned(),
            Self::Vanished { .. } | Self::Goodbye { .. } => {
                "check that it runs and that you are still on its network; handheld discover lists others".to_owned()
            }
            Self::Protocol { .. } => "check the address; if it is right, one side needs the other's release".to_owned(),
            Self::NobodyBehind { .. } => "leave out --via, or wait until it has found others (cloudlet mesh, there)".to_owned(),
            Self::NoWay { .. } => "name one of those, or give its URL".to_owned(),
            Self::Refused { .. } | Self::Http(_) | Self::NoRelay { .. } | Self::Local(_) => return None,
        };
        Some(text)
    }
}

fn list_names(names: &[String]) -> String {
    if names.is_empty() { "nobody answers".to_owned() } else { format!("these are: {}", names.join(", ")) }
}

fn list_offered(offered: &[(String, Vec<ServiceId>)]) -> String {
    let one = |(name, services): &(String, Vec<ServiceId>)| {
        let list: Vec<&str> = services.iter().map(ServiceId::as_str).collect();
        if list.is_empty() {
            format!("{name} offers nothing")
        } else {
            format!("{name} offers {}", list.join(", "))
        }
    };
    offered.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn list_reasons(reasons: &[(String, String)]) -> String {
    reasons.iter().map(|(name, reason)| format!("{name} {reason}")).collect::<Vec<_>>().join("; ")
}

fn list_refused(refused: &[(String, Refusal)]) -> String {
    refused.iter().map(|(name, refusal)| format!("{name}: {refusal}")).collect::<Vec<_>>().join("; ")
}
