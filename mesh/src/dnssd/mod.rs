//! How handhelds find cloudlets: DNS-SD (RFC 6763) over multicast DNS (RFC 6762), service type `_cloudlet._tcp`.
//!
//! A cloudlet publishes its name, the port of its HTTP API and a few hints ([`txt`]); a handheld browses. Any other
//! client works as well: `avahi-browse -rt _cloudlet._tcp`, Android's `NsdManager`, Apple's Bonjour.
//!
//! A client that is in a hurry also asks once by unicast ([`query`]).
//!
//! Which interfaces are used is said by `Interfaces`. The loopback interface is used only when it is named, when
//! nothing else can do multicast (a demo machine without a network), or when the API listens there and nowhere else.

mod found;
pub mod query;
pub mod txt;

#[cfg(feature = "net")]
mod browser;
#[cfg(feature = "net")]
mod error;
#[cfg(feature = "net")]
mod interfaces;
#[cfg(feature = "net")]
mod publisher;

pub use found::{Found, Hints};

#[cfg(feature = "net")]
pub use browser::{Browser, Event, SETTLING, discover};
#[cfg(feature = "net")]
pub use error::{Error, NoMulticast};
#[cfg(feature = "net")]
pub use interfaces::Interfaces;
#[cfg(feature = "net")]
pub use publisher::{Entry, Publisher};

/// The service type, with its domain.
pub const SERVICE_TYPE: &str = "_cloudlet._tcp.local.";
/// Longest instance name that is published, bytes; a DNS label has 63, and ` (4294967295)` may be added to it.
pub const MAX_NAME_BYTES: usize = 50;
