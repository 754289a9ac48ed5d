//! The other cloudlets.

use axum::Json;
use axum::extract::State;
use handheld::api::Peer;

use super::Api;

/// The cloudlets of the mission that this one knows, itself first; none if it runs without a mesh.
#[utoipa::path(get, path = "/peers", tag = "mission", responses(
    (status = 200, description = "Every cloudlet, also those that are out of reach at present", body = [Peer]),
))]
pub(super) async fn peers(State(api): State<Api>) -> Json<Vec<Peer>> {
    Json(api.peers.as_ref().map(crate::peers::Peers::view).unwrap_or_default())
}
