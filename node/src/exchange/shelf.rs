//! What this node holds, as its adverts say it.

use std::sync::Arc;
use std::time::Duration;

use mesh::exchange::policy::Holdings;
use tokio::sync::Mutex;
use vm_images::Store;

use super::owner::own_holdings;
use crate::causes::chain;
use crate::instances::clock::Clock;

/// How old an answer may be. A guess: a second is what the catalogue of services allows itself, and nobody waits for
/// this one.
const MAX_AGE: Duration = Duration::from_secs(2);

/// What a store holds, read from it at most every two seconds. Cheap to clone.
#[derive(Clone)]
pub struct Shelf {
    store: Store,
    clock: Clock,
    seen: Arc<Mutex<Option<Seen>>>,
}

/// When it was looked, and what was there.
type Seen = (Duration, Arc<Holdings>);

impl Shelf {
    /// Of this store.
    pub fn new(store: Store) -> Self {
        Self { store, clock: Clock::start(), seen: Arc::default() }
    }

    /// The image of each service, usable here or not, and the base images; `None` while the store cannot be read,
    /// which is no reason to say that it is empty.
    pub async fn holdings(&self) -> Option<Arc<Holdings>> {
        // Held while the store is read: others wait for that reading rather than start their own.
        let mut seen = self.seen.lock().await;
        let now = self.clock.now();
        if let Some((_, held)) = seen.as_ref().filter(|(at, _)| now < *at + MAX_AGE) {
            return Some(held.clone());
        }
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || own_holdings(&store)).await {
            Ok(Ok(held)) => {
                let held = Arc::new(held);
                *seen = Some((now, held.clone()));
                Some(held)
            }
            Ok(Err(error)) => {
                tracing::warn!(reason = chain(&error), "the images cannot be listed for other cloudlets");
                None
            }
            Err(error) => {
                tracing::error!(%error, "listing the images for other cloudlets panicked");
                None
            }
        }
    }
}
