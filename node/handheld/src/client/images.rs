//! Images that the cloudlet fetches from others.

use std::time::Duration;

use reqwest::Method;

use super::Client;
use crate::api::{Code, FetchImage, ImageFetch, Instance, Start};
use crate::{Error, Step};

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

    /// As [`Client::start`]; where the cloudlet has to fetch the image from another one first, waits for that, for at
    /// most `limit`. On a timeout it goes on fetching, and a later request finds what came.
    pub async fn start_fetched(&self, start: &Start, limit: Duration) -> Result<Instance, Error> {
        let starting = async {
            loop {
                match self.start(start).await {
                    Err(Error::Refused { refusal, .. }) if refusal.problem.code == Code::Fetching => {
                        if let Some(fetch) = refusal.problem.fetching {
                            self.fetched(&fetch.image).await?;
                        }
                    }
                    answer => return answer,
                }
            }
        };
        match tokio::time::timeout(limit, starting).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { step: Step::Fetching, limit }),
        }
    }

    /// Waits until the fetching of an image has ended, in whatever way.
    async fn fetched(&self, image: &str) -> Result<(), Error> {
        loop {
            tokio::time::sleep(ASK_INTERVAL).await;
            let fetch = self.image_fetch(image).await?;
            tracing::debug!(
                cloudlet = self.url(),
                here_bytes = fetch.here_bytes,
                total_bytes = fetch.total_bytes,
                "it fetches the image"
            );
            if fetch.state.is_final() {
                return Ok(());
            }
        }
    }
}
