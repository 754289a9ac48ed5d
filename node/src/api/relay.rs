//! The way to another cloudlet's API through this one; see [`crate::peers`] for what travels on it.

use axum::extract::{ConnectInfo, Path, State};
use axum::response::Response;
use handheld::api::{Code, Problem};
use mesh::NodeId;
use mesh::swarm::StreamError;

use super::Api;
use super::gate::Standing;
use super::problem::Failure;
use super::tunnel::Upgrade;

/// A connection to the API of another cloudlet.
///
/// Ask with `Connection: Upgrade` and `Upgrade: cloudlet-tcp`. What goes through it is TLS between the client and that
/// cloudlet, which decides by itself whom it lets in.
#[utoipa::path(get, path = "/peers/{node_id}/tunnel", tag = "mission", params(
    ("node_id" = String, Path, description = "Node id of the other cloudlet"),
), responses(
    (status = 101, description = "From here on, the connection carries the bytes of a connection to the other API"),
    (status = 400, description = "That is this cloudlet itself (`bad-request`)", body = Problem),
    (status = 404, description = "No cloudlet of that id is known here (`unknown-peer`)", body = Problem),
    (status = 409, description = "This cloudlet knows no others (`no-mission`)", body = Problem),
    (status = 426, description = "The headers that ask for a tunnel are missing (`bad-request`)", body = Problem),
    (status = 429, description = "This member has too many tunnels (`too-many-tunnels`)", body = Problem),
    (status = 502, description = "The other cloudlet cannot be reached (`unreachable`)", body = Problem),
))]
pub(super) async fn relay(
    State(api): State<Api>,
    ConnectInfo(standing): ConnectInfo<Standing>,
    Path(id): Path<String>,
    upgrade: Upgrade,
) -> Result<Response, Failure> {
    let alone = || Failure::new(Code::NoMission, "this cloudlet runs without others (mesh.enabled)");
    let peers = api.peers.clone().ok_or_else(alone)?;
    let unknown = || {
        let id: String = id.chars().take(80).collect();
        Failure::new(
            Code::UnknownPeer,
            format!("no cloudlet '{id}' is known here; GET /api/v1/peers lists them"),
        )
    };
    let node: NodeId = id.parse().map_err(|_| unknown())?;
    if node == peers.node() {
        return Err(Failure::new(Code::BadRequest, "that is this cloudlet itself; ask it directly"));
    }
    if !peers.members().contains_key(&node) {
        return Err(unknown());
    }
    let place = api.tunnel_place(&standing)?;
    let mut stream = peers.open_api(node).await.map_err(|error| match error {
        StreamError::Ended => {
            Failure::new(Code::ShuttingDown, "this cloudlet is shutting down; ask another one")
        }
        error => Failure::new(Code::Unreachable, error.to_string()),
    })?;
    let tunnel = api.tunnel_of(standing, place);
    Ok(upgrade.then(async move |client| {
        // The link must not be given up for a better one meanwhile. If the mesh has ended, so has the stream.
        let held = peers.handle().hold(node, true).await;
        let end = tunnel.carry(client, &mut stream, None).await;
        tracing::debug!(%node, ?end, "a tunnel to another cloudlet ended");
        if held.is_ok() {
            let _ = peers.handle().hold(node, false).await;
        }
    }))
}
