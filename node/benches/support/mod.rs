//! What the benchmark is made of.

pub mod cold;
pub mod daemon;
pub mod figures;
pub mod memory;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

/// How long anything may take before the benchmark gives up.
pub const LIMIT: Duration = Duration::from_secs(180);

/// The moment.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The image store of `make`.
pub fn image_store() -> anyhow::Result<PathBuf> {
    if let Some(store) = std::env::var_os("CLOUDLET_NODE__IMAGE_STORE") {
        return Ok(store.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(cache.or(home).context("neither CLOUDLET_NODE__IMAGE_STORE nor HOME is set")?.join("cloudlet/images"))
}

/// Asks the service's health check until it answers 200.
pub async fn until_healthy(address: SocketAddr, path: &str) -> anyhow::Result<()> {
    let never = tokio_util::sync::CancellationToken::new();
    node::instances::health::until_ok(address, path, LIMIT, &never).await.map_err(anyhow::Error::msg)
}
