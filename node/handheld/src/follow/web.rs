//! HTTP/1 requests: kept until they are answered, and sent again where the service is then.
//!
//! Every request has a line to the service that is kept between requests, as long as the instance stays where it is. Request
//! bodies up to [`super::Settings::body_bytes_most`] are read whole first; longer ones are passed on as they come, and such a
//! request is not repeated once a byte of it was sent. Answers are held back until they are complete, long, or late
//! (see [`super::web_answer`]), and then passed on as they come.
//!
//! Requests whose method is not idempotent (RFC 9110, section 9.2.2) get an `Idempotency-Key` if the client gave none. It
//! is the same each time that the request is sent.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::carried::{Carried, Failure, Fate, Repeat, Stage};
use super::place::Place;
use super::shared::{GivenUp, Shared, Ticket};
use super::web_answer::{self, Answer, AnswerBody};

/// Tells a service that it has seen a request before (draft-ietf-httpapi-idempotency-key-header).
pub const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Headers that are about one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

type RequestBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// A connection to the service that is kept between requests.
struct Line {
    generation: u64,
    sender: SendRequest<RequestBody>,
    task: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection of a client. Its requests come one after the other.
struct Connection {
    shared: Arc<Shared>,
    line: Mutex<Option<Line>>,
}

/// Serves one connection to its end.
pub(super) async fn carry(shared: Arc<Shared>, local: TcpStream) {
    if let Err(error) = local.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let connection = Arc::new(Connection { shared, line: Mutex::default() });
    let service = service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    let served = server.preserve_header_case(true).serve_connection(TokioIo::new(local), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a local connection ended early");
    }
}

/// What is sent, as often as it takes.
enum Sent {
    /// All of it is here.
    Kept(Bytes),
    /// It is too long, and can be sent once.
    Once(Option<RequestBody>),
}

impl Connection {
    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        if request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE) {
            let why =
                "this endpoint carries requests and answers only; serve it with --tcp for other protocols";
            return web_answer::refusal(StatusCode::NOT_IMPLEMENTED, "not-http", why);
        }
        let Some(ticket) = self.shared.enter() else { return web_answer::failure(Failure::Full) };
        match self.carry(request, ticket).await {
            Ok(response) => response,
            Err(failure) => {
                tracing::info!(why = %failure, "a request is not answered");
                web_answer::failure(failure)
            }
        }
    }

    async fn carry(
        &self,
        request: Request<Incoming>,
        mut ticket: Ticket,
    ) -> Result<Response<AnswerBody>, Failure> {
        let shared = &self.shared;
        let (mut parts, body) = request.into_parts();
        let repeat = prepare(&mut parts, shared.settings.repeat_unkeyed);
        let mut carried = Carried::new(shared.now(), repeat, shared.settings.patience);
        let mut body = match read(body, shared.settings.body_bytes_most, &mut ticket).await {
            Ok(body) => body,
            Err(error) => {
                tracing::debug!(%error, "a request did not arrive whole");
                let why = "the request did not arrive whole";
                return Ok(web_answer::refusal(StatusCode::BAD_REQUEST, "cut", why));
            }
        };
        if matches!(body, Sent::Once(_)) {
            carried.allow(Repeat::Unsent);
        }
        let mut not_before = shared.now();
        loop {
            let place = shared.place(&mut carried, not_before).await?;
            carried.goes(place.generation);
            let fate = match self.attempt(&place, &mut carried, &parts, &mut body).await {
                Ok(answer) => return Ok(answer.passed_on(shared.clone(), carried, ticket)),
                Err(Trouble::Broke) => {
                    shared.broke(place.generation);
                    carried.broke(shared.now())
                }
                Err(Trouble::Stale) => carried.was_stale(shared.now()),
                Err(Trouble::GivenUp(GivenUp::Moved)) => carried.broke(shared.now()),
                Err(Trouble::GivenUp(GivenUp::For(failure))) => return Err(failure),
            };
            match fate {
                Fate::Again(when) => not_before = when,
                Fate::Fail(failure) => return Err(failure),
                Fate::Cut => return Err(Failure::Broken),
            }
        }
    }

    /// Sends it once, and brings an answer that can be passed on.
    async fn attempt(
        &self,
        place: &Place,
        carried: &mut Carried,
        parts: &Parts,
        body: &mut Sent,
    ) -> Result<Answer, Trouble> {
        let shared = &self.shared;
        let (mut line, kept) = self.line(place, carried).await?;
        let method = parts.method.clone();
        let request = Request::from_parts(parts.clone(), body.next());
        carried.reached(Stage::Sent);
        let response = match shared.race(carried, line.sender.send_request(request)).await? {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%error, "a request got no answer");
                return Err(if kept { Trouble::Stale } else { Trouble::Broke });
            }
        };
        carried.reached(Stage::Answering);
        let answer = web_answer::hold(shared, carried, &method, response).await?;
        *self.line.lock().await = Some(line);
        Ok(answer)
    }

    /// The line to this place, and whether it has been used before.
    async fn line(&self, place: &Place, carried: &mut Carried) -> Result<(Line, bool), Trouble> {
        let shared = &self.shared;
        let old = self.line.lock().await.take();
        // What must not be sent twice does not go over a line that may be dead.
        if let Some(mut line) = old.filter(|line| line.generation == place.generation && carried.may_repeat())
            && shared.race(carried, line.sender.ready()).await?.is_ok()
        {
            return Ok((line, true));
        }
        let opened = shared.race(carried, place.open()).await?;
        let stream = opened.map_err(|error| {
            tracing::debug!(error = &error as &dyn std::error::Error, "no connection to the service");
            Trouble::Broke
        })?;
        let mut client = hyper::client::conn::http1::Builder::new();
        let made = client.preserve_header_case(true).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| {
            tracing::debug!(%error, "no connection to the service");
            Trouble::Broke
        })?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a line to the service broke");
            }
        });
        Ok((Line { generation: place.generation, sender, task }, false))
    }
}

/// Why an attempt brought no answer.
pub(super) enum Trouble {
    Broke,
    /// The line had been used before, and was dead.
    Stale,
    GivenUp(GivenUp),
}

impl From<GivenUp> for Trouble {
    fn from(given_up: GivenUp) -> Self {
        Self::GivenUp(given_up)
    }
}

impl Sent {
    fn next(&mut self) -> RequestBody {
        let empty = || Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        match self {
            Self::Kept(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
            // A second time does not come: it may be sent again only if nothing has left, and then it is still there.
            Self::Once(body) => body.take().unwrap_or_else(empty),
        }
    }
}

/// Makes the request one for another connection; says when it may be repeated.
fn prepare(parts: &mut Parts, repeat_unkeyed: bool) -> Repeat {
    strip(&mut parts.headers);
    parts.version = Version::HTTP_11;
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];
    if idempotent.contains(&parts.method) || parts.headers.contains_key(KEY) {
        return Repeat::Always;
    }
    if let Ok(key) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        parts.headers.insert(KEY, key);
    }
    if repeat_unkeyed { Repeat::Unanswered } else { Repeat::Unsent }
}

/// Takes out what is about one connection only, also what `Connection` names.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Reads the body whole if it is not too long.
async fn read(mut body: Incoming, most: usize, ticket: &mut Ticket) -> Result<Sent, hyper::Error> {
    let mut kept = Vec::new();
    let announced = body.size_hint().lower();
    let mut fits = usize::try_from(announced).is_ok_and(|announced| announced <= most);
    while fits {
        let Some(frame) = body.frame().await else { return Ok(Sent::Kept(kept.into())) };
        let Ok(data) = frame?.into_data() else { continue };
        fits = kept.len() + data.len() <= most && ticket.keep(data.len());
        kept.extend_from_slice(&data);
    }
    let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from(kept)))]);
    let rest = futures_util::stream::unfold(body, async |mut body| Some((body.frame().await?, body)));
    Ok(Sent::Once(Some(StreamBody::new(first.chain(rest)).boxed_unsync())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: Method, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_may_be_repeated_depends_on_method_and_key() {
        let mut get = parts(Method::GET, &[]);
        assert_eq!(prepare(&mut get, true), Repeat::Always);
        assert!(!get.headers.contains_key(KEY));
        let mut post = parts(Method::POST, &[]);
        assert_eq!(prepare(&mut post, true), Repeat::Unanswered);
        assert_eq!(post.headers[KEY].len(), 36);
        assert_eq!(prepare(&mut parts(Method::PATCH, &[]), false), Repeat::Unsent);
        let mut keyed = parts(Method::POST, &[("Idempotency-Key", "k1")]);
        assert_eq!(prepare(&mut keyed, false), Repeat::Always);
        assert_eq!(keyed.headers[KEY], "k1");
    }

    #[test]
    fn what_is_about_one_connection_stays_there() {
        let mut one = parts(
            Method::GET,
            &[
                ("Connection", "close, X-Hop"),
                ("X-Hop", "1"),
                ("TE", "trailers"),
                ("Accept", "*/*"),
                ("Host", "a"),
            ],
        );
        prepare(&mut one, true);
        let mut left: Vec<&str> = one.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host"]);
    }
}
