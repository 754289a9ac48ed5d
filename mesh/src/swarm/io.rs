//! Frames on a link's stream.
//!
//! A frame is its length (varint, at most three bytes) and its bytes, packed if that is shorter (`pack`). One task per link proves, then reads and
//! writes; it ends when either side does, and says so.

use std::io;
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use libp2p::Stream;
use libp2p::swarm::ConnectionId;
use tokio::sync::{mpsc, oneshot};

use super::pack::{self, Packer, Unpacker};
use crate::wire::frame::{self, Frame, MAX_BYTES, MAX_CERTIFICATE_BYTES};

/// How long a closed stream is held, so that what was sent before arrives. Guess: a round trip on a bad link.
const LINGER: Duration = Duration::from_millis(500);

/// What a link's task tells the owner.
pub(super) enum FromLink {
    /// The peer showed its certificate. The answer says whether it is good.
    Hello { connection: ConnectionId, peer: PeerId, certificate: Vec<u8>, is_good: oneshot::Sender<bool> },
    /// Both sides have proved themselves; the round trip if this side could measure it.
    Up { connection: ConnectionId, peer: PeerId, is_dialer: bool, rtt: Option<Duration> },
    /// A frame.
    Frame { connection: ConnectionId, frame: Frame, bytes: usize },
    /// The link has ended.
    Down { connection: ConnectionId, is_offence: bool },
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the stream ended")]
    Io(#[from] io::Error),
    #[error("not a frame")]
    Frame(#[from] crate::wire::Error),
    #[error("not a packed frame")]
    Packed(#[source] io::Error),
    #[error("no good certificate")]
    Unproven,
    #[error("no certificate in time")]
    Slow,
    #[error("this node hung up")]
    HungUp,
}

/// What a link's task needs.
pub(super) struct Link {
    pub(super) connection: ConnectionId,
    pub(super) peer: PeerId,
    pub(super) is_dialer: bool,
    pub(super) certificate: Vec<u8>,
    pub(super) proof_timeout: Duration,
    pub(super) to_owner: mpsc::Sender<FromLink>,
    pub(super) to_peer: mpsc::Receiver<Vec<u8>>,
}

impl Link {
    /// Runs the link to its end.
    pub(super) async fn run(mut self, stream: Stream) {
        let (connection, to_owner) = (self.connection, self.to_owner.clone());
        let ended = match self.live(stream).await {
            Err(ended) => ended,
            Ok(never) => match never {},
        };
        tracing::debug!(peer = %self.peer, reason = %ended, "link ended");
        // Being slow is none: a member on a bad link or a busy machine would be kept out when it is needed most.
        let is_offence = matches!(ended, Ended::Frame(_) | Ended::Packed(_) | Ended::Unproven);
        // The owner is gone only when the whole mesh ends.
        let _ = to_owner.send(FromLink::Down { connection, is_offence }).await;
    }

    async fn live(&mut self, mut stream: Stream) -> Result<std::convert::Infallible, Ended> {
        let timeout = self.proof_timeout;
        let (rtt, mut packer, mut unpacker) =
            match tokio::time::timeout(timeout, self.prove(&mut stream)).await {
                Ok(proved) => proved?,
                Err(_) => return Err(Ended::Slow),
            };
        let up =
            FromLink::Up { connection: self.connection, peer: self.peer, is_dialer: self.is_dialer, rtt };
        self.to_owner.send(up).await.map_err(|_| Ended::HungUp)?;
        let (mut reader, mut writer) = stream.split();
        let (connection, to_owner, to_peer) = (self.connection, &self.to_owner, &mut self.to_peer);
        let reading = async {
            loop {
                let bytes = unpacker.unpack(read(&mut reader, MAX_BYTES).await?).map_err(Ended::Packed)?;
                let frame = frame::decode(&bytes)?;
                let heard = FromLink::Frame { connection, frame, bytes: bytes.len() };
                to_owner.send(heard).await.map_err(|_| Ended::HungUp)?;
            }
        };
        let writing = async {
            while let Some(bytes) = to_peer.recv().await {
                write(&mut writer, &packer.pack(bytes)).await?;
            }
            // The owner hung up: what was sent before arrives, then the peer sees the end.
            writer.close().await?;
            tokio::time::sleep(LINGER).await;
            Err::<std::convert::Infallible, Ended>(Ended::HungUp)
        };
        tokio::select! {
            ended = reading => ended,
            ended = writing => ended,
        }
    }

    /// Shows the certificate and looks at theirs. Whoever was dialled shows its own only to a proven peer.
    async fn prove(&mut self, stream: &mut Stream) -> Result<(Option<Duration>, Packer, Unpacker), Ended> {
        let hello = frame::encode(&Frame::Hello { certificate: self.certificate.clone() })?;
        #[expect(clippy::disallowed_methods, reason = "a driver measures the round trip")]
        let started = std::time::Instant::now();
        if self.is_dialer {
            write(stream, &hello).await?;
        }
        let bytes = read(stream, MAX_CERTIFICATE_BYTES + 16).await?;
        let rtt = self.is_dialer.then(|| started.elapsed());
        let Frame::Hello { certificate } = frame::decode(&bytes)? else { return Err(Ended::Unproven) };
        let (dialler, listener) = if self.is_dialer {
            (&self.certificate, &certificate)
        } else {
            (&certificate, &self.certificate)
        };
        let (packer, unpacker) = pack::pair(dialler, listener)?;
        let (is_good, answer) = oneshot::channel();
        let (connection, peer) = (self.connection, self.peer);
        let shown = FromLink::Hello { connection, peer, certificate, is_good };
        self.to_owner.send(shown).await.map_err(|_| Ended::HungUp)?;
        if !answer.await.unwrap_or(false) {
            return Err(Ended::Unproven);
        }
        if !self.is_dialer {
            write(stream, &hello).await?;
        }
        Ok((rtt, packer, unpacker))
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(bytes.len() + 3);
    let mut length = bytes.len();
    while length >= 0x80 {
        framed.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    framed.push(u8::try_from(length).unwrap_or_default());
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    stream.flush().await
}

async fn read(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let mut length = 0_usize;
    for shift in [0, 7, 14] {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        let [byte] = byte;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if length > most {
                break;
            }
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes).await?;
            return Ok(bytes);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame longer than {most} bytes")))
}

#[cfg(test)]
mod tests {
    use futures_util::io::Cursor;

    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_went_and_a_long_one_is_refused_before_it_is_read() {
        for length in [0_usize, 1, 127, 128, 16_383, 16_384, MAX_BYTES] {
            let mut wire = Cursor::new(Vec::new());
            write(&mut wire, &vec![7; length]).await.unwrap();
            wire.set_position(0);
            assert_eq!(read(&mut wire, MAX_BYTES).await.unwrap().len(), length);
            wire.set_position(0);
            if length > 0 {
                assert!(read(&mut wire, length - 1).await.is_err(), "{length}");
            }
        }
        let endless = Cursor::new(vec![0xff; 10]);
        assert!(read(&mut { endless }, MAX_BYTES).await.is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_stream_brings_is_frames_within_bounds_or_an_error(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600),
            most in 0..300_usize,
        ) {
            use futures_util::FutureExt;
            let mut wire = Cursor::new(bytes);
            // A cursor is never pending, so each read is over at once.
            while let Ok(frame) = read(&mut wire, most).now_or_never().expect("it waits") {
                proptest::prop_assert!(frame.len() <= most);
                let _ = frame::decode(&frame);
            }
        }
    }
}
