//! What connections of the API consist of: a socket or a stream of the mesh, and TLS over it in a mission.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::peers::ByPeer;

/// What brings the bytes.
pub(super) enum Carrier {
    Tcp(TcpStream),
    /// A stream from another cloudlet, which sees nothing but TLS.
    Relayed(Box<ByPeer>),
}

/// Bytes as they are, or as TLS carries them.
pub(super) enum Wire {
    Plain(Carrier),
    Tls(Box<TlsStream<Carrier>>),
}

impl Wire {
    /// The socket, if there is one here.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        let carrier = match self {
            Self::Plain(carrier) => carrier,
            Self::Tls(stream) => stream.get_ref().0,
        };
        match carrier {
            Carrier::Tcp(stream) => Some(stream),
            Carrier::Relayed(_) => None,
        }
    }
}

/// An enum of streams is one itself.
macro_rules! streams {
    ($kind:ident { $($variant:ident($stream:ident) => $pinned:expr),+ $(,)? }) => {
        impl AsyncRead for $kind {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match &mut *self { $(Self::$variant($stream) => Pin::new($pinned).poll_read(cx, buf)),+ }
            }
        }

        impl AsyncWrite for $kind {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match &mut *self { $(Self::$variant($stream) => Pin::new($pinned).poll_write(cx, buf)),+ }
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match &mut *self { $(Self::$variant($stream) => Pin::new($pinned).poll_write_vectored(cx, bufs)),+ }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $(Self::$variant($stream) => $stream.is_write_vectored()),+ }
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut *self { $(Self::$variant($stream) => Pin::new($pinned).poll_flush(cx)),+ }
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut *self { $(Self::$variant($stream) => Pin::new($pinned).poll_shutdown(cx)),+ }
            }
        }
    };
}

streams!(Carrier { Tcp(stream) => stream, Relayed(stream) => stream.as_mut() });
streams!(Wire { Plain(stream) => stream, Tls(stream) => stream.as_mut() });
