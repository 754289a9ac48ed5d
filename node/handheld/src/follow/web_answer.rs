//! Answers on their way to the client.
//!
//! An answer is held back for a moment, so that one whose connection breaks can be thrown away and asked for again: until
//! it is complete, longer than [`HELD_BYTES_MOST`], or older than [`HELD_FOR`]. A stream of events is not held at all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::response;
use hyper::{Method, Response, StatusCode, Version};

use super::carried::{Carried, Failure, Stage};
use super::shared::{Shared, Ticket};
use super::web::{Trouble, strip};

/// Most bytes of an answer that are held back. Guess: answers of services such as speech have kilobytes.
const HELD_BYTES_MOST: usize = 256 * 1024;
/// Longest time that the begun answer is held back. Guess: longer than a short answer takes on a slow link, and too short
/// for a person to mind.
const HELD_FOR: Duration = Duration::from_secs(1);

/// The rest of an answer did not come; the client's connection is cut.
#[derive(Debug, thiserror::Error)]
#[error("the rest of the answer did not come")]
pub(super) struct Cut;

pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Cut>;

/// An answer that is complete, or will be held no longer.
pub(super) struct Answer {
    parts: response::Parts,
    held: VecDeque<Frame<Bytes>>,
    rest: Option<Incoming>,
}

/// Holds an answer back for as long as that makes sense.
pub(super) async fn hold(
    shared: &Shared,
    carried: &mut Carried,
    method: &Method,
    response: Response<Incoming>,
) -> Result<Answer, Trouble> {
    let (mut parts, mut body) = response.into_parts();
    strip(&mut parts.headers);
    parts.version = Version::HTTP_11;
    let mut held = VecDeque::new();
    let streams = parts.headers.get(header::CONTENT_TYPE);
    let streams = streams.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if streams && *method != Method::HEAD {
        return Ok(Answer { parts, held, rest: Some(body) });
    }
    let (mut bytes, until) = (0, shared.now() + HELD_FOR);
    loop {
        let next = async {
            tokio::select! { biased;
                frame = body.frame() => Some(frame),
                () = shared.sleep_until(Some(until)) => None,
            }
        };
        match shared.race(carried, next).await? {
            Some(None) => return Ok(Answer { parts, held, rest: None }),
            Some(Some(Ok(frame))) => {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                held.push_back(frame);
                if bytes > HELD_BYTES_MOST {
                    return Ok(Answer { parts, held, rest: Some(body) });
                }
            }
            Some(Some(Err(error))) => {
                tracing::debug!(%error, "an answer broke off");
                return Err(Trouble::Broke);
            }
            None => return Ok(Answer { parts, held, rest: Some(body) }),
        }
    }
}

/// What an answer needs until its last byte.
struct Passing {
    shared: Arc<Shared>,
    carried: Carried,
    held: VecDeque<Frame<Bytes>>,
    rest: Option<Incoming>,
    _ticket: Ticket,
}

impl Answer {
    /// The answer as the client gets it. From here on nothing is repeated.
    pub fn passed_on(
        self,
        shared: Arc<Shared>,
        mut carried: Carried,
        ticket: Ticket,
    ) -> Response<AnswerBody> {
        carried.reached(Stage::PassingOn);
        let Self { parts, held, rest } = self;
        let passing = Passing { shared, carried, held, rest, _ticket: ticket };
        let frames = futures_util::stream::unfold(Some(passing), async |passing| {
            let mut passing = passing?;
            match passing.next().await {
                Some(Ok(frame)) => Some((Ok(frame), Some(passing))),
                Some(Err(cut)) => Some((Err(cut), None)),
                None => None,
            }
        });
        Response::from_parts(parts, StreamBody::new(frames).boxed_unsync())
    }
}

impl Passing {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Cut>> {
        if let Some(frame) = self.held.pop_front() {
            return Some(Ok(frame));
        }
        let rest = self.rest.as_mut()?;
        match self.shared.race(&mut self.carried, rest.frame()).await {
            Ok(frame) => {
                let frame = frame?;
                Some(frame.map_err(|error| {
                    tracing::info!(%error, "an answer broke off after a part was passed on");
                    self.shared.broke(self.carried.generation());
                    Cut
                }))
            }
            Err(_) => {
                tracing::info!("an answer is cut off: its instance is elsewhere");
                Some(Err(Cut))
            }
        }
    }
}

/// What the client is told instead of the service's answer.
pub(super) fn failure(failure: Failure) -> Response<AnswerBody> {
    let (status, code) = match failure {
        Failure::NoPlace => (StatusCode::SERVICE_UNAVAILABLE, "no-place"),
        Failure::Full => (StatusCode::SERVICE_UNAVAILABLE, "full"),
        Failure::Over => (StatusCode::SERVICE_UNAVAILABLE, "over"),
        Failure::Lost => (StatusCode::GATEWAY_TIMEOUT, "lost"),
        Failure::Broken => (StatusCode::BAD_GATEWAY, "broken"),
        Failure::Poison => (StatusCode::BAD_GATEWAY, "broken-again"),
    };
    let mut response = refusal(status, code, &failure.to_string());
    if matches!(failure, Failure::NoPlace | Failure::Full) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// An answer of this endpoint itself: JSON with `error` for programs and `message` for people.
pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Response<AnswerBody> {
    let body = serde_json::json!({"error": code, "message": message}).to_string();
    let mut response = Response::new(Full::from(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
