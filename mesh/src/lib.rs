//! Who is out there, and who serves best.
//!
//! * [`NodeId`]: the name of a cloudlet.
//! * [`advert`]: what a cloudlet says of itself; [`wire`]: how that travels between cloudlets.
//! * [`crowd`]: how many connections strangers may have before they prove themselves. Pure.
//! * [`exchange`]: fetching images from one another: what to ask whom for, frames, pace, what to replicate. Pure.
//! * [`membership`]: who is in the mesh, and how that spreads. Pure. `swarm` (feature `swarm`) drives it with libp2p.
//! * [`placement`]: whether a running service should move to another cloudlet, and why. Pure, as selection is.
//! * [`selection`]: which of several cloudlets serves a need best, and why the others do not. Pure, so the
//!   handheld, the node and the simulator decide alike.
//! * [`dnssd`]: how handhelds find cloudlets. The TXT record is pure; with feature `net` there are a
//!   publisher and a browser that speak multicast DNS.
//! * `trust` (feature `trust`): who belongs to the mission and what they may do, with no authority online.
//!
//! **Invariant:** without features this crate opens no socket and no file and reads no clock.

#![forbid(unsafe_code)]

pub mod advert;
pub mod crowd;
pub mod dnssd;
pub mod exchange;
pub mod membership;
pub mod node_id;
pub mod placement;
pub mod selection;
#[cfg(feature = "swarm")]
pub mod swarm;
#[cfg(feature = "trust")]
pub mod trust;
pub mod wire;

pub use advert::{Advert, Summary};
pub use node_id::NodeId;
