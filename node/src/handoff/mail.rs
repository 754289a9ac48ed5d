//! Words to other cloudlets. A word that is lost is said again by who said it, so nothing here waits or retries.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh::NodeId;
use migration::handoff::wire::{Word, encode};
use tokio::sync::mpsc;

use super::ways::Ways;
use super::wire::Frame;
use crate::exchange::{ByteStream, frames};

/// Words that wait for a link; the oldest are as good as the newest, so more are dropped. A guess: a word for each VM.
const WAITING: usize = 64;
/// A stream that nothing was said on for so long is closed, and the link let go of. A guess.
const IDLE: Duration = Duration::from_secs(30);

/// Says words.
pub(super) struct Mail {
    ways: Arc<dyn Ways>,
    boxes: Mutex<BTreeMap<NodeId, mpsc::Sender<Vec<u8>>>>,
}

impl Mail {
    pub fn new(ways: Arc<dyn Ways>) -> Self {
        Self { ways, boxes: Mutex::default() }
    }

    /// Says a word, if the link takes it.
    pub fn say(&self, to: NodeId, word: &Word) {
        let bytes = match encode(word) {
            Ok(bytes) => Frame::Word(bytes).encode(),
            Err(error) => {
                return tracing::error!(%to, vm = %word.vm, %error, "a word of a handoff cannot be said");
            }
        };
        let mut boxes = self.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match boxes.get(&to).map(|sender| sender.try_send(bytes.clone())) {
            Some(Ok(()) | Err(mpsc::error::TrySendError::Full(_))) => return,
            Some(Err(mpsc::error::TrySendError::Closed(bytes))) => bytes,
            None => bytes,
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        // There is room for one.
        let _ = sender.try_send(bytes);
        boxes.insert(to, sender);
        tokio::spawn(carry(Arc::clone(&self.ways), to, receiver));
    }
}

/// Carries words until the stream breaks or nothing more is said. What waits then is lost.
async fn carry(ways: Arc<dyn Ways>, to: NodeId, mut words: mpsc::Receiver<Vec<u8>>) {
    let mut stream: ByteStream = match ways.open(to).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%to, %error, "no stream for the words of a handoff"),
    };
    let mut next = Some(Frame::Words.encode());
    while let Some(bytes) = next {
        if let Err(error) = frames::write(&mut stream, &bytes).await {
            return tracing::debug!(%to, %error, "the stream for the words of a handoff broke");
        }
        next = tokio::time::timeout(IDLE, words.recv()).await.ok().flatten();
    }
}
