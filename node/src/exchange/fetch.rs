//! One fetch: an image and the parents that are not here.

mod blocks;
mod prepare;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesh::NodeId;
use tokio::sync::watch;
use vm_images::store::{Incoming, Naming};
use vm_images::{ImageId, Manifest};

use super::error::Error;
use super::peers::holders;
use super::progress::{Phase, Progress};
use super::{Shared, Wanted};
use crate::instances::clock::Clock;

/// Longest chain of parents; the store follows no longer one.
pub(super) const MAX_CHAIN: usize = 16;
/// After a round in which nobody gave anything, the next one begins after this, or when a member changes.
const ROUND: Duration = Duration::from_secs(2);

/// What a fetch works with.
pub(super) struct Fetch {
    shared: Arc<Shared>,
    wanted: Wanted,
    /// The image and its parents as far as they are known; whoever holds one of them holds those after it.
    chain: Vec<ImageId>,
    progress: watch::Sender<Progress>,
    clock: Clock,
    /// When something came in last.
    fed_at: Duration,
}

impl Fetch {
    pub(super) fn new(shared: Arc<Shared>, wanted: Wanted, progress: watch::Sender<Progress>) -> Self {
        let clock = Clock::start();
        Self { chain: vec![wanted.image], shared, wanted, progress, clock, fed_at: clock.now() }
    }

    /// Fetches all of it. Dropping the future ends it at any point; what is here stays.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let mut begun: Vec<Incoming> = Vec::new();
        let mut next = Some(self.wanted.image);
        while let Some(image) = next {
            if begun.len() > MAX_CHAIN {
                return Err(Error::TooDeep(self.wanted.image));
            }
            let Some(incoming) = self.begin(image).await? else { break };
            self.say(|progress| progress.label = Some(incoming.label()));
            next = incoming.manifest().parent;
            self.chain.extend(next);
            begun.push(incoming);
        }
        // The parents first, so that at no moment an image is here that cannot be used.
        while let Some(incoming) = begun.pop() {
            let is_wanted = incoming.id() == self.wanted.image;
            let naming = if is_wanted { self.naming(incoming.manifest()) } else { Naming::IfFree };
            let incoming = self.lists(incoming).await?;
            let incoming = self.blocks(incoming).await?;
            self.say(|progress| progress.phase = Phase::Publishing);
            let label = incoming.label();
            blocking(move || incoming.publish(naming)).await?.map_err(Error::Store)?;
            let Progress { wire_bytes, reused_bytes, .. } = *self.progress.borrow();
            tracing::info!(image = label, wire_bytes, reused_bytes, "fetched from other cloudlets");
        }
        Ok(())
    }

    /// An image that a killed daemon was fetching is taken up again; nobody knows whether it was for itself.
    fn naming(&self, manifest: &Manifest) -> Naming {
        let is_base = manifest.kind == vm_images::Kind::Base;
        if is_base && self.wanted.why != super::Why::Asked { Naming::IfFree } else { Naming::Take }
    }

    /// Who may be asked now.
    fn holders(&self) -> BTreeSet<NodeId> {
        let liars = self.shared.liars();
        let mut found: BTreeSet<NodeId> = match self.wanted.from {
            Some(node) => BTreeSet::from([node]),
            None => {
                let members = self.shared.peers.members();
                let found = holders(&members, &self.chain);
                // Adverts name one image of a service. Somebody may have others; asking costs a hundred bytes.
                if found.is_empty() { members.into_keys().collect() } else { found }
            }
        };
        found.retain(|node| !liars.contains(node));
        found
    }

    fn say(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    fn fed(&mut self, node: NodeId, bytes: u64) {
        if bytes > 0 {
            self.fed_at = self.clock.now();
            self.shared.throttle.fetched(bytes);
            self.say(|progress| progress.received(node, bytes));
        }
    }

    /// Waits for another round, or gives up.
    async fn pause(&self) -> Result<(), Error> {
        self.check_patience()?;
        self.say(|progress| progress.phase = Phase::Waiting);
        let _ = tokio::time::timeout(ROUND, self.shared.peers.changed()).await;
        // Members may change all the time; each round costs every holder a stream.
        tokio::time::sleep(ROUND / 10).await;
        Ok(())
    }

    fn check_patience(&self) -> Result<(), Error> {
        let patience = self.shared.config.patience;
        if self.clock.now() < self.fed_at + patience {
            return Ok(());
        }
        Err(Error::Patience {
            seconds: patience.as_secs(),
            holders: self.holders().len(),
            here: self.progress.borrow().here_bytes,
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::Panicked)
}
