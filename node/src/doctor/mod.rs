//! What this machine can do, and how to fix what is missing.
//!
//! [`gather`] looks at the machine and writes down [`Facts`]; [`examine`] turns facts into findings and touches nothing,
//! so every finding can be tested without a machine that is broken in that way.

use serde::Serialize;

mod examine;
mod facts;
pub mod gather;
pub mod least;

pub use examine::examine;
pub use facts::{Discovery, Disk, Facts, Image, Interface, Memory, Port, StateDir, Tool, Virtualisation};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but worse than it could, or something optional is missing.
    Warn,
    /// A cloudlet cannot do its job like this.
    Fail,
}

impl Status {
    /// The word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What is so.
    pub finding: String,
    /// What to do about it, if there is something to do.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, finding: finding.into(), fix: None }
    }

    fn warn(name: &'static str, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, finding: finding.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, finding: finding.into(), fix: Some(fix.into()) }
    }
}
