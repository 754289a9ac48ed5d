//! Which path leads where, and the OpenAPI document that says so.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use handheld::api::{Code, MAX_REQUEST_BYTES};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::problem::Failure;
use super::{events, gate, handlers, handoff, images, mission, peers, placement, relay, standing, tunnel};

/// What all paths begin with.
pub(super) const PREFIX: &str = "/api/v1";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Cloudlet",
        description = "Starts Service VMs on a cloudlet. Every error is a `Problem`; unknown paths (404, `unknown-path`) and \
            methods (405, `bad-request`) are, too.",
    ),
    tags(
        (name = "cloudlet", description = "The cloudlet itself"),
        (name = "services", description = "What can be started"),
        (name = "instances", description = "What runs"),
        (name = "images", description = "Images that come from other cloudlets"),
        (name = "mission", description = "Who belongs to the mission"),
    ),
)]
struct Info;

fn routes() -> OpenApiRouter<Api> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(handlers::cloudlet))
        .routes(routes!(handlers::services))
        .routes(routes!(handlers::service))
        .routes(routes!(handlers::instances, handlers::start))
        .routes(routes!(handlers::instance, handlers::leave))
        .routes(routes!(standing::place, standing::forget_place))
        .routes(routes!(standing::drain))
        .routes(routes!(handoff::order, handoff::progress, handoff::cancel))
        .routes(routes!(handoff::force))
        .routes(routes!(handoff::reintegrate))
        .routes(routes!(placement::plan))
        .routes(routes!(placement::evacuate, placement::evacuation, placement::cancel_evacuation))
        .routes(routes!(placement::placement))
        .routes(routes!(tunnel::tunnel))
        .routes(routes!(events::events))
        .routes(routes!(images::fetches, images::fetch))
        .routes(routes!(images::one_fetch, images::cancel))
        .routes(routes!(mission::show_code))
        .routes(routes!(mission::revocations, mission::hear))
        .routes(routes!(peers::peers))
        .routes(routes!(relay::relay))
        .routes(routes!(handlers::openapi));
    OpenApiRouter::with_openapi(Info::openapi()).nest(PREFIX, v1)
}

/// The OpenAPI document, JSON.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| match routes().into_openapi().to_pretty_json() {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(%error, "the OpenAPI document cannot be written");
            "{}".to_owned()
        }
    });
    &DOCUMENT
}

/// The router of the whole API.
pub fn router(api: Api) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        // Outermost, so that a stranger does not even learn which paths there are.
        .layer(axum::middleware::from_fn_with_state(api.clone(), gate::check))
        .with_state(api)
}

async fn unknown_path(uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    Failure::new(
        Code::UnknownPath,
        format!("there is nothing at '{path}'; {PREFIX}/openapi.json lists what there is"),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("'{path}' does not answer to {method}; {PREFIX}/openapi.json lists what there is");
    Failure::new(Code::BadRequest, message).with_status(StatusCode::METHOD_NOT_ALLOWED)
}
