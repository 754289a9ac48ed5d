//! The requests, one function each.

use axum::Json;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use handheld::api::{Cloudlet, Code, Gone, Instance, Problem, Service, Start};
use migration::VmId;
use serde::Deserialize;
use vm_images::ServiceId;

use super::extract::{Asked, Body, token};
use super::problem::Failure;
use super::{Api, Arrival, view};
use crate::instances::Error;
use crate::lifecycle::{self, Created};

type Answer<T> = Result<Json<T>, Failure>;

/// What this cloudlet is and how busy it is.
#[utoipa::path(get, path = "/cloudlet", tag = "cloudlet", responses(
    (status = 200, description = "The cloudlet", body = Cloudlet),
    (status = 500, description = "The images cannot be listed (`internal`)", body = Problem),
    (status = 503, description = "It is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn cloudlet(State(api): State<Api>) -> Answer<Cloudlet> {
    Ok(Json(api.cloudlet().await?))
}

/// The services that there are images of.
#[utoipa::path(get, path = "/services", tag = "services", responses(
    (status = 200, description = "Every service, in order of its id", body = [Service]),
    (status = 500, description = "The images cannot be listed (`internal`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn services(State(api): State<Api>) -> Answer<Vec<Service>> {
    Ok(Json(api.services().await?))
}

/// One service.
#[utoipa::path(get, path = "/services/{id}", tag = "services", params(
    ("id" = String, Path, description = "Id of the service, such as `speech`"),
), responses(
    (status = 200, description = "The service", body = Service),
    (status = 404, description = "There is no such service here (`unknown-service`)", body = Problem),
    (status = 500, description = "The images cannot be listed (`internal`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn service(State(api): State<Api>, Path(id): Path<String>) -> Answer<Service> {
    let id: ServiceId = id.parse().map_err(|error: vm_images::id::ParseIdError| {
        Failure::new(Code::UnknownService, error.to_string())
    })?;
    let found = api.services().await?.into_iter().find(|service| service.id == id);
    found.map(Json).ok_or_else(|| Error::UnknownService { service: id }.into())
}

/// Asks for an instance of a service.
///
/// Answers at once; the instance is usable when its state is `ready` (see `GET /events` and `GET /instances/{id}`). A
/// service whose image is on another cloudlet only is fetched first (`fetching`). Repeat
/// the same request to learn the state and to say that the client still uses it: one client token never gets two
/// instances of one service. After an instance failed or stopped, the same request starts a new one.
#[utoipa::path(post, path = "/instances", tag = "instances", request_body = Start, responses(
    (status = 201, description = "An instance was created by this request", body = Instance,
        headers(("Location" = String, description = "Path of the instance"))),
    (status = 200, description = "The client uses this instance already, or now shares it", body = Instance),
    (status = 400, description = "The request is not well formed (`bad-request`)", body = Problem),
    (status = 404, description = "There is no such service here, nor can it be fetched (`unknown-service`)", body = Problem),
    (status = 413, description = "The request is too long (`bad-request`)", body = Problem),
    (status = 415, description = "The request is not JSON (`bad-request`)", body = Problem),
    (status = 500, description = "The image cannot run on this host (`unusable-image`), or the images cannot be \
        listed (`internal`)", body = Problem),
    (status = 503, description = "Memory or CPU is short (`insufficient-resources`), the cloudlet is being emptied \
        (`draining`), or it is shutting down or its mission has ended (`shutting-down`)", body = Problem),
))]
pub(super) async fn start(
    State(api): State<Api>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    Body(start): Body<Start>,
) -> Result<Response, Failure> {
    let token = token(start.client_token)?;
    let (instance, created) = api.instances.start(&start.service, token, start.sharing).await?;
    let body = Json(api.instance_view(&instance, arrival));
    Ok(match created {
        Created::Yes => {
            let location = format!("{}/instances/{}", super::routes::PREFIX, instance.vm);
            (StatusCode::CREATED, [(header::LOCATION, location)], body).into_response()
        }
        Created::No => body.into_response(),
    })
}

/// Every instance, also those that ended in the last minutes.
#[utoipa::path(get, path = "/instances", tag = "instances", responses(
    (status = 200, description = "Every instance, in order of its id", body = [Instance]),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn instances(
    State(api): State<Api>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
) -> Answer<Vec<Instance>> {
    let instances = api.instances.list().await?;
    Ok(Json(instances.iter().map(|instance| api.instance_view(instance, arrival)).collect()))
}

/// Who asks about an instance.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asking {
    /// The client that asks; if it uses the instance, this says that it still does.
    client_token: Option<String>,
}

/// One instance.
#[utoipa::path(get, path = "/instances/{id}", tag = "instances", params(
    ("id" = String, Path, format = Uuid, description = "Id of the instance"), Asking,
), responses(
    (status = 200, description = "The instance", body = Instance),
    (status = 400, description = "The client token is impossible (`bad-request`)", body = Problem),
    (status = 404, description = "There is no such instance here (`unknown-instance`)", body = Problem),
    (status = 410, description = "It runs on another cloudlet now", body = Gone),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn instance(
    State(api): State<Api>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    Path(id): Path<String>,
    Asked(asking): Asked<Asking>,
) -> Result<Response, Failure> {
    let token = asking.client_token.map(token).transpose()?;
    let vm = vm(&id)?;
    if let Some(gone) = api.gone(vm) {
        return Ok(gone);
    }
    let found = api.instances.get(vm, token).await?;
    api.answer(found, &id, arrival).map(IntoResponse::into_response)
}

/// How a client leaves an instance. One of the two must be given.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Leaving {
    /// The client that no longer uses the instance.
    client_token: Option<String>,
    /// Stop it whoever uses it.
    #[serde(default)]
    force: bool,
}

/// A client no longer uses an instance, and the last one stops it; or it is stopped whoever uses it.
///
/// May be repeated: an instance that the client does not use is answered as it is.
#[utoipa::path(delete, path = "/instances/{id}", tag = "instances", params(
    ("id" = String, Path, format = Uuid, description = "Id of the instance"), Leaving,
), responses(
    (status = 200, description = "The instance as it is now", body = Instance),
    (status = 400, description = "Neither `client_token` nor `force=true` is given (`bad-request`)", body = Problem),
    (status = 404, description = "There is no such instance here (`unknown-instance`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn leave(
    State(api): State<Api>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    Path(id): Path<String>,
    Asked(leaving): Asked<Leaving>,
) -> Answer<Instance> {
    let found = match leaving {
        Leaving { force: true, .. } => api.instances.force_stop(vm(&id)?).await?,
        Leaving { client_token: Some(text), .. } => api.instances.release(vm(&id)?, token(text)?).await?,
        Leaving { .. } => {
            let message = "say who no longer uses the instance (?client_token=…), or stop it for everybody (?force=true)";
            return Err(Failure::new(Code::BadRequest, message));
        }
    };
    api.answer(found, &id, arrival)
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "cloudlet", responses(
    (status = 200, description = "OpenAPI 3.1 document of this API", content_type = "application/json",
        body = serde_json::Value),
))]
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::routes::document()).into_response()
}

pub(super) fn vm(id: &str) -> Result<VmId, Failure> {
    id.parse().map_err(|_| Failure::unknown_instance(id))
}

impl Api {
    /// Every service on offer, in order of its id.
    async fn services(&self) -> Result<Vec<Service>, Error> {
        let (offers, instances) = (self.instances.offers().await?, self.instances.list().await?);
        Ok(offers.iter().map(|offer| view::service(offer, &instances, &self.standing)).collect())
    }

    fn answer(&self, found: Option<lifecycle::Instance>, id: &str, arrival: Arrival) -> Answer<Instance> {
        let found = found.ok_or_else(|| Failure::unknown_instance(id))?;
        Ok(Json(self.instance_view(&found, arrival)))
    }
}
