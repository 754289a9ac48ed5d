//! Whether and where to instances move.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use handheld::api::{
    self, Automatic, Candidate, Code, Decided, Evacuate, EvacuationState, Figure, FigureSource, Gone,
    HandoffPlan, Holds, Leaving, PlanVerdict, PlannedRound, Problem,
};
use mesh::placement::{Considered, Decision, Mode, Outcome, Reason};
use migration::handoff::plan::{Round, Verdict};
use serde::Deserialize;
use uuid::Uuid;

use super::Api;
use super::extract::{Asked, Body};
use super::handlers::vm;
use super::handoff::Failed;
use super::problem::Failure;
use crate::placement::{self, Evacuation, Fate, Forecast, Placement, State as How, forecast};

/// Below the API's prefix.
pub(super) const EVACUATION: &str = "/evacuation";

/// Where to.
#[derive(Deserialize)]
pub(super) struct To {
    to: String,
}

/// What it would cost to send an instance to another cloudlet. Nothing moves.
#[utoipa::path(get, path = "/instances/{id}/handoff/plan", tag = "instances", params(
    ("id" = String, Path, format = Uuid, description = "Id of the instance"),
    ("to" = String, Query, description = "Node id or name of the other cloudlet"),
), responses(
    (status = 200, description = "The estimate and its parts", body = HandoffPlan),
    (status = 400, description = "That is this cloudlet, or none is named (`bad-request`)", body = Problem),
    (status = 404, description = "There is no such instance (`unknown-instance`) or cloudlet (`unknown-peer`)", body = Problem),
    (status = 409, description = "It is not ready (`not-ready`), or this cloudlet knows no others (`no-mission`)", body = Problem),
    (status = 410, description = "It has moved", body = Gone),
    (status = 500, description = "Its image or disk cannot be read (`internal`)", body = Problem),
))]
pub(super) async fn plan(
    State(api): State<Api>,
    Path(id): Path<String>,
    Asked(To { to }): Asked<To>,
) -> Result<Json<HandoffPlan>, Failed> {
    let placement = api.placement()?;
    let (vm, to) = (vm(&id)?, api.member(&to)?);
    match placement.forecast(vm, to).await {
        Ok(forecast) => Ok(Json(plan_view(&forecast))),
        Err(placement::Error::Handoff(error)) => Err(Failed::of(api.handoffs()?, vm, &error)),
        Err(error) => Err(failure(&error).into()),
    }
}

/// Empties the cloudlet: it takes nobody new, and every instance goes to the best other cloudlet. For operators.
///
/// Answers at once; `GET` says how far it is. What nobody can take stays, with the reason.
#[utoipa::path(post, path = "/evacuation", tag = "cloudlet", request_body = Evacuate, responses(
    (status = 202, description = "It is begun", body = api::Evacuation),
    (status = 400, description = "The request is not well formed (`bad-request`)", body = Problem),
    (status = 403, description = "The caller is no operator (`not-allowed`)", body = Problem),
    (status = 404, description = "No such cloudlet is known (`unknown-peer`)", body = Problem),
    (status = 409, description = "It is being evacuated already (`not-ready`), or knows no others (`no-mission`)", body = Problem),
    (status = 413, description = "The request is too long (`bad-request`)", body = Problem),
    (status = 415, description = "The request is not JSON (`bad-request`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn evacuate(
    State(api): State<Api>,
    Body(ask): Body<Evacuate>,
) -> Result<(StatusCode, Json<api::Evacuation>), Failure> {
    let placement = api.placement()?;
    let to = ask.to.as_deref().map(|to| api.member(to)).transpose()?;
    let limit = ask.limit_s.map(Duration::from_secs);
    placement.evacuate(to, limit).await.map_err(|error| failure(&error))?;
    Ok((StatusCode::ACCEPTED, shown(placement)?))
}

/// How far the newest evacuation of this cloudlet is.
#[utoipa::path(get, path = "/evacuation", tag = "cloudlet", responses(
    (status = 200, description = "It", body = api::Evacuation),
    (status = 409, description = "There was none (`not-ready`), or this cloudlet knows no others (`no-mission`)", body = Problem),
))]
pub(super) async fn evacuation(State(api): State<Api>) -> Result<Json<api::Evacuation>, Failure> {
    shown(api.placement()?)
}

/// Ends an evacuation; what has not left stays, and users are taken again if they were before. For operators.
#[utoipa::path(delete, path = "/evacuation", tag = "cloudlet", responses(
    (status = 200, description = "It, as it has ended", body = api::Evacuation),
    (status = 403, description = "The caller is no operator (`not-allowed`)", body = Problem),
    (status = 409, description = "There is none (`not-ready`), or this cloudlet knows no others (`no-mission`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn cancel_evacuation(State(api): State<Api>) -> Result<Json<api::Evacuation>, Failure> {
    let placement = api.placement()?;
    placement.cancel().await.map_err(|error| failure(&error))?;
    shown(placement)
}

/// Where each instance should be and why, as it was decided last.
#[utoipa::path(get, path = "/placement", tag = "cloudlet", responses(
    (status = 200, description = "What was decided", body = api::Placement),
    (status = 409, description = "This cloudlet knows no others (`no-mission`)", body = Problem),
))]
pub(super) async fn placement(State(api): State<Api>) -> Result<Json<api::Placement>, Failure> {
    let report = api.placement()?.report().borrow().clone();
    let automatic = match report.mode {
        Mode::Disabled => Automatic::Off,
        Mode::DryRun => Automatic::DryRun,
        Mode::Enabled => Automatic::On,
    };
    let decisions = report.decisions.iter().filter_map(decided).collect();
    Ok(Json(api::Placement { automatic, decisions }))
}

impl Api {
    fn placement(&self) -> Result<&Placement, Failure> {
        self.handoffs()?;
        self.placement.as_ref().ok_or_else(|| failure(&placement::Error::Gone))
    }
}

fn failure(error: &placement::Error) -> Failure {
    let code = match error {
        placement::Error::UnderWay | placement::Error::NothingToCancel | placement::Error::Handoff(_) => {
            Code::NotReady
        }
        placement::Error::Need { .. } => Code::Internal,
        placement::Error::Drain(_) | placement::Error::Gone => Code::ShuttingDown,
    };
    Failure::new(code, error.to_string())
}

fn shown(placement: &Placement) -> Result<Json<api::Evacuation>, Failure> {
    match &placement.report().borrow().evacuation {
        Some(evacuation) => Ok(Json(evacuation_view(evacuation))),
        None => Err(Failure::new(Code::NotReady, "this cloudlet was not evacuated since it was started")),
    }
}

fn evacuation_view(evacuation: &Evacuation) -> api::Evacuation {
    let state = match evacuation.state {
        How::Running => EvacuationState::Running,
        How::Done => EvacuationState::Done,
        How::Cancelled => EvacuationState::Cancelled,
    };
    let instances = evacuation.fates.iter().map(|(vm, fate)| {
        let (fate, to, reason) = match fate {
            Fate::Waits(reason) => (api::Fate::Waits, None, Some(reason.clone())),
            Fate::Moves(to) => (api::Fate::Moves, Some(to), None),
            Fate::Moved(to) => (api::Fate::Moved, Some(to), None),
            Fate::Ended => (api::Fate::Ended, None, None),
            Fate::Stays(reason) => (api::Fate::Stays, None, Some(reason.clone())),
        };
        Leaving { instance: vm.0, fate, to: to.map(ToString::to_string), reason }
    });
    api::Evacuation { state, complete: evacuation.is_complete(), instances: instances.collect() }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn figure<T: Copy>(figure: forecast::Figure<T>, value: impl FnOnce(T) -> f64) -> Figure {
    let source = match figure.source {
        forecast::Source::Measured => FigureSource::Measured,
        forecast::Source::Earlier => FigureSource::Earlier,
        forecast::Source::Assumed => FigureSource::Assumed,
    };
    Figure { value: value(figure.value), source }
}

fn plan_view(forecast: &Forecast) -> HandoffPlan {
    let (need, way, estimate) = (&forecast.need, &forecast.way, &forecast.estimate);
    let round = |round: &Round| PlannedRound { bytes: round.bytes as u64, ms: ms(round.time) };
    let in_ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let (verdict, short_by) = match estimate.verdict {
        Verdict::Fits => (PlanVerdict::Fits, None),
        Verdict::ByInstalments { short_by } => (PlanVerdict::ByInstalments, Some(short_by)),
        Verdict::TooBusy => (PlanVerdict::TooBusy, None),
        Verdict::NoLink => (PlanVerdict::NoLink, None),
    };
    HandoffPlan {
        instance: need.vm.0,
        to: way.to.to_string(),
        destination_holds: match forecast.holds {
            forecast::Holds::Service => Holds::Service,
            forecast::Holds::Base => Holds::Base,
            forecast::Holds::Nothing => Holds::Nothing,
        },
        images_bytes: forecast.images_bytes,
        memory_bytes: figure(need.memory_bytes, |bytes| bytes as f64),
        disk_bytes: figure(need.disk_bytes, |bytes| bytes as f64),
        kept_bytes: forecast.kept_bytes,
        dirty_bytes_per_s: figure(need.dirty_bytes_s, |rate| rate),
        rate_bytes_per_s: figure(way.rate_bytes_s, |rate| rate),
        rtt_ms: figure(way.round_trip, in_ms),
        fixed_ms: figure(need.fixed, in_ms),
        contact_rest_ms: way.contact.expected().map(ms),
        images_ms: ms(forecast.images_time),
        rounds: estimate.rounds.iter().map(round).collect(),
        last: round(&estimate.last),
        bytes: forecast.bytes(),
        downtime_ms: ms(estimate.downtime),
        total_ms: ms(forecast.total()),
        verdict,
        short_by_ms: short_by.map(ms),
        against: forecast.against.as_ref().map(ToString::to_string),
    }
}

/// `None` for an instance without an id, of which there is none.
fn decided(decision: &Decision) -> Option<Decided> {
    let (outcome, towards) = match decision.outcome {
        Outcome::Move { to, reason, dry_run: false } => (api::Outcome::Move, Some((to, reason))),
        Outcome::Move { to, reason, dry_run: true } => (api::Outcome::WouldMove, Some((to, reason))),
        Outcome::Wait { to, reason, .. } => (api::Outcome::Wait, Some((to, reason))),
        Outcome::Stay => (api::Outcome::Stay, None),
    };
    Some(Decided {
        instance: decision.instance.parse::<Uuid>().ok()?,
        outcome,
        to: towards.map(|(to, _)| to.to_string()),
        reason: towards.map(|(_, reason)| word(reason).to_owned()),
        explanation: decision.to_string(),
        considered: decision.considered.iter().map(candidate).collect(),
    })
}

fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Shutdown => "shutdown",
        Reason::Drain => "drain",
        Reason::PowerLow => "power-low",
        Reason::UserLeaves => "user-leaves",
        Reason::LinkEnds => "link-ends",
        Reason::LoadBalance => "load-balance",
    }
}

fn candidate(one: &Considered) -> Candidate {
    Candidate {
        node: one.node.to_string(),
        name: one.name.clone(),
        unfit: one.unfit.map(|unfit| unfit.to_string()),
        gain_s: one.gain_s,
        terms: one.terms.iter().map(|term| (term.name.to_owned(), term.value)).collect(),
    }
}
