//! Connections: how many, and how long one may be silent.
//!
//! One rule keeps slow and dead clients out: a connection on which this side has written nothing for
//! [`SILENCE_LIMIT`] is closed. It covers a request that drips in byte by byte, a body that never comes, a client that does
//! not read its answer, and an idle connection. Handlers answer at once and event streams are kept alive more often.
//!
//! In a mission, a connection is handed on only after its TLS handshake, so nothing behind this module ever sees a byte of
//! somebody who is not a member. Handshakes run beside each other: one that is slow holds up nobody else. Until it has
//! proved itself a connection stands in a [`Crowd`], apart from the places of members: who opens connections and says nothing
//! pushes out his own. Each member has so many places and no more.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use mesh::NodeId;
use mesh::crowd::Crowd;
use mesh::trust::{Member, tls};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::Arrival;
use super::gate::Peer;
use super::wire::{Carrier, Wire};
use crate::peers::{Relayed, Relays};
use crate::places::{Place, Places};
use crate::trust::Membership;

/// Most connections at a time, those that have not proved themselves yet apart; further ones wait, for
/// [`HANDSHAKE_LIMIT`] in a mission. A handheld holds one or two. Guess.
pub const MAX_CONNECTIONS: usize = 512;
/// Most connections of one member. Guess: all its tunnels, and as many requests beside each other.
pub const MAX_OF_MEMBER: usize = 2 * handheld::api::MAX_TUNNELS;
/// How long a connection may go without a byte written by this side. Guess: over ten times what a request of 64 KiB needs at
/// 256 kbit/s.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// How long a TLS handshake may take. Guess: two round trips and four kilobytes, at 8 kbit/s.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// After how long without a packet a peer is asked whether it is still there; a few unanswered questions later the
/// connection is gone. It matters for tunnels, which may be silent for long. Guess: a packet of 60 bytes in 30 s.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(30);
/// Finished handshakes that wait to be served. The server takes them at once; guess.
const FINISHED: usize = 16;

/// What connections of members need.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    membership: Membership,
    /// Of all members together.
    places: Arc<Semaphore>,
    /// By public key.
    of_members: Places<[u8; 32]>,
}

impl Tls {
    pub(super) fn new(membership: &Membership) -> Result<Self, mesh::trust::Error> {
        let config = tls::server(membership.trust())?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            membership: membership.clone(),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            of_members: Places::default(),
        })
    }

    /// The connection of a member; `None` for everybody else.
    async fn shake_hands(self: Arc<Self>, raw: Raw) -> Option<(Connection, SocketAddr)> {
        let peer = raw.peer;
        match tokio::time::timeout(HANDSHAKE_LIMIT, self.prove(raw)).await {
            Ok(Ok(connection)) => Some((connection, peer)),
            // Not louder: strangers must not be able to fill the log.
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "not let in");
                None
            }
            Err(late) => {
                tracing::debug!(%peer, %late, "not let in");
                None
            }
        }
    }

    async fn prove(&self, raw: Raw) -> io::Result<Connection> {
        let Raw { stream, mut places, .. } = raw;
        let stream = self.acceptor.accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let member = self.membership.verify(chain).map_err(io::Error::other)?;
        places._of_member = self.of_members.enter(member.public_key, MAX_OF_MEMBER);
        if places._of_member.is_none() {
            return Err(io::Error::other(format!("'{}' has too many connections", member.name)));
        }
        places._place = Some(self.places.clone().acquire_owned().await.map_err(io::Error::other)?);
        Ok(Connection::new(Wire::Tls(Box::new(stream)), SILENCE_LIMIT, places, Some(Arc::new(member))))
    }
}

/// A connection on which nothing was said yet.
struct Raw {
    stream: Carrier,
    peer: SocketAddr,
    places: Held,
}

/// What a connection takes up for as long as it lives.
#[derive(Default)]
struct Held {
    _place: Option<OwnedSemaphorePermit>,
    _of_member: Option<Place<[u8; 32]>>,
    _relay: Option<Place<NodeId>>,
}

/// A listener whose connections keep to the limits.
pub(super) struct Guarded {
    address: io::Result<SocketAddr>,
    source: Source,
}

enum Source {
    Plain {
        door: Door,
        places: Arc<Semaphore>,
    },
    /// Doors are watched by a task that ends with this listener.
    Tls {
        finished: mpsc::Receiver<(Connection, SocketAddr)>,
        _task: AbortOnDropHandle<()>,
    },
}

struct Door(TcpListener);

impl Door {
    async fn open(&mut self) -> Raw {
        let (stream, peer) = Listener::accept(&mut self.0).await;
        // Answers are small; waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_AFTER).with_interval(KEEP_ALIVE_AFTER / 3);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keep_alive) {
            tracing::debug!(%error, "cannot set SO_KEEPALIVE");
        }
        Raw { stream: Carrier::Tcp(stream), peer, places: Held::default() }
    }
}

impl Guarded {
    /// With `tls`, for members only; of those also the ones whom other cloudlets bring.
    pub(super) fn new(listener: TcpListener, tls: Option<Tls>, relayed: Option<Relays>) -> Self {
        let address = listener.local_addr();
        let door = Door(listener);
        let source = match tls {
            None => Source::Plain { door, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) },
            Some(tls) => {
                let (sender, finished) = mpsc::channel(FINISHED);
                let task = tokio::spawn(shake_all_hands(door, Arc::new(tls), relayed, sender));
                Source::Tls { finished, _task: AbortOnDropHandle::new(task) }
            }
        };
        Self { address, source }
    }
}

/// A connection that another cloudlet brought: it stands in no crowd, since that cloudlet has its own limit.
fn brought(relayed: Relayed) -> Raw {
    let Relayed { stream, by, place } = relayed;
    tracing::debug!(%by, "another cloudlet brings a connection");
    // Relayed connections have no address; the certificate says who it is.
    let peer = SocketAddr::from(([0, 0, 0, 0], 0));
    let places = Held { _relay: Some(place), ..Held::default() };
    Raw { stream: Carrier::Relayed(Box::new(stream)), peer, places }
}

/// Handshakes under way.
struct Hands {
    crowd: Crowd<u64>,
    aborts: BTreeMap<u64, AbortHandle>,
    shaking: JoinSet<(u64, Option<(Connection, SocketAddr)>)>,
    next: u64,
}

impl Hands {
    fn shake(&mut self, tls: &Arc<Tls>, raw: Raw) {
        let key = self.next;
        self.next += 1;
        let (tls, stranger) = (tls.clone(), matches!(raw.stream, Carrier::Tcp(_)).then(|| raw.peer.ip()));
        let abort = self.shaking.spawn(async move { (key, tls.shake_hands(raw).await) });
        if let Some(ip) = stranger {
            self.aborts.insert(key, abort);
            if let Some(gone) = self.crowd.push(key, ip)
                && let Some(abort) = self.aborts.remove(&gone)
            {
                abort.abort();
            }
        }
    }

    fn done(&mut self, key: u64) {
        self.crowd.leave(key);
        self.aborts.remove(&key);
    }

    /// One that panicked does not say which it was.
    fn sweep(&mut self) {
        let finished: Vec<u64> =
            self.aborts.iter().filter(|(_, abort)| abort.is_finished()).map(|(key, _)| *key).collect();
        finished.into_iter().for_each(|key| self.done(key));
    }
}

async fn shake_all_hands(
    mut door: Door,
    tls: Arc<Tls>,
    mut relayed: Option<Relays>,
    sender: mpsc::Sender<(Connection, SocketAddr)>,
) {
    let crowd = Crowd::new(tls.membership.strangers());
    let mut hands = Hands { crowd, aborts: BTreeMap::new(), shaking: JoinSet::new(), next: 0 };
    loop {
        let next = async {
            match &mut relayed {
                Some(relayed) => relayed.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            raw = door.open() => hands.shake(&tls, raw),
            more = next => match more {
                Some(more) => hands.shake(&tls, brought(more)),
                None => relayed = None,
            },
            Some(shaken) = hands.shaking.join_next() => match shaken {
                Ok((key, member)) => {
                    hands.done(key);
                    if let Some(member) = member && sender.send(member).await.is_err() {
                        return;
                    }
                }
                // It was pushed out.
                Err(error) if error.is_cancelled() => {}
                Err(panic) => {
                    tracing::error!(%panic, "a TLS handshake panicked");
                    hands.sweep();
                }
            },
        }
    }
}

impl Listener for Guarded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match &mut self.source {
            Source::Plain { door, places } => {
                // The semaphore is never closed; if it were, connections would go unlimited rather than unanswered.
                let place = places.clone().acquire_owned().await.ok();
                let Raw { stream, peer, mut places } = door.open().await;
                places._place = place;
                (Connection::new(Wire::Plain(stream), SILENCE_LIMIT, places, None), peer)
            }
            Source::Tls { finished, .. } => match finished.recv().await {
                Some(member) => member,
                // The task ended by a panic, which it has logged; nobody comes any more.
                None => std::future::pending().await,
            },
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(error.kind().into()),
        }
    }
}

impl Connected<IncomingStream<'_, Guarded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Guarded>) -> Self {
        let connection = stream.io();
        let address = connection.stream.tcp().and_then(|tcp| tcp.local_addr().ok());
        let arrival = Arrival(address.map(|address| address.ip().to_canonical()));
        Self { arrival, member: connection.member.clone(), silence: connection.silence.allowed.clone() }
    }
}

/// Says that a connection may be silent from now on: it has become a tunnel, which has its own rules.
#[derive(Debug, Clone, Default)]
pub(super) struct Silence(Arc<AtomicBool>);

impl Silence {
    pub(super) fn allow(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_allowed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection that does not outlast its silence.
pub(super) struct Connection {
    stream: Wire,
    member: Option<Arc<Member>>,
    limit: Duration,
    silence: Alarm,
    _places: Held,
}

struct Alarm {
    rings: Pin<Box<Sleep>>,
    allowed: Silence,
}

impl Connection {
    fn new(stream: Wire, limit: Duration, places: Held, member: Option<Arc<Member>>) -> Self {
        let silence = Alarm { rings: Box::pin(tokio::time::sleep(limit)), allowed: Silence::default() };
        Self { stream, member, limit, silence, _places: places }
    }

    fn silent<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.silence.allowed.is_allowed() {
            return Poll::Pending;
        }
        ready!(self.silence.rings.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The limit first: a sender that always has one more byte must not outrun it.
        if let Poll::Ready(over) = self.silent(cx) {
            return Poll::Ready(over);
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.after_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.after_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connection {
    fn after_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => {
                let until = Instant::now() + self.limit;
                self.silence.rings.as_mut().reset(until);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.silent(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn pair(limit: Duration) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let carrier = Carrier::Tcp(listener.accept().await.unwrap().0);
        (Connection::new(Wire::Plain(carrier), limit, Held::default(), None), client)
    }

    #[tokio::test]
    async fn a_request_that_drips_in_does_not_keep_a_connection_open() {
        let limit = Duration::from_millis(100);
        let begin = Instant::now();
        let (mut server, mut client) = pair(limit).await;
        let error = loop {
            client.write_all(b"x").await.unwrap();
            let mut byte = [0];
            if let Err(error) = server.read(&mut byte).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= limit);
    }

    #[tokio::test]
    async fn nor_does_a_client_that_does_not_read() {
        let (mut server, _client) = pair(Duration::from_millis(100)).await;
        let endless = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = server.write_all(&endless).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_answer_begins_the_limit_anew() {
        let limit = Duration::from_millis(500);
        let (mut server, mut client) = pair(limit).await;
        for _ in 0..3 {
            tokio::time::sleep(limit / 2).await;
            server.write_all(b"a").await.unwrap();
        }
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_tunnel_may_be_silent() {
        let limit = Duration::from_millis(50);
        let (mut server, mut client) = pair(limit).await;
        server.silence.allowed.allow();
        tokio::time::sleep(limit * 3).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        server.write_all(b"y").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'y');
    }

    #[tokio::test]
    async fn further_connections_wait_until_one_ends() {
        let mut guarded = Guarded::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), None, None);
        let Source::Plain { places, .. } = &mut guarded.source else { unreachable!() };
        *places = Arc::new(Semaphore::new(1));
        let address = guarded.local_addr().unwrap();
        let (_one, _two) =
            (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let (first, _) = guarded.accept().await;
        let second = tokio::time::timeout(Duration::from_millis(50), guarded.accept()).await;
        assert!(second.is_err());
        drop(first);
        guarded.accept().await;
    }
}
