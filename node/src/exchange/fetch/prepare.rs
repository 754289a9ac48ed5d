//! Manifests and lists.

use std::time::Duration;

use mesh::NodeId;
use vm_images::store::{self, Incoming};
use vm_images::{ImageId, Part};

use super::super::error::{Error, PeerError};
use super::super::progress::Phase;
use super::super::talk::Talk;
use super::{Fetch, blocking};

/// A fetch that was ended may still be writing what had come in, or be publishing: 10 s, a guess.
const HANDOVER_TRIES: u32 = 100;
const HANDOVER_PAUSE: Duration = Duration::from_millis(100);

impl Fetch {
    /// Begins to fetch an image, or goes on with it; `None` if it is here.
    pub(super) async fn begin(&mut self, image: ImageId) -> Result<Option<Incoming>, Error> {
        for _ in 0..HANDOVER_TRIES {
            match self.try_begin(image).await {
                Err(Error::Store(store::Error::BeingFetched { .. })) => {
                    tokio::time::sleep(HANDOVER_PAUSE).await
                }
                result => return result,
            }
        }
        self.try_begin(image).await
    }

    async fn try_begin(&mut self, image: ImageId) -> Result<Option<Incoming>, Error> {
        let store = self.shared.store.clone();
        let known = blocking(move || {
            // Damaged ones are fetched again: publishing takes their place.
            if store.contains(image) && store.ensure_intact(image).is_ok() {
                return Ok(None);
            }
            let Some((manifest, signature)) = store.begun(image) else { return Ok(Some(None)) };
            // Its signer may not be trusted any more; then a peer may have another signature.
            match store.incoming(image, &manifest, &signature) {
                Ok(incoming) => Ok(Some(Some(incoming))),
                Err(store::Error::Signature { .. }) => Ok(Some(None)),
                Err(error) => Err(error),
            }
        });
        match known.await?.map_err(Error::Store)? {
            None => Ok(None),
            Some(Some(incoming)) => Ok(Some(incoming)),
            Some(None) => self.ask_for_manifest(image).await.map(Some),
        }
    }

    async fn ask_for_manifest(&mut self, image: ImageId) -> Result<Incoming, Error> {
        loop {
            self.say(|progress| progress.phase = Phase::Preparing);
            let mut refused = None;
            for node in self.holders() {
                match self.manifest_of(node, image).await {
                    Ok(Ok(incoming)) => return Ok(incoming),
                    Ok(Err(store::Error::ManifestChanged { .. } | store::Error::Manifest { .. })) => {
                        self.shared.mark_liar(node, &"a manifest that is not that of the image");
                    }
                    // The image is what it is, but somebody else may have it from somebody who is trusted.
                    Ok(Err(error @ store::Error::Signature { .. })) => refused = Some(error),
                    Ok(Err(error)) => return Err(Error::Store(error)),
                    Err(error) => self.note(node, &error),
                }
            }
            if let Some(error) = refused {
                return Err(Error::Store(error));
            }
            self.pause().await?;
        }
    }

    async fn manifest_of(
        &mut self,
        node: NodeId,
        image: ImageId,
    ) -> Result<Result<Incoming, store::Error>, PeerError> {
        let mut talk = Talk::open(&self.shared, node).await?;
        let (manifest, signature) = talk.manifest(image).await?;
        self.fed(node, talk.received_bytes);
        let store = self.shared.store.clone();
        let begun = blocking(move || store.incoming(image, &manifest, &signature)).await;
        begun.map_err(|error| PeerError::Stream { node, source: std::io::Error::other(error) })
    }

    /// Gets the lists of blocks that are not known yet.
    pub(super) async fn lists(&mut self, mut incoming: Incoming) -> Result<Incoming, Error> {
        let total = incoming.manifest().parts.iter().map(|part| part.bytes).sum();
        self.say(|progress| {
            progress.label = Some(incoming.label());
            progress.phase = Phase::Preparing;
            (progress.total_bytes, progress.here_bytes) = (total, 0);
        });
        loop {
            let open: Vec<Part> = incoming.manifest().parts.clone();
            let open: Vec<Part> =
                open.into_iter().filter(|part| incoming.tree(part.role).is_none()).collect();
            if open.is_empty() {
                return Ok(incoming);
            }
            let before = open.len();
            for node in self.holders() {
                if let Err(error) = self.lists_of(node, &mut incoming, &open).await {
                    self.note(node, &error);
                }
                if open.iter().all(|part| incoming.tree(part.role).is_some()) {
                    break;
                }
            }
            let left = open.iter().filter(|part| incoming.tree(part.role).is_none()).count();
            if left == before {
                self.pause().await?;
                self.say(|progress| progress.phase = Phase::Preparing);
            }
        }
    }

    async fn lists_of(
        &mut self,
        node: NodeId,
        incoming: &mut Incoming,
        open: &[Part],
    ) -> Result<(), PeerError> {
        let mut talk = Talk::open(&self.shared, node).await?;
        for part in open {
            if incoming.tree(part.role).is_some() {
                continue;
            }
            let Ok(cut) = vm_images::blocks::Cut::of(part.bytes) else { continue };
            let list = talk.list(incoming.id(), part.role, cut).await;
            let received = std::mem::take(&mut talk.received_bytes);
            self.fed(node, received);
            if incoming.set_list(part.role, &list?).is_err() {
                return Err(PeerError::Untrue { node, what: "a list of blocks that does not fit the image" });
            }
        }
        Ok(())
    }

    /// Remembers who is not to be asked again.
    pub(super) fn note(&self, node: NodeId, error: &PeerError) {
        if error.is_lie() {
            self.shared.mark_liar(node, error);
        } else {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::debug!(%node, %error, cause, "a peer gave nothing of an image");
        }
    }
}
