//! VCDIFF (RFC 3284): says of a file what of it is not in another one that both sides have.
//!
//! Made for memory images: source and target have hundreds of megabytes, most of which is equal at equal offsets. The
//! target is cut into windows of [`WINDOW_BYTES`]; each is coded by itself against a segment of the source:
//!
//! ```text
//! source ──► Index (blocks, by rolling hash) ─┐
//! target ──► window ──► Matcher: copy | run | add ──► three sections (data, instructions, addresses) ──► delta
//! delta  ──► Decoder: one window at a time, copies are read from the source at their offsets ──► target
//! ```
//!
//! * [`Encoder`] writes the default code table and address cache, `VCD_SOURCE` windows and no secondary compression
//!   (the caller packs the whole delta, which is shorter), with the Adler-32 of each window as xdelta3 writes it.
//! * [`Decoder`] is given a delta in pieces of any length. It reads what [`Encoder`], `xdelta3 -e -S none` and others
//!   write, but refuses what would need more than one window in memory (`VCD_TARGET`), foreign code tables and
//!   secondary compression.
//!
//! # Bounds
//!
//! The encoder holds one window, 8 bytes for each slot of its index (at most 128 MiB: [`Index`]), a filter of 8 MiB and a
//! cache of 16 MiB of the source. The decoder holds one window of the target (at most [`Limits::window_bytes`]), the
//! bytes of one coded window (at most three times that and 64 KiB), and the same cache, whatever the delta says. Both
//! allocate for what a delta brings, not for what it promises.

mod adler;
mod cache;
mod code;
mod decode;
mod encode;
mod header;
mod index;
mod matcher;
mod source;
mod varint;

pub use decode::{Decoder, Limits, decode};
pub use encode::{Encoder, Report};
pub use index::Index;
pub use source::{Joined, Source};

use std::io;

/// Length of a window of the target, bytes. xdelta3 refuses windows of 32 MiB and more and has 8 MiB itself (measured).
pub const WINDOW_BYTES: usize = 8 << 20;

/// Why a delta cannot be made or used. What was written until then is the beginning of the target and no more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source could not be read.
    #[error("cannot read the source of a delta")]
    Source(#[source] io::Error),
    /// The delta or, while encoding, the target could not be read.
    #[error("cannot read what is to be coded or decoded")]
    Input(#[source] io::Error),
    /// What came out could not be written.
    #[error("cannot write what was coded or decoded")]
    Output(#[source] io::Error),
    /// The bytes are no VCDIFF.
    #[error("this is no VCDIFF delta")]
    NotVcdiff,
    /// It uses a part of the format that this release does not.
    #[error("the delta uses {0}, which is not supported")]
    Unsupported(&'static str),
    /// It contradicts itself or the source.
    #[error("the delta is damaged: {0}")]
    Damaged(&'static str),
    /// It wants more than is allowed.
    #[error("the delta has {what} of {bytes} bytes; at most {most} are allowed")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// How long it says it is, bytes.
        bytes: u64,
        /// What is allowed, bytes.
        most: u64,
    },
    /// It ended in the middle.
    #[error("the delta ends in the middle of a window")]
    Truncated,
    /// A window came out with another checksum: another source, or damaged.
    #[error("window {window} came out wrong: the source is another one, or the delta is damaged")]
    Checksum {
        /// Number of the window, from 0.
        window: u64,
    },
}

#[cfg(test)]
mod tests;
