//! Connections: how many, and how long one may be silent.
//!
//! One rule keeps slow and dead clients out: a connection on which this side has written nothing for
//! [`SILENCE_LIMIT`] is closed. It covers a request that drips in byte by byte, a body that never comes, a client that does
//! not read its answer, and an idle connection. Handlers answer at once and event streams are kept alive more often.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::Arrival;

/// Most connections at a time; further ones wait in the kernel's queue. A handheld holds one or two. Guess.
pub const MAX_CONNECTIONS: usize = 512;
/// How long a connection may go without a byte written by this side. Guess: over ten times what a request of 64 KiB needs at
/// 256 kbit/s.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// A listener whose connections keep to the limits.
pub(super) struct Guarded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Guarded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }
}

impl Listener for Guarded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; if it were, connections would go unlimited rather than unanswered.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        // Answers are small; waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        (Connection::new(stream, SILENCE_LIMIT, place), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Guarded>> for Arrival {
    fn connect_info(stream: IncomingStream<'_, Guarded>) -> Self {
        Self(stream.io().stream.local_addr().ok().map(|address| address.ip().to_canonical()))
    }
}

/// A connection that does not outlast its silence.
pub(super) struct Connection {
    stream: TcpStream,
    limit: Duration,
    silence: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn new(stream: TcpStream, limit: Duration, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { stream, limit, silence: Box::pin(tokio::time::sleep(limit)), _place: place }
    }

    fn silent<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.silence.as_mut().poll(cx));
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
                self.silence.as_mut().reset(until);
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

    use super::*;

    async fn pair(limit: Duration) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Connection::new(listener.accept().await.unwrap().0, limit, None), client)
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
    async fn further_connections_wait_until_one_ends() {
        let mut guarded = Guarded::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        guarded.places = Arc::new(Semaphore::new(1));
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
