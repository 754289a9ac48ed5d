//! Who is out there, and who serves best.
//!
//! * [`NodeId`]: the name of a cloudlet.
//! * [`advert`]: what a cloudlet says of itself; [`wire`]: how that travels between cloudlets.
//! * [`selection`]: which of several cloudlets serves a need best, and why the others do not. Pure, so the
//!   handheld, the node and the simulator decide alike.
//! * [`dnssd`]: how handhelds find cloudlets. The TXT record is pure; with feature `net` there are a
//!   publisher and a browser that speak multicast DNS.
//!
//! **Invariant:** without feature `net` this crate opens no socket and no file and reads no clock.

#![forbid(unsafe_code)]

pub mod advert;
pub mod dnssd;
pub mod node_id;
pub mod selection;
pub mod wire;

pub use advert::{Advert, Summary};
pub use node_id::NodeId;
