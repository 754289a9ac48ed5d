//! Instances that move to other cloudlets.

use reqwest::Method;
use uuid::Uuid;

use super::Client;
use crate::Error;
use crate::api::{Handoff, HandoffTo, Priority};

impl Client {
    /// Sends an instance to another cloudlet, by node id or name; answers at once. For operators.
    pub async fn hand_off(&self, instance: Uuid, to: &str) -> Result<Handoff, Error> {
        self.hand_off_with(instance, to, Priority::default()).await
    }

    /// The same, before or after others that go there.
    pub async fn hand_off_with(
        &self,
        instance: Uuid,
        to: &str,
        priority: Priority,
    ) -> Result<Handoff, Error> {
        let ask = HandoffTo { to: to.to_owned(), priority };
        let request = self.request(Method::POST, &path(instance)).json(&ask);
        self.ask("send an instance to another cloudlet", request).await
    }

    /// How far the newest handoff of an instance is.
    pub async fn handoff(&self, instance: Uuid) -> Result<Handoff, Error> {
        self.ask("say how far a handoff is", self.request(Method::GET, &path(instance))).await
    }

    /// Stops a handoff. For operators.
    pub async fn cancel_handoff(&self, instance: Uuid) -> Result<Handoff, Error> {
        self.ask("stop a handoff", self.request(Method::DELETE, &path(instance))).await
    }
}

fn path(instance: Uuid) -> String {
    format!("/instances/{instance}/handoff")
}
