//! The services on offer, read from the store at most once a second: an image that was just built is found without a
//! restart, and a burst of requests reads the disk once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use vm_images::ServiceId;

use super::images::{Error, Images, Offer};

/// How old a list may be. Guess.
const MAX_AGE: Duration = Duration::from_secs(1);

/// How old it may be where a service is missing. Guess: reading the disk ten times a second is no burden.
const LEAST_AGE: Duration = Duration::from_millis(100);

/// The services on offer.
#[derive(Clone)]
pub struct Catalogue {
    images: Arc<dyn Images>,
    list: Arc<Mutex<Option<List>>>,
}

#[derive(Clone)]
struct List {
    read_at: Instant,
    offers: Arc<Vec<Offer>>,
    guest_systems: Arc<BTreeSet<String>>,
}

impl Catalogue {
    /// A catalogue of these images.
    pub fn new(images: Arc<dyn Images>) -> Self {
        Self { images, list: Arc::default() }
    }

    /// Every service on offer.
    pub async fn offers(&self) -> Result<Arc<Vec<Offer>>, Error> {
        Ok(self.read(MAX_AGE).await?.offers)
    }

    /// Systems of all images, as `ID-VERSION_ID` of os-release.
    pub async fn guest_systems(&self) -> Result<Arc<BTreeSet<String>>, Error> {
        Ok(self.read(MAX_AGE).await?.guest_systems)
    }

    async fn read(&self, max_age: Duration) -> Result<List, Error> {
        // Held while the store is read: others wait for that reading rather than start their own.
        let mut list = self.list.lock().await;
        if let Some(list) = list.as_ref().filter(|list| list.read_at.elapsed() < max_age) {
            return Ok(list.clone());
        }
        let images = self.images.clone();
        let read =
            tokio::task::spawn_blocking(move || Ok::<_, Error>((images.offers()?, images.guest_systems()?)))
                .await;
        let (offers, guest_systems) = read.map_err(|panic| -> Error { Arc::new(panic) })??;
        let new = List {
            read_at: Instant::now(),
            offers: Arc::new(offers),
            guest_systems: Arc::new(guest_systems),
        };
        *list = Some(new.clone());
        Ok(new)
    }

    /// One service. One that is missing is looked for again: it may have come since the list was read.
    pub async fn find(&self, service: &ServiceId) -> Result<Option<Offer>, Error> {
        let found = |offers: &[Offer]| offers.iter().find(|offer| offer.service.id == *service).cloned();
        match found(&self.offers().await?) {
            None => Ok(found(&self.read(LEAST_AGE).await?.offers)),
            offer => Ok(offer),
        }
    }
}
