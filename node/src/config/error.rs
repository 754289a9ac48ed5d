//! What can be wrong with a configuration, and where it says so.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// In an environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// In a command-line flag.
    Flag {
        /// The flag as typed, without the value: `--listen`, or `--set api.listen`.
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// The field, as `section.key`, if it is about a known one.
    pub field: Option<String>,
    /// What, for people: names the field, and its range and unit if that is what it misses.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// Why there is no configuration. Nothing has been changed or started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file that was named, or that is in one of the usual places, cannot be read.
    #[error("cannot read the configuration file {path} (named by {named_by})")]
    Read {
        /// The file.
        path: PathBuf,
        /// The flag, variable or convention that led there.
        named_by: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is far too long to be a configuration.
    #[error("{path} is longer than {most} bytes; that is no configuration file")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Longest file that is read, bytes.
        most: u64,
    },
    /// Some values are wrong; all of them are listed.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

impl Error {
    /// What to do next.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Read { .. } => {
                "name another file with --config FILE, or make one: cloudlet config template > FILE"
            }
            Self::TooLong { .. } => "name the right file with --config FILE",
            Self::Invalid(_) => "correct it; 'cloudlet config template' describes every field",
        }
    }

    /// What is wrong with single values.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid(problems) => problems,
            Self::Read { .. } | Self::TooLong { .. } => &[],
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
