//! QEMU's migration stream, split into a memory template and a page-less device stream, and joined again.
//!
//! ```text
//!   QEVM 3 | configuration | ram: block list, pages … | device sections | 00 | description
//!                                   │                        │
//!                     split ┌───────┴────────┐               │ copied as they are
//!                           ▼                ▼               ▼
//!                 template (guest memory     device stream: the same stream without
//!                 at its own offsets)        the pages of the memory block
//! ```
//!
//! A QEMU whose RAM is a private mapping of the template loads the device stream through `migrate-incoming`:
//! the stream names the memory block and its length, and brings no page of it, so the memory simply *is* the
//! template. The pages of all other blocks (firmware, video memory; under 1 MiB) stay in the device stream.
//!
//! * [`split`] and [`join`] are inverse to each other up to the order of pages.
//! * [`Reader`] takes a stream apart into [`Event`]s and [`Writer`] puts events together; whoever needs to do
//!   something else with a stream (a handoff) stands between them as `split` does.
//! * [`SparseTemplate`] is the template as a sparse file; [`TemplateSink`] and [`TemplateSource`] let it be
//!   something else.
//!
//! # Bounds
//!
//! Nothing is allocated by a length that the stream claims without a cap. Whatever the bytes, a [`split`] holds at most
//! [`READ_BUFFER_BYTES`] + [`WRITE_BUFFER_BYTES`] + 2 × [`MAX_DESCRIPTION_BYTES`] + 1 bit for each page of the
//! memory block (8 KiB for a guest of 256 MiB, 8 MiB for the longest, [`MAX_MEMORY_BYTES`]) + 160 KiB for
//! names; a [`SparseTemplate`] holds [`RUN_BYTES`] more. [`join`] holds as much, with its read-ahead of
//! the template ([`RUN_BYTES`]) in place of the bits.
//!
//! The format is QEMU's (`migration/savevm.c`, `migration/ram.c`) and was checked against the streams of QEMU
//! 10.0.2; all numbers are big endian, and pages have 4096 bytes, as every x86 guest's.

mod error;
mod join;
mod page;
mod reader;
mod source;
mod split;
mod tail;
mod template;
mod wire;
mod writer;

pub use error::Error;
pub use join::{Joined, join};
pub use page::{PAGE_BYTES, Page, is_zero};
pub use reader::{Block, Content, Event, Reader, Section};
pub use source::READ_BUFFER_BYTES;
pub(crate) use split::find_block;
pub use split::{MAX_MEMORY_BYTES, Split, split};
pub use tail::MAX_DESCRIPTION_BYTES;
pub use template::{MemoryTemplate, RUN_BYTES, SparseTemplate, TemplateSink, TemplateSource};
pub use writer::{WRITE_BUFFER_BYTES, Writer};
