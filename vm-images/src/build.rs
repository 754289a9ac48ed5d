//! What of a recipe the host does: root disks for base images, payload disks for Service VM images.
//!
//! Starting the guest, installing the payload in it and suspending it is the caller's business; it owns a
//! hypervisor. A build goes like this:
//!
//! ```text
//! Recipe::load ─► Recipe::digest ─► Store::find_by_recipe ─► there already: done
//!                                        │ nothing
//!                                        ▼
//! base:     Store::begin ─► root_disk ─► (caller: boot, prepare, suspend) ─► Draft::publish
//! service:  Store::begin ─► payload   ─► (caller: clone, install, warm up, prepare, suspend) ─► Draft::publish
//! ```

mod command;
mod digest;
mod error;
mod payload;
pub mod recipe;
mod root_disk;

pub use command::Cancel;
pub use error::Error;
pub use payload::payload;
pub use recipe::Recipe;
pub use root_disk::root_disk;

const MIB: u64 = 1024 * 1024;
