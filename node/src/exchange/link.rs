//! A stream that blocks come in on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh::NodeId;
use mesh::exchange::wire::{self, Answer, Packing, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use vm_images::{ImageId, Role};

use super::error::PeerError;
use super::layout::Layout;
use super::{Shared, frames, talk};
use crate::instances::clock::Clock;

/// What a link and the keeper tell the fetch. `link` tells a stream from an earlier one to the same peer.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) node: NodeId,
    pub(super) link: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Connected,
    Heard,
    /// Checked and written.
    Kept {
        flat: u32,
        wire_bytes: u64,
        at: Duration,
    },
    /// Came, but is not what it should be.
    Wrong,
    /// The stream is over.
    Lost(PeerError),
    /// The store failed; the fetch cannot go on.
    Store(vm_images::store::Error),
}

/// A block on its way to the keeper.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) node: NodeId,
    pub(super) link: u64,
    pub(super) flat: u32,
    pub(super) packing: Packing,
    pub(super) content: Vec<u8>,
    pub(super) wire_bytes: u64,
    pub(super) at: Duration,
}

/// What a link works with.
pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) link: u64,
    pub(super) image: ImageId,
    pub(super) layout: Arc<Layout>,
    pub(super) clock: Clock,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) parcels: mpsc::Sender<Parcel>,
}

/// What was asked for and has not come, in order.
type Owed = Mutex<VecDeque<u32>>;

impl Link {
    /// Opens a stream, asks for what `orders` says, passes on what comes. Ends with [`What::Lost`].
    pub(super) async fn run(self, shared: Arc<Shared>, orders: mpsc::Receiver<Vec<u32>>) {
        let lost = self.exchange(&shared, orders).await;
        self.tell(What::Lost(lost)).await;
    }

    async fn exchange(&self, shared: &Shared, orders: mpsc::Receiver<Vec<u32>>) -> PeerError {
        let stream = match talk::open(shared, self.node).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        self.tell(What::Connected).await;
        let (reader, writer) = tokio::io::split(stream);
        let owed = Owed::default();
        // Two loops that are never cut in the middle of a frame.
        tokio::select! {
            error = self.ask(writer, orders, &owed) => error,
            error = self.take(reader, &owed) => error,
        }
    }

    async fn ask(
        &self,
        mut writer: impl AsyncWrite + Unpin,
        mut orders: mpsc::Receiver<Vec<u32>>,
        owed: &Owed,
    ) -> PeerError {
        let ended = |source| PeerError::Stream { node: self.node, source };
        while let Some(flats) = orders.recv().await {
            owed.lock().unwrap_or_else(PoisonError::into_inner).extend(&flats);
            for request in self.requests(&flats) {
                if let Err(source) = frames::write(&mut writer, &request.encode()).await {
                    return ended(source);
                }
            }
        }
        ended(std::io::ErrorKind::ConnectionAborted.into())
    }

    /// Requests for blocks in ascending order: one for each part, unless there are too many runs.
    fn requests(&self, flats: &[u32]) -> Vec<Request> {
        let mut requests: Vec<(Role, Vec<(u32, u32)>)> = Vec::new();
        for (role, first, count) in self.layout.runs(flats) {
            match requests.last_mut() {
                Some((last, runs)) if *last == role && runs.len() < wire::MAX_RUNS => {
                    runs.push((first, count))
                }
                _ => requests.push((role, vec![(first, count)])),
            }
        }
        let image = self.image;
        requests.into_iter().map(|(role, runs)| Request::Blocks { image, role, runs }).collect()
    }

    async fn take(&self, mut reader: impl AsyncRead + Unpin, owed: &Owed) -> PeerError {
        let node = self.node;
        let mut last_heard = Duration::ZERO;
        loop {
            let heard = || {
                // Often enough for the plan's patience, seldom enough to cost nothing.
                if self.clock.now() > last_heard + Duration::from_secs(1) {
                    last_heard = self.clock.now();
                    // If there is no room, there is news enough.
                    let _ = self.events.try_send(Event { node, link: self.link, what: What::Heard });
                }
            };
            let body = match frames::read(&mut reader, wire::MAX_ANSWER_BYTES, heard).await {
                Ok(Some(body)) => body,
                Ok(None) => {
                    return PeerError::Stream { node, source: std::io::ErrorKind::UnexpectedEof.into() };
                }
                Err(frames::ReadError::Io(source)) => return PeerError::Stream { node, source },
                Err(frames::ReadError::Frame(source)) => return PeerError::Frame { node, source },
            };
            let wire_bytes = body.len() as u64 + 4;
            let at = self.clock.now();
            let answer = match Answer::decode(&body) {
                Ok(answer) => answer,
                Err(source) => return PeerError::Frame { node, source },
            };
            drop(body);
            let (role, block, packing, content) = match answer {
                Answer::Block { role, block, packing, content } => (role, block, packing, content),
                Answer::Refused(refusal) => return PeerError::Refused { node, refusal },
                _ => return PeerError::Untrue { node, what: "something else than blocks" },
            };
            let next = owed.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(flat) = next.filter(|flat| self.layout.flat(role, block) == Some(*flat)) else {
                return PeerError::Untrue { node, what: "a block that it was not asked for" };
            };
            let parcel = Parcel { node, link: self.link, flat, packing, content, wire_bytes, at };
            if self.parcels.send(parcel).await.is_err() {
                return PeerError::Stream { node, source: std::io::ErrorKind::ConnectionAborted.into() };
            }
        }
    }

    async fn tell(&self, what: What) {
        // Nobody listens any more: the fetch is over, and this task is about to be ended.
        let _ = self.events.send(Event { node: self.node, link: self.link, what }).await;
    }
}
