//! Running Service VMs: the hypervisor behind one trait, suspended images that clones wake up from in a
//! fraction of a second, and the migration stream that both rest on.
//!
//! * [`hypervisor`]: the [`Hypervisor`] trait and its vocabulary; `hypervisor::libvirt` (feature `libvirt`) is
//!   the real one, `hypervisor::fake` (feature `fake`) has no guests but counts, delays and fails on demand.
//! * [`handoff`]: who owns a VM while it moves to another cloudlet. Pure.
//! * [`stream`]: QEMU's migration stream, split into a memory template and a page-less device stream. Pure.
//! * [`reduce`]: what must be sent of a VM to somebody who holds its images, and its restoring there.
//! * [`speed`]: how fast a core of this host is.
//!
//! This crate does not choose where a VM runs and knows nothing about handhelds.

pub mod handoff;
pub mod hypervisor;
mod id;
pub mod reduce;
pub mod speed;
pub mod stream;

pub use hypervisor::Hypervisor;
pub use id::VmId;
