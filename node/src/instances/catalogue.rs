//! The services on offer, read from the store at most once a second: an image that was just built is found without a
//! restart, and a burst of requests reads the disk once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use vm_images::ServiceId;

use super::images::{Error, Images, Offer};

/// How old a list may be. Guess.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The services on offer.
#[derive(Clone)]
pub struct Catalogue {
    images: Arc<dyn Images>,
    list: Arc<Mutex<Option<List>>>,
}

struct List {
    read_at: Instant,
    offers: Arc<Vec<Offer>>,
}

impl Catalogue {
    /// A catalogue of these images.
    pub fn new(images: Arc<dyn Images>) -> Self {
        Self { images, list: Arc::default() }
    }

    /// Every service on offer.
    pub async fn offers(&self) -> Result<Arc<Vec<Offer>>, Error> {
        // Held while the store is read: others wait for that reading rather than start their own.
        let mut list = self.list.lock().await;
        if let Some(list) = list.as_ref().filter(|list| list.read_at.elapsed() < MAX_AGE) {
            return Ok(list.offers.clone());
        }
        let images = self.images.clone();
        let read = tokio::task::spawn_blocking(move || images.offers()).await;
        let offers = Arc::new(read.map_err(|panic| -> Error { Arc::new(panic) })??);
        *list = Some(List { read_at: Instant::now(), offers: offers.clone() });
        Ok(offers)
    }

    /// One service.
    pub async fn find(&self, service: &ServiceId) -> Result<Option<Offer>, Error> {
        Ok(self.offers().await?.iter().find(|offer| offer.service.id == *service).cloned())
    }
}
