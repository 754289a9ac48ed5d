//! Frames over byte streams.

use std::io;
use std::time::Duration;

use mesh::exchange::wire;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What is written at a time, bytes: every piece has its own time limit, so a slow link is told from a dead one.
const PIECE_BYTES: usize = 8 * 1024;
/// Longest time for a piece: the slowest link that is planned for (9.6 kbit/s) needs 7 s.
const PIECE_LIMIT: Duration = Duration::from_secs(30);

/// Why there is no frame.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Frame(wire::Error),
}

impl From<io::Error> for ReadError {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

/// Reads what follows the length of a frame; `None` at the end of the stream. `heard` is called as bytes come in.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
    mut heard: impl FnMut(),
) -> Result<Option<Vec<u8>>, ReadError> {
    let mut header = [0; 4];
    if stream.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..]).await?;
    let length = wire::length(header, most).map_err(ReadError::Frame)?;
    let mut body = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match stream.read(&mut body[filled..]).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => filled += count,
        }
        if filled < length {
            heard();
        }
    }
    Ok(Some(body))
}

/// Writes a whole frame; fails if the peer does not take it.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    for piece in frame.chunks(PIECE_BYTES) {
        limited(stream.write_all(piece)).await?;
    }
    limited(stream.flush()).await
}

async fn limited(writing: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    match tokio::time::timeout(PIECE_LIMIT, writing).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")),
    }
}
