//! Client library for handhelds: discover cloudlets, choose one, start a service there, wait until it is ready,
//! use it, release it.
//!
//! The whole way in one call:
//!
//! ```no_run
//! use handheld::{Options, run_service, speech};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let wav = std::fs::read("order.wav")?;
//! let options = Options::new("speech".parse()?);
//! let done = run_service(&options, &|step| eprintln!("{step}"), async |session| {
//!     speech::recognize(session.address(), wav).await
//! })
//! .await?;
//! println!("{} (ready after {} ms)", done.result.text, done.timing.ready_ms);
//! # Ok(())
//! # }
//! ```
//!
//! Or step by step, with a [`Client`] of one cloudlet. This example runs against a stand-in for a cloudlet:
//!
//! ```
//! use axum::{Json, Router, routing::get};
//! use handheld::{Client, api};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let load = api::Load { cpu_used_millis: 0, cpu_total_millis: 2000, memory_free_bytes: 1 << 30,
//! #     memory_total_bytes: 1 << 30, instances: 0, queue_length: 0 };
//! # let stand_in = api::Cloudlet { api_version: api::VERSION, node_id: "8c".repeat(16), name: "alpha".to_owned(),
//! #     software: "0.1.0".to_owned(), accelerator: "kvm".to_owned(), load, fetchable: vec![], services: vec!["speech".parse()?],
//! #     standing: Default::default() };
//! let app = Router::new().route("/api/v1/cloudlet", get(|| async { Json(stand_in) }));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! tokio::spawn(async { axum::serve(listener, app).await });
//!
//! let client = Client::at(address)?;
//! let cloudlet = client.cloudlet().await?;
//! assert_eq!(cloudlet.name, "alpha");
//! assert_eq!(cloudlet.services[0].as_str(), "speech");
//! # Ok(())
//! # }
//! ```
//!
//! * [`api`]: the wire types of the cloudlet's HTTP API.
//! * [`Client`]: one cloudlet's API.
//! * [`discover`]: cloudlets on the link that really answered; [`survey`] and [`choose`]: which serves best.
//! * [`Memory`]: what is remembered from one use to the next.
//! * [`Endpoint`]: a local address for a service that only members reach; [`beyond`]: cloudlets behind others.
//! * [`Follow`]: a local address at which a service answers wherever it runs, also after a handoff.
//! * [`Session`], [`run_service`]: the whole way, with its [`Timing`].
//! * [`speech`]: the protocol of the sample service.
//!
//! There is no libvirt below this crate, and nothing in it needs root.

#![forbid(unsafe_code)]

mod access;
pub mod api;
mod client;
mod discovery;
mod endpoint;
mod error;
mod events;
pub mod follow;
mod http;
pub mod memory;
mod pair;
mod relay;
pub mod selection;
mod session;
pub mod speech;

pub use access::Access;
pub use client::{Client, Fetched};
pub use discovery::{Behind, DISCOVERY_LIMIT, Reachable, Search, discover, published, reach};
pub use endpoint::{Endpoint, Way};
pub use error::{Error, Refusal};
pub use events::Events;
pub use follow::Follow;
pub use memory::Memory;
pub use pair::{PairError, Paired, Where, pair};
pub use relay::{MAX_RELAYS, beyond};
pub use selection::{Here, Surveyed, Wanted, choose, survey};
pub use session::{Done, Options, RunError, Session, Starting, Step, Timing, find, run_service};

#[expect(clippy::disallowed_methods, reason = "a client measures how long the real world takes")]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Time since 1970 by this device's clock; zero if that stands before it.
#[expect(clippy::disallowed_methods, reason = "what is remembered over restarts has no other clock")]
pub fn unix_now() -> std::time::Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Whole milliseconds since `start`.
pub(crate) fn ms_since(start: std::time::Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
