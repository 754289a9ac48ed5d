//! Pairing codes and revocations.

use axum::Json;
use axum::extract::State;
use handheld::api::{Code, Heard, PairingCode, Problem, Revocations, ShowCode};

use super::Api;
use super::extract::Body;
use super::problem::Failure;
use crate::trust::{self, Membership};

fn membership(api: &Api) -> Result<&Membership, Failure> {
    let none = || Failure::new(Code::NoMission, "this cloudlet runs without a mission (--insecure)");
    api.membership.as_ref().ok_or_else(none)
}

fn failed(error: trust::Error) -> Failure {
    let code = match &error {
        trust::Error::MayNotEnroll | trust::Error::MayNotGrant { .. } => Code::NotAllowed,
        trust::Error::Permissions(_) => Code::BadRequest,
        trust::Error::Encoding(_) => Code::BadRequest,
        _ => Code::Internal,
    };
    let message = error.to_string();
    if code == Code::Internal {
        let error: &dyn std::error::Error = &error;
        tracing::error!(error, "a request failed");
    }
    Failure::new(code, message)
}

/// Shows a new code with which one handheld can be paired; an earlier one is no longer good.
///
/// The pairing endpoint is open only while the code is.
#[utoipa::path(post, path = "/pairing", tag = "mission", request_body = ShowCode, responses(
    (status = 200, description = "The code", body = PairingCode),
    (status = 400, description = "There is no such permission (`bad-request`)", body = Problem),
    (status = 403, description = "The cloudlet may not enroll handhelds, or the caller is not its operator (`not-allowed`)",
        body = Problem),
    (status = 409, description = "The cloudlet runs without a mission (`no-mission`)", body = Problem),
    (status = 500, description = "The pairing endpoint cannot be opened (`internal`)", body = Problem),
))]
pub(super) async fn show_code(
    State(api): State<Api>,
    Body(ask): Body<ShowCode>,
) -> Result<Json<PairingCode>, Failure> {
    membership(&api)?.show_code(ask.allow.as_deref()).await.map(Json).map_err(failed)
}

/// What is known to be revoked.
#[utoipa::path(get, path = "/revocations", tag = "mission", responses(
    (status = 200, description = "All of it", body = Revocations),
    (status = 409, description = "The cloudlet runs without a mission (`no-mission`)", body = Problem),
))]
pub(super) async fn revocations(State(api): State<Api>) -> Result<Json<Revocations>, Failure> {
    let encoded = membership(&api)?.trust().with(|mission| mission.revoked().encode());
    Ok(Json(Revocations { encoded: hex::encode(encoded) }))
}

/// Tells the cloudlet of revocations. Who tells does not matter: each is signed by somebody who may revoke.
#[utoipa::path(post, path = "/revocations", tag = "mission", request_body = Revocations, responses(
    (status = 200, description = "What came of it", body = Heard),
    (status = 400, description = "The encoding is not sound (`bad-request`)", body = Problem),
    (status = 409, description = "The cloudlet runs without a mission (`no-mission`)", body = Problem),
    (status = 500, description = "They cannot be stored (`internal`)", body = Problem),
))]
pub(super) async fn hear(
    State(api): State<Api>,
    Body(told): Body<Revocations>,
) -> Result<Json<Heard>, Failure> {
    let membership = membership(&api)?.clone();
    let bad = |error: hex::FromHexError| Failure::new(Code::BadRequest, error.to_string());
    let encoded = hex::decode(&told.encoded).map_err(bad)?;
    let known_before = known(&membership);
    if let Some(peers) = &api.peers {
        // The mesh first: it passes on what is news to it.
        let spread = peers.revoke(encoded.clone()).await;
        spread.map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    }
    let by_mesh = known(&membership).saturating_sub(known_before);
    let keep = move || {
        let learned = membership.learn(&encoded)?;
        // Whoever asked may rely on it from now on, whatever becomes of this cloudlet.
        if by_mesh > 0 { membership.keep_revocations().map(|()| learned) } else { Ok(learned) }
    };
    let learned = tokio::task::spawn_blocking(keep).await;
    let learned =
        learned.map_err(|panic| Failure::new(Code::Internal, panic.to_string()))?.map_err(failed)?;
    let (new, known) = (learned.new + by_mesh, learned.known.saturating_sub(by_mesh));
    Ok(Json(Heard { new, known, refused: learned.refused }))
}

fn known(membership: &Membership) -> usize {
    membership.trust().with(|mission| mission.revoked().serials().count())
}
