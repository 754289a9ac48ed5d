//! What is wrong with a stream, and where in it.

use std::io;

/// Failure to split or join a stream.
///
/// The outputs then hold rubbish, which the caller removes. Every `at` is an offset in the stream that was read, bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream cannot be read.
    #[error("cannot read the migration stream at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The stream ends too early: it was cut, or QEMU failed while it wrote it.
    #[error(
        "the migration stream ends at byte {at}, where {expected} should follow; suspend the guest again"
    )]
    Truncated {
        /// Its length.
        at: u64,
        /// What is missing.
        expected: &'static str,
    },
    /// It is no migration stream, or one of another format version.
    #[error("byte {at} is not that of a migration stream: {what} expected, found {found:#x}")]
    NotAStream {
        /// Where.
        at: u64,
        /// What should be there.
        what: &'static str,
        /// What is there.
        found: u64,
    },
    /// QEMU wrote it with a migration capability that this release does not switch on.
    #[error(
        "at byte {at} the migration stream has {found} of a capability that is not switched on: {capability}"
    )]
    Capability {
        /// Where.
        at: u64,
        /// Flag, command or section.
        found: String,
        /// QEMU's name of the capability.
        capability: String,
    },
    /// It contradicts itself.
    #[error("the migration stream is damaged at byte {at}: {what}")]
    Malformed {
        /// Where.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// It is well formed, and too large for this release's bounds.
    #[error("at byte {at} the migration stream has {what}: {value}, this release takes at most {most}")]
    TooLarge {
        /// Where.
        at: u64,
        /// What is too large.
        what: &'static str,
        /// How large it is.
        value: u64,
        /// The bound.
        most: u64,
    },
    /// The guest has no memory block of that name.
    #[error(
        "at byte {at} the migration stream lists the memory blocks {found}, and no '{wanted}'; start the guest with it as memory backend"
    )]
    NoSuchBlock {
        /// Where the list is.
        at: u64,
        /// The block that was asked for.
        wanted: String,
        /// Those that there are.
        found: String,
    },
    /// The template cannot be written or read.
    #[error("byte {at} of the migration stream: cannot {doing} the memory template")]
    Template {
        /// How far the stream was read.
        at: u64,
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The template belongs to another device stream.
    #[error(
        "the memory template has {template_bytes} bytes and the device stream wants {block_bytes} (byte {at}); they are not of the same suspension"
    )]
    OtherTemplate {
        /// Where the block is listed.
        at: u64,
        /// Length of the template.
        template_bytes: u64,
        /// Length of the memory block.
        block_bytes: u64,
    },
    /// The output cannot be written.
    #[error("byte {at} of the migration stream: cannot write it on")]
    Write {
        /// How far the stream was read.
        at: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// How far the stream was read, bytes.
    pub fn offset(&self) -> u64 {
        match *self {
            Self::Read { at, .. }
            | Self::Truncated { at, .. }
            | Self::NotAStream { at, .. }
            | Self::Capability { at, .. }
            | Self::Malformed { at, .. }
            | Self::TooLarge { at, .. }
            | Self::NoSuchBlock { at, .. }
            | Self::Template { at, .. }
            | Self::OtherTemplate { at, .. }
            | Self::Write { at, .. } => at,
        }
    }

    pub(super) fn malformed(at: u64, what: impl Into<String>) -> Self {
        Self::Malformed { at, what: what.into() }
    }
}
