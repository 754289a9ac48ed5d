//! Where the cloudlet is, and whether it is being emptied.

use axum::Json;
use axum::extract::State;
use handheld::api::{Code, Drain, Place, Problem, Standing};

use super::Api;
use super::extract::Body;
use super::problem::Failure;
use crate::standing;

type Answer = Result<Json<Standing>, Failure>;

/// Says where the cloudlet is: an operator, or a program that reads satellite navigation.
///
/// The place of a cloudlet that moves holds for a minute; one without motion holds until another is told, also after a restart.
#[utoipa::path(put, path = "/place", tag = "cloudlet", request_body = Place, responses(
    (status = 200, description = "What the cloudlet says of itself now", body = Standing),
    (status = 400, description = "There is no such place (`bad-request`)", body = Problem),
    (status = 403, description = "The caller may not operate this cloudlet (`not-allowed`)", body = Problem),
    (status = 500, description = "It cannot be kept for the next start (`internal`)", body = Problem),
))]
pub(super) async fn place(State(api): State<Api>, Body(place): Body<Place>) -> Answer {
    told(api, move |standing| standing.tell_place(Some(place))).await
}

/// Where the cloudlet is, is no longer known.
#[utoipa::path(delete, path = "/place", tag = "cloudlet", responses(
    (status = 200, description = "What the cloudlet says of itself now", body = Standing),
    (status = 403, description = "The caller may not operate this cloudlet (`not-allowed`)", body = Problem),
    (status = 500, description = "It cannot be kept for the next start (`internal`)", body = Problem),
))]
pub(super) async fn forget_place(State(api): State<Api>) -> Answer {
    told(api, |standing| standing.tell_place(None)).await
}

/// Empties the cloudlet: whoever uses an instance keeps it, nobody new is taken. Or takes new users again.
#[utoipa::path(put, path = "/drain", tag = "cloudlet", request_body = Drain, responses(
    (status = 200, description = "What the cloudlet says of itself now", body = Standing),
    (status = 403, description = "The caller may not operate this cloudlet (`not-allowed`)", body = Problem),
    (status = 500, description = "It cannot be kept for the next start (`internal`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn drain(State(api): State<Api>, Body(Drain { draining }): Body<Drain>) -> Answer {
    api.instances.drain(draining).await?;
    told(api, move |standing| standing.drain(draining)).await
}

/// Changes and answers. Keeping a change on disk blocks.
async fn told(
    api: Api,
    change: impl FnOnce(&standing::Standing) -> Result<(), standing::Error> + Send + 'static,
) -> Answer {
    let standing = api.standing.clone();
    let changed = tokio::task::spawn_blocking(move || change(&standing)).await;
    match changed.map_err(|panic| Failure::new(Code::Internal, panic.to_string()))? {
        Ok(()) => Ok(Json(api.cloudlet().await?.standing)),
        Err(error @ standing::Error::Place) => Err(Failure::new(Code::BadRequest, error.to_string())),
        Err(error) => {
            let cause: &dyn std::error::Error = &error;
            tracing::error!(error = cause, "a request failed");
            Err(Failure::new(Code::Internal, error.to_string()))
        }
    }
}
