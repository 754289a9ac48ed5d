//! Serving images: one task for each stream that a peer opened.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mesh::NodeId;
use mesh::exchange::wire::{self, Answer, Refusal, Request};
use tokio::sync::mpsc;
use vm_images::blocks::{ENTRY_BYTES, Tree};
use vm_images::{Image, ImageId, Role};

use super::packing::Packer;
use super::{ByteStream, Shared, frames};

/// Most streams that are served at a time. A guess: each costs four packed blocks and a file handle or two; what
/// limits is the link.
const MOST_STREAMS: usize = 16;
/// Most of them for one peer: one that it fetches on, one that it asks on, one that it has not noticed to be dead.
const MOST_OF_ONE: usize = 3;
/// A stream on which nothing is asked for this long is closed. A guess: longer than a fetcher waits for people.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// Blocks that are packed ahead of the one that is being sent: enough to use the second core.
const PACKED_AHEAD: usize = 4;

/// The image that a stream is about, opened.
struct Open {
    image: Image,
    parts: BTreeMap<Role, Arc<OpenPart>>,
}

struct OpenPart {
    file: File,
    tree: Tree,
}

/// A stream that is served; frees its place when it is dropped.
struct Place {
    shared: Arc<Shared>,
    peer: NodeId,
}

impl Place {
    fn take(shared: &Arc<Shared>, peer: NodeId) -> Option<Self> {
        let mut serving = shared.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (serving.values().sum::<usize>(), serving.get(&peer).copied().unwrap_or(0));
        if all >= MOST_STREAMS || own >= MOST_OF_ONE {
            return None;
        }
        serving.insert(peer, own + 1);
        Some(Self { shared: Arc::clone(shared), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut serving = self.shared.serving.lock().unwrap_or_else(PoisonError::into_inner);
        match serving.get_mut(&self.peer) {
            Some(own @ 2..) => *own -= 1,
            _ => drop(serving.remove(&self.peer)),
        }
    }
}

/// Answers requests until the peer ends the stream, is silent for too long, or breaks the rules.
pub(super) async fn run(shared: Arc<Shared>, peer: NodeId, mut stream: ByteStream) {
    let Some(_place) = Place::take(&shared, peer) else {
        let _ = frames::write(&mut stream, &Answer::Refused(Refusal::Busy).encode()).await;
        return;
    };
    let mut open = None;
    loop {
        let reading = frames::read(&mut stream, wire::MAX_REQUEST_BYTES, || {});
        let body = match tokio::time::timeout(IDLE_LIMIT, reading).await {
            Ok(Ok(Some(body))) => body,
            Ok(Err(frames::ReadError::Frame(error))) => {
                tracing::debug!(%peer, %error, "a bad request for an image");
                let _ = frames::write(&mut stream, &Answer::Refused(Refusal::Nonsense).encode()).await;
                return;
            }
            Ok(Ok(None) | Err(frames::ReadError::Io(_))) | Err(_) => return,
        };
        let done = match Request::decode(&body) {
            Ok(request) => answer(&shared, &mut open, request, &mut stream).await,
            Err(error) => {
                tracing::debug!(%peer, %error, "a bad request for an image");
                let _ = frames::write(&mut stream, &Answer::Refused(Refusal::Nonsense).encode()).await;
                return;
            }
        };
        if let Err(error) = done {
            tracing::debug!(%peer, %error, "serving an image ended");
            return;
        }
    }
}

async fn answer(
    shared: &Arc<Shared>,
    open: &mut Option<Open>,
    request: Request,
    stream: &mut ByteStream,
) -> io::Result<()> {
    let (Request::Manifest { image } | Request::List { image, .. } | Request::Blocks { image, .. }) = request;
    if open.as_ref().is_none_or(|open| open.image.id != image) {
        match blocking({
            let store = shared.store.clone();
            move || store.get(image).map_err(drop)
        })
        .await
        {
            Ok(found) => *open = Some(Open { image: found, parts: BTreeMap::new() }),
            Err(()) => return refuse(shared, stream, Refusal::NotHeld).await,
        }
    }
    let Some(open) = open else { return refuse(shared, stream, Refusal::NotHeld).await };
    match request {
        Request::Manifest { image } => match signed(shared, image).await {
            Ok(answer) => send(shared, stream, &answer.encode()).await,
            Err(refusal) => refuse(shared, stream, refusal).await,
        },
        Request::List { role, first, count, .. } => match part(shared, open, role).await {
            Ok(part) => {
                let (start, end) = (first as usize * ENTRY_BYTES, (first + count) as usize * ENTRY_BYTES);
                match part.tree.list().get(start..end) {
                    Some(values) => {
                        let answer = Answer::List { role, first, values: values.to_vec() };
                        send(shared, stream, &answer.encode()).await
                    }
                    None => refuse(shared, stream, Refusal::Nonsense).await,
                }
            }
            Err(refusal) => refuse(shared, stream, refusal).await,
        },
        Request::Blocks { role, runs, .. } => match part(shared, open, role).await {
            Ok(part) => blocks(shared, part, role, runs, stream).await,
            Err(refusal) => refuse(shared, stream, refusal).await,
        },
    }
}

async fn signed(shared: &Shared, image: ImageId) -> Result<Answer, Refusal> {
    let store = shared.store.clone();
    let (manifest, signature) =
        blocking(move || store.signed(image).map_err(drop)).await.map_err(|()| Refusal::Failed)?;
    Ok(Answer::Manifest { manifest, signature })
}

/// Opens a part; the first time of all its blocks are measured, which reads all of it.
async fn part(shared: &Shared, open: &mut Open, role: Role) -> Result<Arc<OpenPart>, Refusal> {
    if let Some(part) = open.parts.get(&role) {
        return Ok(Arc::clone(part));
    }
    let store = shared.store.clone();
    let image = open.image.clone();
    let opened = blocking(move || {
        let part = image.manifest.part(role).ok_or(Refusal::Nonsense)?;
        let damaged = |error: &dyn std::error::Error| {
            let error = error.to_string();
            tracing::error!(
                image = image.label(),
                error,
                "an image cannot be served; verify it with `cloudlet image verify`"
            );
            Refusal::Failed
        };
        let tree = store.tree(&image, part).map_err(|error| damaged(&error))?;
        let path = image.path(role).map_err(|error| damaged(&error))?;
        let file = File::open(path).map_err(|error| damaged(&error))?;
        Ok::<_, Refusal>(Arc::new(OpenPart { file, tree }))
    })
    .await?;
    open.parts.insert(role, Arc::clone(&opened));
    Ok(opened)
}

/// Sends blocks: a thread reads, checks and packs a few ahead.
async fn blocks(
    shared: &Shared,
    part: Arc<OpenPart>,
    role: Role,
    runs: Vec<(u32, u32)>,
    stream: &mut ByteStream,
) -> io::Result<()> {
    let (packed, mut ready) = mpsc::channel(PACKED_AHEAD);
    let packing = tokio::task::spawn_blocking(move || pack(&part, role, &runs, &packed));
    while let Some(answer) = ready.recv().await {
        let is_end = matches!(answer, Answer::Refused(_));
        send(shared, stream, &answer.encode()).await?;
        if is_end {
            break;
        }
    }
    packing.await.map_err(io::Error::other)?
}

fn pack(part: &OpenPart, role: Role, runs: &[(u32, u32)], packed: &mpsc::Sender<Answer>) -> io::Result<()> {
    let mut packer = Packer::new()?;
    let cut = part.tree.cut();
    for block in runs.iter().flat_map(|(first, count)| *first..first + count) {
        let mut content = vec![0; cut.len(block) as usize];
        let answer = if block >= cut.count() {
            Answer::Refused(Refusal::Nonsense)
        } else if part.file.read_exact_at(&mut content, cut.offset(block)).is_ok()
            && part.tree.fits(block, &content)
        {
            let (packing, content) = packer.pack(&content);
            Answer::Block { role, block, packing, content }
        } else {
            tracing::error!(
                part = role.title(),
                block,
                "a damaged image is not served; run `cloudlet image verify`"
            );
            Answer::Refused(Refusal::Failed)
        };
        let is_end = matches!(answer, Answer::Refused(_));
        if packed.blocking_send(answer).is_err() || is_end {
            break;
        }
    }
    Ok(())
}

async fn refuse(shared: &Shared, stream: &mut ByteStream, refusal: Refusal) -> io::Result<()> {
    send(shared, stream, &Answer::Refused(refusal).encode()).await
}

async fn send(shared: &Shared, stream: &mut ByteStream, frame: &[u8]) -> io::Result<()> {
    shared.throttle.wait_to_serve().await;
    shared.throttle.served(frame.len() as u64);
    frames::write(stream, frame).await
}

async fn blocking<T: Send + 'static, E: Send + 'static + From<Panicked>>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "reading an image panicked");
            Err(Panicked.into())
        }
    }
}

/// A thread of ours panicked.
struct Panicked;

impl From<Panicked> for () {
    fn from(_: Panicked) {}
}

impl From<Panicked> for Refusal {
    fn from(_: Panicked) -> Self {
        Self::Failed
    }
}
