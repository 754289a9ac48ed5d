//! Whether and where to instances move. Most of it is for operators.

use reqwest::Method;
use uuid::Uuid;

use super::Client;
use crate::Error;
use crate::api::{Evacuate, Evacuation, ForceHandoff, Handoff, HandoffPlan, Placement};

/// Below the API's prefix.
const EVACUATION: &str = "/evacuation";

impl Client {
    /// What it would cost to send an instance to another cloudlet, by node id or name. Nothing moves.
    pub async fn plan_handoff(&self, instance: Uuid, to: &str) -> Result<HandoffPlan, Error> {
        let request = self.request(Method::GET, &format!("/instances/{instance}/handoff/plan"));
        self.ask("say what a handoff would cost", request.query(&[("to", to)])).await
    }

    /// Has an instance serve on here whose destination is gone **for good**: the caller vouches for that. If it is not, two
    /// copies serve until the cloudlets meet. For operators.
    pub async fn force_handoff(&self, instance: Uuid) -> Result<Handoff, Error> {
        let ask = ForceHandoff { destination_is_gone_for_good: true };
        let request = self.request(Method::POST, &format!("/instances/{instance}/handoff/force")).json(&ask);
        self.ask("have an instance serve on whose destination is gone", request).await
    }

    /// Has the cloudlet take nobody new and send every instance away; answers at once. For operators.
    pub async fn evacuate(&self, ask: &Evacuate) -> Result<Evacuation, Error> {
        self.ask("evacuate", self.request(Method::POST, EVACUATION).json(ask)).await
    }

    /// How far the newest evacuation is.
    pub async fn evacuation(&self) -> Result<Evacuation, Error> {
        self.ask("say how far an evacuation is", self.request(Method::GET, EVACUATION)).await
    }

    /// Ends an evacuation; what has not left stays. For operators.
    pub async fn cancel_evacuation(&self) -> Result<Evacuation, Error> {
        self.ask("end an evacuation", self.request(Method::DELETE, EVACUATION)).await
    }

    /// Has every instance go back to the cloudlet that it was first started at; answers at once. For operators.
    pub async fn reintegrate(&self) -> Result<Vec<Handoff>, Error> {
        self.ask("send instances home", self.request(Method::POST, "/reintegration")).await
    }

    /// What was decided last of where instances should be, and why.
    pub async fn placement(&self) -> Result<Placement, Error> {
        self.ask("say where instances should be", self.request(Method::GET, "/placement")).await
    }
}
