//! Images that this cloudlet fetches from others.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use handheld::api::{Code, Event, FetchImage, FetchState, FetchedFrom, ImageFetch, Problem};
use mesh::NodeId;
use mesh::exchange::policy::Fetchable;
use tokio_stream::wrappers::WatchStream;
use vm_images::{ImageId, ServiceId};

use super::extract::Body;
use super::problem::Failure;
use super::{Api, Arrival};
use crate::exchange::{self, Exchange, FindError, Phase, Progress};
use crate::lifecycle::{self, Instance};

/// Below [`super::routes::PREFIX`]; what the gate looks for.
pub(super) const FETCHES: &str = "/images/fetches";

/// What is fetched from other cloudlets, and was fetched lately.
#[utoipa::path(get, path = "/images/fetches", tag = "images", responses(
    (status = 200, description = "In order of asking; none if the cloudlet knows no others", body = [ImageFetch]),
))]
pub(super) async fn fetches(State(api): State<Api>) -> Json<Vec<ImageFetch>> {
    let all = api.exchange.as_ref().map(|exchange| exchange.all().borrow().clone()).unwrap_or_default();
    Json(all.iter().map(|one| api.fetch_view(one)).collect())
}

/// Has an image fetched from other cloudlets, with the parents that are missing. For operators.
///
/// Answers at once. Repeat it as you like: what is on its way goes on, what came is not fetched again, and what is here
/// is done. Images come into use without a restart.
#[utoipa::path(post, path = "/images/fetches", tag = "images", request_body = FetchImage, responses(
    (status = 202, description = "It is on its way, or here", body = ImageFetch,
        headers(("Location" = String, description = "Path at which its progress is told"))),
    (status = 400, description = "That names no image, or several (`bad-request`)", body = Problem),
    (status = 403, description = "The caller is no operator (`not-allowed`)", body = Problem),
    (status = 404, description = "Nobody in reach has it (`unknown-image`), or the cloudlet to fetch it from is not known \
        (`unknown-peer`)", body = Problem),
    (status = 409, description = "This cloudlet knows no others (`no-mission`)", body = Problem),
    (status = 413, description = "The request is too long (`bad-request`)", body = Problem),
    (status = 415, description = "The request is not JSON (`bad-request`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn fetch(State(api): State<Api>, Body(ask): Body<FetchImage>) -> Result<Response, Failure> {
    let exchange = api.exchange()?;
    let from = ask.from.as_deref().map(|from| api.member(from)).transpose()?;
    let image = exchange.find(&ask.image, from).await?;
    let progress = exchange.fetch(image, from).await?.borrow().clone();
    let location = format!("{}{FETCHES}/{image}", super::routes::PREFIX);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(api.fetch_view(&progress)))
        .into_response())
}

/// How far the fetching of an image is.
#[utoipa::path(get, path = "/images/fetches/{id}", tag = "images", params(
    ("id" = String, Path, description = "Id of the image, 64 hexadecimal digits"),
), responses(
    (status = 200, description = "How far it is", body = ImageFetch),
    (status = 404, description = "It is not being fetched, nor was it lately (`unknown-image`)", body = Problem),
    (status = 409, description = "This cloudlet knows no others (`no-mission`)", body = Problem),
))]
pub(super) async fn one_fetch(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<ImageFetch>, Failure> {
    api.known_fetch(&id).map(|progress| Json(api.fetch_view(&progress)))
}

/// Ends the fetching of an image. What came of it stays, and fetching it again goes on from there. For operators.
#[utoipa::path(delete, path = "/images/fetches/{id}", tag = "images", params(
    ("id" = String, Path, description = "Id of the image, 64 hexadecimal digits"),
), responses(
    (status = 200, description = "How far it was, or that it had ended before", body = ImageFetch),
    (status = 403, description = "The caller is no operator (`not-allowed`)", body = Problem),
    (status = 404, description = "It is not being fetched, nor was it lately (`unknown-image`)", body = Problem),
    (status = 409, description = "This cloudlet knows no others (`no-mission`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn cancel(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<ImageFetch>, Failure> {
    let image = api.known_fetch(&id)?.image;
    let was = api.exchange()?.cancel(image).await?;
    let mut shown = api.fetch_view(&api.known_fetch(&id)?);
    if was {
        // It ends within moments; what the client asked for is said already.
        shown.state = FetchState::Failed;
        shown.reason.get_or_insert_with(|| exchange::Error::Cancelled.to_string());
    }
    Ok(Json(shown))
}

impl Api {
    fn exchange(&self) -> Result<&Exchange, Failure> {
        let alone =
            "this cloudlet runs without others to fetch images from; it needs a mission and mesh.enabled";
        self.exchange.as_ref().ok_or_else(|| Failure::new(Code::NoMission, alone))
    }

    fn known_fetch(&self, id: &str) -> Result<Progress, Failure> {
        let all = self.exchange()?.all();
        let image = id.parse::<ImageId>().ok();
        let found = all.borrow().iter().find(|one| Some(one.image) == image).cloned();
        found.ok_or_else(|| {
            let id: String = id.chars().take(80).collect();
            let message = format!(
                "image '{id}' is not being fetched, nor was it lately; GET /api/v1{FETCHES} lists what is"
            );
            Failure::new(Code::UnknownImage, message)
        })
    }

    /// The cloudlet of that node id or name.
    pub(super) fn member(&self, wanted: &str) -> Result<NodeId, Failure> {
        let shown: String = wanted.chars().take(80).collect();
        let unknown = |why: &str| {
            Failure::new(Code::UnknownPeer, format!("{why} '{shown}'; 'cloudlet mesh' lists them"))
        };
        let Some(peers) = &self.peers else { return Err(unknown("there is no other cloudlet")) };
        let members = peers.members();
        let others = members.iter().filter(|(node, _)| **node != peers.node());
        let named: Vec<NodeId> = others
            .filter(|(node, member)| node.to_string() == wanted || member.advert.name == wanted)
            .map(|(node, _)| *node)
            .collect();
        match named[..] {
            [node] => Ok(node),
            [] => Err(unknown("no other cloudlet is known as")),
            _ => Err(unknown("several cloudlets are called; give the node id instead of")),
        }
    }

    /// An instance as a client on this connection sees it.
    pub(super) fn instance_view(&self, instance: &Instance, arrival: Arrival) -> handheld::api::Instance {
        let waits = instance.phase == lifecycle::Phase::Fetching;
        let fetch = self.exchange.as_ref().filter(|_| waits).and_then(|exchange| {
            let all = exchange.all();
            let all = all.borrow();
            all.iter().find(|one| one.image == instance.service.image).map(|one| self.fetch_view(one))
        });
        super::view::instance(instance, arrival, fetch)
    }

    /// Name of a cloudlet; its node id if it is not known any more.
    fn name(&self, node: &NodeId) -> String {
        let named =
            self.peers.as_ref().and_then(|peers| Some(peers.members().get(node)?.advert.name.clone()));
        named.unwrap_or_else(|| node.to_string())
    }

    /// A service that could be fetched, in the API's words.
    pub(super) fn fetchable_view(&self, service: &ServiceId, one: &Fetchable) -> handheld::api::Fetchable {
        handheld::api::Fetchable {
            service: service.clone(),
            image: one.image.to_string(),
            bytes: one.bytes,
            from: self.name(&one.from),
            rate_bytes_per_s: one.rate_bytes_per_s,
        }
    }

    /// A fetch in the API's words.
    pub(super) fn fetch_view(&self, progress: &Progress) -> ImageFetch {
        let from = progress.by_peer.iter().map(|(node, bytes)| FetchedFrom {
            node_id: node.to_string(),
            name: self.name(node),
            bytes: *bytes,
        });
        let (state, reason) = match &progress.phase {
            Phase::Queued => (FetchState::Queued, None),
            Phase::Waiting => (FetchState::Waiting, None),
            Phase::Preparing => (FetchState::Preparing, None),
            Phase::Fetching => (FetchState::Fetching, None),
            Phase::Publishing => (FetchState::Publishing, None),
            Phase::Done => (FetchState::Done, None),
            Phase::Failed(reason) => (FetchState::Failed, Some(reason.clone())),
        };
        ImageFetch {
            image: progress.image.to_string(),
            label: progress.label.clone(),
            state,
            total_bytes: progress.total_bytes,
            here_bytes: progress.here_bytes,
            reused_bytes: progress.reused_bytes,
            wire_bytes: progress.wire_bytes,
            peers: u32::try_from(progress.peers).unwrap_or(u32::MAX),
            from: from.collect(),
            reason,
        }
    }

    /// What is being fetched, then each change; what had ended before is left out.
    pub(super) fn fetch_events(&self) -> impl Stream<Item = Event> + use<> {
        let api = self.clone();
        let all = self.exchange.as_ref().map(Exchange::all);
        let mut known: BTreeMap<ImageId, Progress> = BTreeMap::new();
        if let Some(all) = &all {
            let ended = all
                .borrow()
                .iter()
                .filter(|one| one.phase.is_end())
                .map(|one| (one.image, one.clone()))
                .collect();
            known = ended;
        }
        let changes = match all {
            Some(all) => WatchStream::new(all).left_stream(),
            None => stream::empty().right_stream(),
        };
        changes.flat_map(move |all| {
            let news: Vec<Event> = all
                .iter()
                .filter(|one| known.get(&one.image) != Some(*one))
                .map(|one| Event::ImageFetch(api.fetch_view(one)))
                .collect();
            known = all.into_iter().map(|one| (one.image, one)).collect();
            stream::iter(news)
        })
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        let code = match &error {
            FindError::NoName { .. } | FindError::Several { .. } => Code::BadRequest,
            FindError::Alone { .. } | FindError::NobodyHasIt { .. } => Code::UnknownImage,
        };
        Self::new(code, error.to_string())
    }
}

impl From<exchange::Error> for Failure {
    /// What the exchange answers before it fetches: only that it has ended.
    fn from(error: exchange::Error) -> Self {
        Self::new(Code::ShuttingDown, error.to_string())
    }
}
