//! The endpoint at which handhelds are paired: a port of its own that speaks nothing but `mesh::trust::pairing`, and is
//! open only while a code is good.
//!
//! It is apart from the API, because the API speaks to nobody without a certificate, and who is to be paired has none.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handheld::api::PairingCode;
use mesh::trust::pairing::{Asked, Cloudlet, Code, Failure, Invitation, LIFETIME, MAX_ASKING_BYTES, State};
use mesh::trust::{Enroller, Permissions, Request, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Error;
use crate::instances::clock::{Clock, unix};
use crate::reach;

/// Longest time that one handheld may take. Guess: three round trips on the slowest link, and the bundle.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// Most connections at a time; further ones wait. Guess: one person shows one code to one other.
const MAX_CONNECTIONS: usize = 8;
/// How long to wait between two tries to bind the port of the code before. Guess: its task lets go of it as soon as it runs.
const BIND_PAUSE: Duration = Duration::from_millis(20);
/// How often that is tried, a second in all. Guess: a busy machine lets each task run within that.
const BIND_TRIES: u32 = 50;
/// How long to wait after a connection that could not be accepted. Guess: file descriptors come back when somebody is done.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Shows codes, one at a time.
pub(super) struct Endpoint {
    trust: Trust,
    listen: SocketAddr,
    clock: Clock,
    stop: CancellationToken,
    /// Dropped, it ends the code that is shown.
    shown: Mutex<Option<DropGuard>>,
}

/// A code that is shown, for the tasks that serve it.
struct Shown {
    trust: Trust,
    clock: Clock,
    grant: Permissions,
    core: Mutex<Cloudlet>,
}

impl Endpoint {
    pub(super) fn new(trust: Trust, listen: SocketAddr, stop: CancellationToken) -> Self {
        Self { trust, listen, clock: Clock::start(), stop, shown: Mutex::new(None) }
    }

    /// Shows a new code, in place of an earlier one, for a handheld that may do this much.
    pub(super) async fn show(&self, allow: Option<Permissions>) -> Result<PairingCode, Error> {
        let enroller = Enroller::new(self.trust.identity()).ok_or(Error::MayNotEnroll)?;
        let may = enroller.grants().map_err(Error::Store)?;
        let grant = allow.unwrap_or(may);
        if !may.contains(grant) {
            return Err(Error::MayNotGrant { may, asked: grant });
        }
        let code = Code::generate().map_err(Error::Store)?;
        // The earlier endpoint's port must be free before the new one opens.
        drop(self.shown.lock().unwrap_or_else(PoisonError::into_inner).take());
        let listener = self.bind().await?;
        let stop = self.stop.child_token();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop.clone().drop_guard());
        let bound = listener.local_addr().map_err(|source| Error::Listen { address: self.listen, source })?;
        let addresses = reachable(bound);
        let first = addresses.first().copied().unwrap_or(bound);
        let invitation = Invitation::new(first, code.clone(), enroller.certificate());
        let core = Mutex::new(Cloudlet::show(code.clone(), self.clock.now()));
        let shown = Arc::new(Shown { trust: self.trust.clone(), clock: self.clock, grant, core });
        tokio::spawn(serve(listener, shown, stop));
        tracing::info!(listen = %bound, "a pairing code is shown");
        Ok(PairingCode {
            code: code.digits().to_owned(),
            addresses,
            invitation: invitation.to_string(),
            allow: grant.to_string(),
            seconds: LIFETIME.as_secs(),
        })
    }

    async fn bind(&self) -> Result<TcpListener, Error> {
        // The task of the code before lets go of the port as soon as it runs; a stranger's program never does.
        let mut tries = 0;
        loop {
            match TcpListener::bind(self.listen).await {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BIND_PAUSE).await;
                }
                Err(source) => return Err(Error::Listen { address: self.listen, source }),
            }
        }
    }
}

/// Where others can reach a port that was opened here.
fn reachable(bound: SocketAddr) -> Vec<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    let same_family = |ip: &IpAddr| ip.is_ipv4() == bound.is_ipv4();
    let mut addresses: Vec<IpAddr> = reach::host_addresses().into_iter().filter(same_family).collect();
    if addresses.is_empty() {
        return vec![bound];
    }
    addresses.sort_by_key(|ip| (ip.is_loopback(), *ip));
    addresses.into_iter().map(|ip| SocketAddr::new(ip, bound.port())).collect()
}

/// Serves a code until it is used, locked or expired, or `stop` is cancelled.
async fn serve(listener: TcpListener, shown: Arc<Shown>, stop: CancellationToken) {
    let mut runs = JoinSet::new();
    let expires = tokio::time::sleep(LIFETIME);
    tokio::pin!(expires);
    let mut number = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = &mut expires => break,
            Some(ended) = runs.join_next() => {
                if let Err(panic) = ended {
                    tracing::error!(%panic, "a pairing panicked");
                }
                if shown.state() != State::Open {
                    break;
                }
            }
            accepted = listener.accept(), if runs.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    number += 1;
                    runs.spawn(run(shown.clone(), stream, peer, number));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept");
                    // Out of descriptors, most likely, which does not pass by trying at once.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    tracing::info!(code = ?shown.state(), "the pairing endpoint is closed");
}

async fn run(shown: Arc<Shown>, mut stream: TcpStream, peer: SocketAddr, number: u64) {
    let outcome = tokio::time::timeout(RUN_LIMIT, shown.converse(&mut stream, number)).await;
    shown.core().lost(number);
    match outcome {
        Ok(Ok(Ok(name))) => tracing::info!(%peer, name, "a handheld was paired"),
        Ok(Ok(Err(failure))) => tracing::warn!(%peer, %failure, "a pairing failed"),
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a pairing broke off"),
        Err(_) => tracing::debug!(%peer, "a pairing took too long"),
    }
}

impl Shown {
    fn core(&self) -> std::sync::MutexGuard<'_, Cloudlet> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> State {
        self.core().state(self.clock.now())
    }

    /// One handheld, from its first frame to its bundle; gives its name.
    async fn converse(&self, stream: &mut TcpStream, number: u64) -> io::Result<Result<String, Failure>> {
        let hello = receive(stream).await?;
        let answer = self.core().hello(self.clock.now(), number, &hello);
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return refuse(stream, failure).await,
        };
        send(stream, &answer).await?;
        let request = receive(stream).await?;
        let asked = self.core().request(self.clock.now(), number, &request);
        let enrolled = asked.and_then(|asked| self.enroll(asked));
        match enrolled {
            Ok((frame, name)) => {
                send(stream, &frame).await?;
                Ok(Ok(name))
            }
            Err(failure) => refuse(stream, failure).await,
        }
    }

    fn enroll(&self, asked: Asked) -> Result<(Vec<u8>, String), Failure> {
        let signed = || -> Result<_, mesh::trust::Error> {
            let request = Request::from_der(&asked.request)?;
            let Some(enroller) = Enroller::new(self.trust.identity()) else {
                return Err(mesh::trust::Error::NotAllowed("this cloudlet may not enroll".to_owned()));
            };
            let now = unix().as_secs();
            let bundle =
                self.trust.with(|mission| enroller.enroll(mission, &request, self.grant, now, None))?;
            Ok((bundle.to_json()?, request.name))
        };
        match signed() {
            Ok((json, name)) => Ok((asked.grant(json.as_bytes())?, name)),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a handheld with the right code is not enrolled"
                );
                Err(Failure::NotEnrolled)
            }
        }
    }
}

async fn refuse(stream: &mut TcpStream, failure: Failure) -> io::Result<Result<String, Failure>> {
    send(stream, &failure.frame()).await?;
    Ok(Err(failure))
}

async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if length > MAX_ASKING_BYTES {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn send(stream: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), frame].concat()).await?;
    stream.flush().await
}
