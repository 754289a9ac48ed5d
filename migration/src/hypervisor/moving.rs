//! What a hypervisor must be able to do with a VM that moves while it runs.
//!
//! ```text
//!  source:       Running ──stream_out──► Running, streaming ──freeze──► paused ──stream_out──► paused, all of it was sent
//!                   ▲                          │                          │                          │
//!                   └──────────────────────────┴───────── resume ─────────┴──────────────────────────┘ or stop
//!  destination:  prepare ──► waits for its state ──load──► paused ──resume──► Running
//! ```

use std::io::Read;

use super::{CloneSpec, Error, Hypervisor};
use crate::VmId;

/// Name of the memory in the streams of VMs that this project starts.
pub const MEMORY_BLOCK: &str = "cram";

/// A hypervisor whose VMs can move.
pub trait Moving: Hypervisor {
    /// Begins to stream a VM's memory and devices out. A reader that is slow slows the stream down, not the guest.
    ///
    /// Of a paused guest it is all of its state, and then ends. While the guest runs on it is all of its memory once, then what
    /// was changed, again and again without an end; that brings most pages early, but is never the whole truth. Dropping
    /// the stream ends it; the VM stays as it is, running or paused.
    fn stream_out(&self, vm: VmId) -> Result<Box<dyn Read + Send>, Error>;

    /// How eagerly changes are looked for. At full pace that takes a processor, also when there are none.
    fn pace(&self, vm: VmId, pace: Pace) -> Result<(), Error>;

    /// Ends a stream that is under way, pauses the guest and writes its disk back.
    fn freeze(&self, vm: VmId) -> Result<(), Error>;

    /// Lets the guest run (on), whatever it was paused for; ends a stream that is under way.
    fn resume(&self, vm: VmId) -> Result<(), Error>;

    /// Starts a VM that waits for its state, which takes longer than loading it. The template is mapped; the disk must
    /// be there, but only its backing file counts: it may be written ([`LayerWriter::overwrite`]) until the state is
    /// loaded. The device stream need not be there. A hypervisor that starts a VM in no time does nothing.
    ///
    /// [`LayerWriter::overwrite`]: vm_images::qcow2::LayerWriter::overwrite
    fn prepare(&self, _: &CloneSpec) -> Result<(), Error> {
        Ok(())
    }

    /// Loads the state into a VM that was [prepared](Moving::prepare) with this same `spec`, and leaves it paused as
    /// [`Moving::clone_paused`] does. On error nothing of the VM is left.
    fn load(&self, spec: &CloneSpec) -> Result<(), Error> {
        self.clone_paused(spec)
    }

    /// Wakes a clone up as [`Hypervisor::clone_from`] does, but leaves it paused: all of its state is loaded, and not one instruction
    /// is executed before [`Moving::resume`]. The device stream may bring pages that differ from the template.
    fn clone_paused(&self, spec: &CloneSpec) -> Result<(), Error>;
}

/// How eagerly changes of a streaming VM are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the stream is read.
    Full,
    /// Hardly: the link is down, or the contact is too short for this VM.
    Waiting,
}
