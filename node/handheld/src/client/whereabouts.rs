//! Whether a cloudlet has an instance, or knows where it went.

use std::time::Duration;

use mesh::NodeId;
use reqwest::{Method, StatusCode};
use uuid::Uuid;

use super::Client;
use crate::api::{Gone, Instance, Moved};
use crate::{Access, Error, http};

/// What a cloudlet says when it is asked for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// It is here.
    Here(Instance),
    /// It was here.
    Moved(Moved),
}

impl Client {
    /// The cloudlet `node` at `url`; whoever else answers there is not spoken to.
    pub(crate) fn pinned(access: &Access, url: &str, node: NodeId) -> Result<Self, Error> {
        let checked = Self::with(access, url)?;
        if checked.relay.is_some() {
            return Ok(checked);
        }
        Ok(Self::direct(http::client(access, None, Some(node))?, checked.base))
    }

    /// Asks for an instance as the one that uses it, for at most `limit`.
    pub(crate) async fn whereabouts(
        &self,
        id: Uuid,
        client_token: &str,
        limit: Duration,
    ) -> Result<Whereabouts, Error> {
        const DOING: &str = "say whether it has an instance";
        let request = self.request(Method::GET, &format!("/instances/{id}"));
        let request = request.query(&[("client_token", client_token)]).timeout(limit);
        let response = request.send().await.map_err(|source| self.vanished(DOING, source))?;
        self.note_peer(&response);
        match response.status() {
            StatusCode::GONE => {
                let bytes = self.body(DOING, response).await?;
                let gone: Option<Gone> = serde_json::from_slice(&bytes).ok();
                let moved = gone.and_then(Gone::moved).filter(|moved| moved.instance == id);
                moved
                    .map(Whereabouts::Moved)
                    .ok_or_else(|| self.protocol(DOING, "410 without a place".to_owned()))
            }
            status if status.is_success() => {
                let bytes = self.body(DOING, response).await?;
                let instance = serde_json::from_slice(&bytes);
                instance.map(Whereabouts::Here).map_err(|error| self.protocol(DOING, error.to_string()))
            }
            _ => Err(self.refusal(DOING, response).await),
        }
    }
}
