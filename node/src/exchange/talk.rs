//! Asking one peer one thing after the other: for manifests and lists.

use std::time::Duration;

use mesh::NodeId;
use mesh::exchange::wire::{self, Answer, Request};
use vm_images::blocks::{Cut, ENTRY_BYTES};
use vm_images::{ImageId, Role};

use super::error::PeerError;
use super::{ByteStream, Shared, frames};

/// Longest time for opening a stream. A guess: a connection may have to be made first, over a satellite.
pub(super) const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// Longest silence while an answer is awaited. A holder may have to read a whole part first: 16 GiB at 500 MB/s.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A stream to a peer.
pub(super) struct Talk {
    node: NodeId,
    stream: ByteStream,
    /// What came over it since it was looked at last, bytes.
    pub(super) received_bytes: u64,
}

/// Opens a stream to a peer.
pub(super) async fn open(shared: &Shared, node: NodeId) -> Result<ByteStream, PeerError> {
    match tokio::time::timeout(OPEN_LIMIT, shared.peers.open(node)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(PeerError::Stream { node, source }),
        Err(_) => Err(PeerError::Timeout(node)),
    }
}

impl Talk {
    pub(super) async fn open(shared: &Shared, node: NodeId) -> Result<Self, PeerError> {
        Ok(Self { node, stream: open(shared, node).await?, received_bytes: 0 })
    }

    /// The manifest of an image and its signature, as the peer says.
    pub(super) async fn manifest(&mut self, image: ImageId) -> Result<(Vec<u8>, Vec<u8>), PeerError> {
        match self.ask(&Request::Manifest { image }).await? {
            Answer::Manifest { manifest, signature } => Ok((manifest, signature)),
            _ => Err(self.untrue("something else than the manifest that it was asked for")),
        }
    }

    /// The list of a part's blocks, as the peer says.
    pub(super) async fn list(&mut self, image: ImageId, role: Role, cut: Cut) -> Result<Vec<u8>, PeerError> {
        let mut list = Vec::new();
        let mut first = 0;
        while first < cut.count() {
            let count = wire::MAX_LIST_ENTRIES.min(cut.count() - first);
            match self.ask(&Request::List { image, role, first, count }).await? {
                Answer::List { role: of, first: from, values }
                    if of == role && from == first && values.len() == count as usize * ENTRY_BYTES =>
                {
                    list.extend(values);
                }
                _ => return Err(self.untrue("something else than the list that it was asked for")),
            }
            first += count;
        }
        Ok(list)
    }

    fn untrue(&self, what: &'static str) -> PeerError {
        PeerError::Untrue { node: self.node, what }
    }

    async fn ask(&mut self, request: &Request) -> Result<Answer, PeerError> {
        let node = self.node;
        let broke = |source| PeerError::Stream { node, source };
        frames::write(&mut self.stream, &request.encode()).await.map_err(broke)?;
        let reading = frames::read(&mut self.stream, wire::MAX_ANSWER_BYTES, || {});
        let body = match tokio::time::timeout(ANSWER_LIMIT, reading).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => return Err(broke(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(Err(frames::ReadError::Io(source))) => return Err(broke(source)),
            Ok(Err(frames::ReadError::Frame(source))) => return Err(PeerError::Frame { node, source }),
            Err(_) => return Err(PeerError::Timeout(node)),
        };
        self.received_bytes += body.len() as u64 + 4;
        match Answer::decode(&body).map_err(|source| PeerError::Frame { node, source })? {
            Answer::Refused(refusal) => Err(PeerError::Refused { node, refusal }),
            answer => Ok(answer),
        }
    }
}
