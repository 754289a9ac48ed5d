//! Images that the cloudlet fetches from others.

use std::fmt;
use std::time::Duration;

use reqwest::Method;

use super::Client;
use crate::api::{Code, FetchImage, ImageFetch, Instance, Start};
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

    /// As [`Client::start`]; where the cloudlet has to fetch the image from another one first, waits for that and says how far
    /// it is, also when nothing has changed. However long it takes: an error it is when for `limit` nothing has come. The
    /// cloudlet goes on fetching all the same, and a later request finds what came.
    pub async fn start_fetched(
        &self,
        start: &Start,
        limit: Duration,
        told: &(dyn Fn(Fetched) + Sync),
    ) -> Result<Instance, Error> {
        let mut stalled = Stalled { since: now(), last: None };
        loop {
            let mut fetch = match self.start(start).await {
                Err(Error::Refused { refusal, .. }) if refusal.problem.code == Code::Fetching => {
                    refusal.problem.fetching
                }
                answer => return answer,
            };
            loop {
                if let Some(fetch) = &fetch {
                    told(Fetched::of(fetch));
                }
                if stalled.by(&fetch) >= limit {
                    let step = Step::Fetching(fetch.as_deref().map(Fetched::of).unwrap_or_default());
                    return Err(Error::Timeout { step, limit });
                }
                tokio::time::sleep(ASK_INTERVAL).await;
                // A release that does not say which image it fetches is asked for the instance again.
                let Some(known) = fetch.take().filter(|fetch| !fetch.state.is_final()) else { break };
                fetch = Some(Box::new(self.image_fetch(&known.image).await?));
            }
        }
    }
}

/// How far a cloudlet is that fetches the image of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Length of what it fetches now, bytes: the image, or first what the image builds on. 0 before it knows.
    pub total_bytes: u64,
    /// Of these there, bytes.
    pub here_bytes: u64,
}

impl Fetched {
    fn of(fetch: &ImageFetch) -> Self {
        Self { total_bytes: fetch.total_bytes, here_bytes: fetch.here_bytes.min(fetch.total_bytes) }
    }
}

impl fmt::Display for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.here_bytes.saturating_mul(100).checked_div(self.total_bytes) {
            Some(percent) => write!(f, "{percent} % of {} MB", self.total_bytes.div_ceil(1_000_000)),
            None => f.write_str("not begun"),
        }
    }
}

/// For how long nothing has changed.
struct Stalled {
    since: std::time::Instant,
    last: Option<Box<ImageFetch>>,
}

impl Stalled {
    fn by(&mut self, fetch: &Option<Box<ImageFetch>>) -> Duration {
        if *fetch != self.last {
            *self = Self { since: now(), last: fetch.clone() };
        }
        self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_said_as_people_say_them() {
        assert_eq!(
            Fetched { total_bytes: 212_400_000, here_bytes: 80_000_000 }.to_string(),
            "37 % of 213 MB"
        );
        assert_eq!(Fetched::default().to_string(), "not begun");
    }
}
