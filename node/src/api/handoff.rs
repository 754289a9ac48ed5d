//! Instances that move to other cloudlets.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use handheld::api::{self, Code, Event, ForceHandoff, Gone, HandoffState, HandoffTo, Moved, Problem};
use migration::VmId;
use migration::handoff::share::Priority;
use tokio_stream::wrappers::{BroadcastStream, WatchStream};

use super::Api;
use super::extract::Body;
use super::handlers::vm;
use super::problem::Failure;
use crate::handoff::{self, Handoffs, News, Phase, Status};

/// Sends an instance to another cloudlet. For operators.
///
/// Answers at once; `GET` of the same path and `GET /events` say how far it is. It is tried whenever the other cloudlet is in
/// reach, until it is done or cancelled; what arrived there is not sent twice.
#[utoipa::path(post, path = "/instances/{id}/handoff", tag = "instances", request_body = HandoffTo, params(
    ("id" = String, Path, format = Uuid, description = "Id of the instance"),
), responses(
    (status = 202, description = "It is begun", body = api::Handoff),
    (status = 400, description = "That is this cloudlet (`bad-request`)", body = Problem),
    (status = 403, description = "The caller is no operator (`not-allowed`)", body = Problem),
    (status = 404, description = "There is no such instance (`unknown-instance`) or cloudlet (`unknown-peer`)", body = Problem),
    (status = 409, description = "It is not ready, or moves already (`not-ready`), or this cloudlet knows no others \
        (`no-mission`)", body = Problem),
    (status = 410, description = "It has moved", body = Gone),
    (status = 413, description = "The request is too long (`bad-request`)", body = Problem),
    (status = 415, description = "The request is not JSON (`bad-request`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn order(
    State(api): State<Api>,
    Path(id): Path<String>,
    Body(ask): Body<HandoffTo>,
) -> Result<Response, Failed> {
    api.handoffs()?;
    let (vm, to) = (vm(&id)?, api.member(&ask.to)?);
    let begun = api.operate(vm, async |handoffs| handoffs.order(vm, to, ordered(ask.priority)).await).await?;
    Ok((StatusCode::ACCEPTED, begun).into_response())
}

/// How far the newest handoff of an instance is; also after it has moved.
#[utoipa::path(get, path = "/instances/{id}/handoff", tag = "instances", params(
    ("id" = String, Path, format = Uuid, description = "Id of the instance"),
), responses(
    (status = 200, description = "It", body = api::Handoff),
    (status = 404, description = "It was not sent anywhere lately (`unknown-instance`)", body = Problem),
    (status = 409, description = "This cloudlet knows no others (`no-mission`)", body = Problem),
))]
pub(super) async fn progress(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<api::Handoff>, Failure> {
    Ok(Json(shown(api.handoffs()?, vm(&id)?)?))
}

/// Stops a handoff; the instance serves on here. For operators.
///
/// Once it was committed only the other cloudlet can say whether it still can be stopped.
#[utoipa::path(delete, path = "/instances/{id}/handoff", tag = "instances", params(
    ("id" = String, Path, format = Uuid, description = "Id of the instance"),
), responses(
    (status = 200, description = "It, as it is now", body = api::Handoff),
    (status = 403, description = "The caller is no operator (`not-allowed`)", body = Problem),
    (status = 404, description = "It was not sent anywhere lately (`unknown-instance`)", body = Problem),
    (status = 409, description = "It does not move (`not-ready`), or this cloudlet knows no others (`no-mission`)", body = Problem),
    (status = 410, description = "It has moved", body = Gone),
))]
pub(super) async fn cancel(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<api::Handoff>, Failed> {
    let vm = vm(&id)?;
    api.operate(vm, async |handoffs| handoffs.cancel(vm).await).await
}

/// Has an instance serve on here of which it is not known whether it runs at a destination that is gone for good. For operators.
///
/// Only for an instance that stands still because its destination was lost just when it took it over. The caller vouches that it
/// never comes back: if it does, two copies have served, and the other one is paused when the two cloudlets meet.
#[utoipa::path(post, path = "/instances/{id}/handoff/force", tag = "instances", request_body = ForceHandoff, params(
    ("id" = String, Path, format = Uuid, description = "Id of the instance"),
), responses(
    (status = 200, description = "Its handoff, as it is now", body = api::Handoff),
    (status = 400, description = "The caller does not vouch for it (`bad-request`)", body = Problem),
    (status = 403, description = "The caller is no operator (`not-allowed`)", body = Problem),
    (status = 404, description = "There is no such instance (`unknown-instance`)", body = Problem),
    (status = 409, description = "It is not in doubt (`not-ready`), or this cloudlet knows no others (`no-mission`)", body = Problem),
    (status = 410, description = "It has moved", body = Gone),
    (status = 413, description = "The request is too long (`bad-request`)", body = Problem),
    (status = 415, description = "The request is not JSON (`bad-request`)", body = Problem),
))]
pub(super) async fn force(
    State(api): State<Api>,
    Path(id): Path<String>,
    Body(ask): Body<ForceHandoff>,
) -> Result<Json<api::Handoff>, Failed> {
    let vm = vm(&id)?;
    if !ask.destination_is_gone_for_good {
        let message = "nothing is done unless the caller vouches that the destination is gone for good";
        return Err(Failure::new(Code::BadRequest, message).into());
    }
    api.operate(vm, async |handoffs| handoffs.force(vm).await).await
}

/// Sends every instance that was first started at another cloudlet back there. For operators.
///
/// Answers at once. Each is tried whenever its home is in reach, until it is done or cancelled as any other handoff.
#[utoipa::path(post, path = "/reintegration", tag = "cloudlet", responses(
    (status = 202, description = "Those that are on their way now", body = [api::Handoff]),
    (status = 403, description = "The caller is no operator (`not-allowed`)", body = Problem),
    (status = 409, description = "This cloudlet knows no others (`no-mission`)", body = Problem),
    (status = 500, description = "It is not known where they were started (`internal`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn reintegrate(
    State(api): State<Api>,
) -> Result<(StatusCode, Json<Vec<api::Handoff>>), Failed> {
    let handoffs = api.handoffs()?;
    let begun = handoffs.reintegrate().await.map_err(|error| Failure::from(&error))?;
    let shown = begun.into_iter().filter_map(|vm| handoffs.status(vm));
    Ok((StatusCode::ACCEPTED, Json(shown.map(|status| view(&status)).collect())))
}

fn shown(handoffs: &Handoffs, vm: VmId) -> Result<api::Handoff, Failure> {
    match handoffs.status(vm) {
        Some(status) => Ok(view(&status)),
        None => {
            let message = format!("instance '{vm}' was not sent to another cloudlet lately");
            Err(Failure::new(Code::UnknownInstance, message))
        }
    }
}

/// A problem, or where the instance is.
pub(super) enum Failed {
    Problem(Failure),
    Gone(Gone),
}

impl Failed {
    pub(super) fn of(handoffs: &Handoffs, vm: VmId, error: &handoff::Error) -> Self {
        if let (handoff::Error::Elsewhere(_), Some(gone)) = (error, gone(handoffs, vm)) {
            return Self::Gone(gone);
        }
        Self::Problem(error.into())
    }
}

impl From<&handoff::Error> for Failure {
    fn from(error: &handoff::Error) -> Self {
        let code = match error {
            handoff::Error::UnknownInstance(_) => Code::UnknownInstance,
            handoff::Error::Here => Code::BadRequest,
            handoff::Error::NotReady(_)
            | handoff::Error::Elsewhere(_)
            | handoff::Error::InDoubt(_)
            | handoff::Error::UnderWay
            | handoff::Error::NothingToCancel
            | handoff::Error::NotInDoubt => Code::NotReady,
            handoff::Error::Homes(_) => Code::Internal,
            handoff::Error::TooMany | handoff::Error::Instances(_) | handoff::Error::Gone => {
                Code::ShuttingDown
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Problem(failure)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(failure) => failure.into_response(),
            Self::Gone(gone) => (StatusCode::GONE, Json(gone)).into_response(),
        }
    }
}

fn gone(handoffs: &Handoffs, vm: VmId) -> Option<Gone> {
    let (node, api) = handoffs.moved(vm)?;
    Some(Moved { instance: vm.0, node: node.to_string(), api: api.into_iter().collect() }.into())
}

impl Api {
    pub(super) fn handoffs(&self) -> Result<&Handoffs, Failure> {
        let none =
            || Failure::new(Code::NoMission, "this cloudlet knows no other that an instance could move to");
        self.handoffs.as_ref().ok_or_else(none)
    }

    /// Does something with an instance's handoff, and shows that.
    async fn operate(
        &self,
        vm: VmId,
        act: impl AsyncFnOnce(&Handoffs) -> Result<(), handoff::Error>,
    ) -> Result<Json<api::Handoff>, Failed> {
        let handoffs = self.handoffs()?;
        act(handoffs).await.map_err(|error| Failed::of(handoffs, vm, &error))?;
        Ok(Json(shown(handoffs, vm)?))
    }

    /// Where an instance is that was here once.
    pub(super) fn gone(&self, vm: VmId) -> Option<Response> {
        let gone = gone(self.handoffs.as_ref()?, vm)?;
        Some(Failed::Gone(gone).into_response())
    }

    /// How far handoffs are and where instances go, from now on.
    pub(super) fn handoff_events(&self) -> impl Stream<Item = Event> + use<> {
        let Some(handoffs) = self.handoffs.clone() else { return stream::empty().left_stream() };
        let mut known: BTreeMap<VmId, Status> = BTreeMap::new();
        let ended = |status: &&Status| status.phase.is_end();
        known.extend(handoffs.all().borrow().iter().filter(ended).map(|status| (status.vm, status.clone())));
        let progress = WatchStream::new(handoffs.all()).flat_map(move |all| {
            let news: Vec<Event> = all
                .iter()
                .filter(|status| known.get(&status.vm) != Some(*status))
                .map(|status| Event::Handoff(view(status)))
                .collect();
            known = all.into_iter().map(|status| (status.vm, status)).collect();
            stream::iter(news)
        });
        let moves = BroadcastStream::new(handoffs.news()).filter_map(move |news| {
            let event = match news {
                Ok(News::Moved { vm, to }) => Some(Event::Moved(Moved {
                    instance: vm.0,
                    node: to.to_string(),
                    api: handoffs.api(to).into_iter().collect(),
                })),
                Err(_) => None,
            };
            std::future::ready(event)
        });
        stream::select(progress, moves).right_stream()
    }
}

fn ordered(priority: api::Priority) -> Priority {
    match priority {
        api::Priority::Low => Priority::Low,
        api::Priority::Normal => Priority::Normal,
        api::Priority::High => Priority::High,
    }
}

fn shown_priority(priority: Priority) -> api::Priority {
    match priority {
        Priority::Low => api::Priority::Low,
        Priority::Normal => api::Priority::Normal,
        Priority::High => api::Priority::High,
    }
}

fn view(status: &Status) -> api::Handoff {
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (state, reason) = match &status.phase {
        Phase::Offering => (HandoffState::Offering, None),
        Phase::Precopy => (HandoffState::Precopy, None),
        Phase::Frozen => (HandoffState::Frozen, None),
        Phase::Verifying => (HandoffState::Verifying, None),
        Phase::Committing => (HandoffState::Committing, None),
        Phase::Waiting { reason } => (HandoffState::Waiting, Some(reason.clone())),
        Phase::Done => (HandoffState::Done, None),
        Phase::Failed { reason } => (HandoffState::Failed, Some(reason.clone())),
        Phase::Cancelled => (HandoffState::Cancelled, None),
    };
    api::Handoff {
        instance: status.vm.0,
        to: status.to.to_string(),
        priority: shown_priority(status.priority),
        state,
        attempts: status.attempts,
        sent_bytes: status.sent_bytes,
        scanned_bytes: status.scanned_bytes,
        memory_bytes: status.memory_bytes,
        eta_ms: status.eta.map(ms),
        total_ms: ms(status.total),
        downtime_ms: status.downtime.map(ms),
        reason,
    }
}
