//! Takes in the connections of programs on this device.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::shared::Shared;
use super::{Mode, tcp, web};

/// Most connections at a time; further ones wait in the system's queue. Guess: eight browsers and their tabs.
const MAX_CONNECTIONS: usize = 1024;
/// Pause after the system refused to accept, which is because it has no descriptors left. Guess.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until dropped; the connections end with it.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((local, _)) => {
                    let shared = shared.clone();
                    match shared.settings.mode {
                        Mode::Http => connections.spawn(web::carry(shared, local)),
                        Mode::Tcp => connections.spawn(tcp::carry(shared, local)),
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => if let Err(panic) = ended {
                tracing::error!(%panic, "a local connection panicked");
            },
        }
    }
}
