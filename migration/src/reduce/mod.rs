//! Sends of a running VM only what the other side cannot make itself.
//!
//! Both sides hold images: disks and memory templates. A clone's memory is mostly its template; most of what differs is
//! page cache, so blocks of the disk; what is left differs from the template in few bytes. So for each 4 KiB page:
//!
//! ```text
//!  QEMU's stream, or the clusters of a qcow2 layer
//!        │ page at its place
//!        ▼
//!  as the other side has it already? ───────────► nothing
//!  all zero? ───────────────────────────────────► "zero"                         ┐
//!  what lies there in the base (template, disk)? ► "base", if it was not before  │ runs in a
//!  a block of an image that both hold? ─────────► where it lies                  ├ directory
//!  sent in this handoff, also before a cut? ────► its number                     │
//!  changes again and again? ────────────────────► held back to the end           ┘
//!  else ────────────────────────────────────────► raw, or XOR with the base or with what was sent of it before
//!
//!  groups of such pages ─► zstd or LZMA2, as hard as keeps processor and link equally busy ─► frames
//! ```
//!
//! * [`Source`] makes [`Frame`]s of a VM; [`Sink`] takes them and writes a stream for the destination's QEMU (which
//!   maps the template privately) and a qcow2 layer. Neither opens a socket or knows phases: a handoff does.
//! * Pages that were sent have numbers, and the sink keeps them in a file ([`Arrived`]) through cuts and restarts.
//!   After one, it says which it has ([`Sink::have`]), and the next source refers to them.
//! * The sink checks what it restored, page by page, against one hash ([`Differences`]) that the source made of what
//!   QEMU gave it: of every block that differs from the base. The base itself has its digest in a signed manifest.
//! * Deciding is pure: `Classifier` (which of the above), [`hold`] (what to hold back), [`level`] (how hard to pack).
//!
//! # Bounds
//!
//! A source holds at most, with `n` workers: 2 MiB of pages for each of `2 n + 2` groups, `n` packers (13 MiB each at
//! the highest level), [`hold::MOST_PAGES`] held pages (16 MiB), 2048 that were sent (8 MiB), and about 90 bytes for each page that differs from its
//! base. With two workers and a guest of 1 GiB that has changed half of its memory: 74 MiB, with one 57 MiB. A slow link makes `send` of
//! the outlet slow, that makes groups wait, and QEMU finds its socket full: nothing is queued without bound.
//! A sink holds one group, the device stream, and about 70 bytes for each block that differs.

mod arrived;
mod base;
mod classify;
mod device;
mod differences;
mod directory;
mod disk;
mod error;
pub mod hold;
mod images;
pub mod level;
mod pack;
mod pipeline;
mod restore;
mod sink;
mod source;
mod versions;
mod whole;
mod wire;

pub use arrived::Arrived;
pub use base::{Base, DiskBase, TemplateBase};
pub use differences::{Differences, PageHash};
pub use error::{Error, WireError};
pub use images::{Images, KnownPart};
pub use pipeline::Outlet;
pub use restore::Restored;
pub use sink::Sink;
pub use source::{Config, Live, Report, Source};
pub use whole::digest;
pub use wire::{Frame, MAX_FRAME_BYTES, Space, VERSION};

use crate::stream::Page;

/// Bytes of a block.
const BLOCK_BYTES: usize = vm_images::index::BLOCK_BYTES;
/// Most pages whose content one group brings: 1 MiB. What the speech VM has changed packs to a ninth of it, which a link of
/// 64 kbit/s carries in a quarter of a minute. A guess: longer ones pack better, and more is lost when the link is cut.
const GROUP_PAGES: usize = 256;

/// A page as it is kept.
type Kept = Box<Page>;

fn new_page() -> Kept {
    Box::new([0; BLOCK_BYTES])
}
