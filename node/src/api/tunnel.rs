//! Raw bytes between a member and a Service VM, inside the API's connection.
//!
//! In a mission the forwarded port of a Service VM is open on loopback only, so that strangers find no port to use. A
//! member asks the API for a tunnel; after the answer 101 its connection carries the bytes of one TCP connection to the
//! service, both ways, half-closes included. What ends a tunnel: both sides are done; the member is revoked, expires or no
//! longer uses the instance; the instance stops; nothing was said for [`IDLE_LIMIT`]; the cloudlet shuts down. All but
//! the first cut it, so that neither side takes the end for the end of what the other wanted to say.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use handheld::api::{Code, MAX_TUNNELS, Problem, TUNNEL_PROTOCOL};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use migration::VmId;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::connection::Silence;
use super::extract::{Asked, token};
use super::gate::{CHECK_INTERVAL, Peer, Standing};
use super::problem::Failure;
use crate::exchange::Throttle;
use crate::instances::Instances;
use crate::lifecycle::{Phase, Token};
use crate::places::Place;

/// How long a tunnel may be without a byte in either direction. Guess: above any pause for thought of a service; a peer
/// that is gone without a word is noticed sooner, by TCP's keep-alive.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// How long the service in the guest may take to accept a connection; the way is this host's own.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Bytes under way in each direction. Two records of TLS.
const BUFFER_BYTES: usize = 32 * 1024;

/// Who wants the tunnel.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct User {
    /// The client that uses the instance.
    client_token: String,
}

/// A TCP connection to the service of an instance.
///
/// Ask with `Connection: Upgrade` and `Upgrade: cloudlet-tcp`. While the tunnel is open, the client counts as using the
/// instance.
#[utoipa::path(get, path = "/instances/{id}/tunnel", tag = "instances", params(
    ("id" = String, Path, format = Uuid, description = "Id of the instance"), User,
), responses(
    (status = 101, description = "From here on, the connection carries the bytes of a TCP connection to the service"),
    (status = 400, description = "The client token is missing or impossible (`bad-request`)", body = Problem),
    (status = 403, description = "That client does not use the instance (`not-allowed`)", body = Problem),
    (status = 404, description = "There is no such instance here (`unknown-instance`)", body = Problem),
    (status = 409, description = "The instance is not ready (`not-ready`)", body = Problem),
    (status = 426, description = "The headers that ask for a tunnel are missing (`bad-request`)", body = Problem),
    (status = 429, description = "This member has too many tunnels (`too-many-tunnels`)", body = Problem),
    (status = 502, description = "The service takes no connections (`unreachable`)", body = Problem),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn tunnel(
    State(api): State<Api>,
    ConnectInfo(standing): ConnectInfo<Standing>,
    Path(id): Path<String>,
    Asked(user): Asked<User>,
    upgrade: Upgrade,
) -> Result<Response, Failure> {
    let (vm, token) = (id.parse().map_err(|_| Failure::unknown_instance(&id))?, token(user.client_token)?);
    let place = api.tunnel_place(&standing)?;
    let instance = api.instances.get(vm, Some(token.clone())).await?;
    let instance = instance.ok_or_else(|| Failure::unknown_instance(&id))?;
    if !instance.users.contains_key(&token) {
        let message = "this client does not use the instance; ask for it first (POST /api/v1/instances)";
        return Err(Failure::new(Code::NotAllowed, message));
    }
    let address = instance.address.filter(|_| matches!(instance.phase, Phase::Ready { .. }));
    let address = address.ok_or_else(|| Failure::new(Code::NotReady, "the instance is not ready"))?;
    let unreachable = |why: String| {
        Failure::new(Code::Unreachable, format!("the service takes no connections ({why}); try again"))
    };
    let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
    let mut service = connected
        .map_err(|late| unreachable(late.to_string()))?
        .map_err(|error| unreachable(error.to_string()))?;
    if let Err(error) = service.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let tunnel = api.tunnel_of(standing, place);
    Ok(upgrade.then(async move |client| {
        let use_of_it = Use { instances: api.instances, vm, token };
        let end = tunnel.carry(client, &mut service, Some(&use_of_it)).await;
        tracing::debug!(%vm, ?end, "a tunnel ended");
        if end != End::Done
            && let Err(error) = service.set_zero_linger()
        {
            tracing::debug!(%error, "cannot cut the connection to the service");
        }
    }))
}

/// A client's use of an instance.
pub(super) struct Use {
    instances: Instances,
    vm: VmId,
    token: Token,
}

impl Use {
    /// Whether it goes on; says at the same time that the client is there.
    async fn goes_on(&self) -> bool {
        match self.instances.get(self.vm, Some(self.token.clone())).await {
            Ok(Some(instance)) => {
                matches!(instance.phase, Phase::Ready { .. }) && instance.users.contains_key(&self.token)
            }
            _ => false,
        }
    }
}

impl Api {
    pub(super) fn tunnel_of(&self, standing: Standing, place: Place<Option<[u8; 32]>>) -> Tunnel {
        let throttle = self.exchange.as_ref().map(|exchange| exchange.throttle().clone());
        Tunnel { standing, goodbye: self.goodbye.clone(), throttle, _place: place }
    }

    /// One more tunnel of this member.
    pub(super) fn tunnel_place(&self, standing: &Standing) -> Result<Place<Option<[u8; 32]>>, Failure> {
        let key = standing.0.as_ref().map(|(_, member)| member.public_key());
        self.tunnels.enter(key, MAX_TUNNELS).ok_or_else(|| {
            let message = format!("you have {MAX_TUNNELS} tunnels through this cloudlet; close one first");
            Failure::new(Code::TooManyTunnels, message)
        })
    }
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides had said all.
    Done,
    /// One side's connection broke.
    Broken,
    /// The member was revoked, or its certificate expired.
    NotAllowed,
    /// What it leads to is no longer there for this client.
    Gone,
    /// Nobody said anything for [`IDLE_LIMIT`].
    Idle,
    /// The cloudlet shuts down.
    Goodbye,
}

/// What both kinds of tunnel have.
pub(super) struct Tunnel {
    standing: Standing,
    goodbye: CancellationToken,
    /// What gives way to what goes through the tunnel.
    throttle: Option<Throttle>,
    _place: Place<Option<[u8; 32]>>,
}

impl Tunnel {
    /// Carries bytes both ways until the end, for as long as `in_use` goes on if there is any.
    pub(super) async fn carry(
        &self,
        client: Upgraded,
        other: &mut (impl AsyncRead + AsyncWrite + Unpin),
        in_use: Option<&Use>,
    ) -> End {
        let moved = Arc::new(AtomicU64::new(0));
        let mut client =
            Counted { stream: TokioIo::new(client), moved: moved.clone(), throttle: self.throttle.clone() };
        let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, other, BUFFER_BYTES, BUFFER_BYTES);
        tokio::select! {
            copied = copied => if copied.is_ok() { End::Done } else { End::Broken },
            end = self.watch(&moved, in_use) => end,
            () = self.goodbye.cancelled() => End::Goodbye,
        }
    }

    async fn watch(&self, moved: &AtomicU64, in_use: Option<&Use>) -> End {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if !self.standing.holds() {
                return End::NotAllowed;
            }
            if let Some(in_use) = in_use
                && !in_use.goes_on().await
            {
                return End::Gone;
            }
            match moved.load(Ordering::Relaxed) {
                so_far if so_far == last && since.elapsed() >= IDLE_LIMIT => return End::Idle,
                so_far if so_far == last => {}
                so_far => (last, since) = (so_far, Instant::now()),
            }
        }
    }
}

/// A request that wants to become a tunnel.
pub(super) struct Upgrade {
    upgrade: OnUpgrade,
    silence: Silence,
}

impl Upgrade {
    /// Answers 101, and does `work` with the connection.
    pub(super) fn then<W>(self, work: impl FnOnce(Upgraded) -> W + Send + 'static) -> Response
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let Self { upgrade, silence } = self;
        tokio::spawn(async move {
            match upgrade.await {
                Ok(client) => {
                    silence.allow();
                    work(client).await;
                }
                Err(error) => tracing::debug!(%error, "a tunnel was asked for and not taken"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static(TUNNEL_PROTOCOL));
        response
    }
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let asks = parts.method == Method::GET
            && says(&parts.headers, header::CONNECTION, "upgrade")
            && says(&parts.headers, header::UPGRADE, TUNNEL_PROTOCOL);
        let peer = parts.extensions.get::<ConnectInfo<Peer>>().map(|info| info.0.silence.clone());
        match (parts.extensions.remove::<OnUpgrade>(), peer) {
            (Some(upgrade), Some(silence)) if asks => Ok(Self { upgrade, silence }),
            _ => {
                let message =
                    format!("ask for a tunnel with 'Connection: Upgrade' and 'Upgrade: {TUNNEL_PROTOCOL}'");
                Err(Failure::new(Code::BadRequest, message).with_status(StatusCode::UPGRADE_REQUIRED))
            }
        }
    }
}

/// Whether one of a header's values is this.
fn says(headers: &HeaderMap, name: header::HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name);
    let mut words = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
}

/// A stream that counts what goes through it.
struct Counted<T> {
    stream: T,
    moved: Arc<AtomicU64>,
    throttle: Option<Throttle>,
}

impl<T> Counted<T> {
    fn count(&self, bytes: usize) {
        if let Some(throttle) = self.throttle.as_ref().filter(|_| bytes > 0) {
            throttle.touch();
        }
        self.moved.fetch_add(bytes.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.count(buf.filled().len() - before);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = written {
            self.count(bytes);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
