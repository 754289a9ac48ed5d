//! Images that the cloudlet fetches from others.

use std::fmt;
use std::time::Duration;

use reqwest::Method;

use super::Client;
use crate::api::{FetchImage, ImageFetch, Instance, State};
use crate::{Error, Step, now};

/// Below the API's prefix.
const FETCHES: &str = "/images/fetches";
/// How often it is asked how far an image is. A guess: fetching takes seconds to minutes.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

impl Client {
    /// Has it fetch an image from other cloudlets; answers at once. For operators. May be repeated.
    pub async fn fetch_image(&self, ask: &FetchImage) -> Result<ImageFetch, Error> {
        self.ask("fetch an image", self.request(Method::POST, FETCHES).json(ask)).await
    }

    /// What it fetches and has fetched lately.
    pub async fn image_fetches(&self) -> Result<Vec<ImageFetch>, Error> {
        self.ask("list what it fetches", self.request(Method::GET, FETCHES)).await
    }

    /// How far the fetching of an image is, by its whole id.
    pub async fn image_fetch(&self, image: &str) -> Result<ImageFetch, Error> {
        let path = format!("{FETCHES}/{image}");
        self.ask("say how far an image is", self.request(Method::GET, &path)).await
    }

    /// Ends the fetching of an image; what came stays. For operators.
    pub async fn cancel_image_fetch(&self, image: &str) -> Result<ImageFetch, Error> {
        let path = format!("{FETCHES}/{image}");
        self.ask("end the fetching of an image", self.request(Method::DELETE, &path)).await
    }

    /// Waits until the image of `instance` has come from another cloudlet, if it is on its way, and says how far it is. However
    /// long it takes: an error it is when for `limit` nothing has come. Whoever waits no more releases the instance.
    pub async fn wait_fetched(
        &self,
        mut instance: Instance,
        client_token: &str,
        limit: Duration,
        told: &(dyn Fn(Fetched) + Sync),
    ) -> Result<Instance, Error> {
        let (mut since, mut silences) = (now(), 0);
        while instance.state == State::Fetching {
            let so_far = instance.fetching.as_deref().map(Fetched::of).unwrap_or_default();
            told(so_far.clone());
            if since.elapsed() >= limit {
                return Err(Error::Timeout { step: Step::Fetching(so_far), limit });
            }
            tokio::time::sleep(ASK_INTERVAL).await;
            let asked = match self.instance_in_use(instance.id, client_token).await {
                Err(Error::Vanished { .. }) if silences + 1 < super::MAX_SILENCES => {
                    silences += 1;
                    continue;
                }
                answer => answer?,
            };
            silences = 0;
            if asked != instance {
                since = now();
            }
            instance = asked;
        }
        Ok(instance)
    }
}

/// How far a cloudlet is that fetches the image of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Length of what it fetches now, bytes: the image, or first what the image builds on. 0 before it knows.
    pub total_bytes: u64,
    /// Of these there, bytes.
    pub here_bytes: u64,
    /// Names of the cloudlets that gave any of it.
    pub from: Vec<String>,
}

impl Fetched {
    /// Of what the cloudlet says.
    pub fn of(fetch: &ImageFetch) -> Self {
        Self {
            total_bytes: fetch.total_bytes,
            here_bytes: fetch.here_bytes.min(fetch.total_bytes),
            from: fetch.from.iter().map(|one| one.name.clone()).collect(),
        }
    }
}

impl fmt::Display for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.here_bytes.saturating_mul(100).checked_div(self.total_bytes) {
            Some(percent) => write!(f, "{percent} % of {} MB", self.total_bytes.div_ceil(1_000_000))?,
            None => f.write_str("not begun")?,
        }
        if self.from.is_empty() { Ok(()) } else { write!(f, " from {}", self.from.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_said_as_people_say_them() {
        let from = vec!["one".to_owned(), "two".to_owned()];
        let fetched = Fetched { total_bytes: 212_400_000, here_bytes: 80_000_000, from };
        assert_eq!(fetched.to_string(), "37 % of 213 MB from one, two");
        assert_eq!(Fetched::default().to_string(), "not begun");
    }
}
