//! Which fetch is next. One at a time: several would share the same links and be done later each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mesh::advert::ImageSize;
use mesh::exchange::policy::{self, Decision, Failure, Holdings};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vm_images::{Image, ImageId, Kind, Store};

use super::error::Error;
use super::fetch::{Fetch, MAX_CHAIN};
use super::progress::{Phase, Progress};
use super::{Ask, Shared, Wanted, Why};
use crate::causes::chain;
use crate::instances::clock::Clock;

/// How often the profile is compared with what is here. A guess: fetching takes minutes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often people are told how far a fetch is. A guess: what somebody who looks at a bar notices.
const TELL_EVERY: Duration = Duration::from_millis(300);
/// How many fetches that are over are still shown.
const SHOW_ENDED: usize = 20;

struct Owner {
    shared: Arc<Shared>,
    clock: Clock,
    queue: VecDeque<(Wanted, watch::Sender<Progress>)>,
    running: Option<Active>,
    failures: BTreeMap<ImageId, Failure>,
    /// Given up because nobody gave them; taken up again when somebody who holds them comes.
    unfinished: BTreeSet<ImageId>,
}

struct Active {
    wanted: Wanted,
    progress: watch::Sender<Progress>,
    task: JoinHandle<Result<(), Error>>,
    cancel: CancellationToken,
}

pub(super) async fn run(shared: Arc<Shared>, mut inbox: mpsc::Receiver<Ask>, stop: CancellationToken) {
    let mut owner = Owner {
        shared,
        clock: Clock::start(),
        queue: VecDeque::new(),
        running: None,
        failures: BTreeMap::new(),
        unfinished: BTreeSet::new(),
    };
    owner.resume().await;
    let every = |period| {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks
    };
    let (mut looks, mut tells) = (every(LOOK_EVERY), every(TELL_EVERY));
    loop {
        owner.start_next();
        tokio::select! { biased;
            () = stop.cancelled() => break,
            ended = ended(&mut owner.running) => owner.note_end(ended),
            ask = inbox.recv() => match ask {
                Some(ask) => owner.take(ask),
                None => break,
            },
            _ = looks.tick() => owner.look().await,
            _ = tells.tick(), if owner.running.is_some() => owner.leave(),
        }
        owner.show();
    }
    if let Some(active) = owner.running.take() {
        active.cancel.cancel();
        let _ = active.task.await;
    }
}

/// Ends when what is running ends; never if nothing is.
async fn ended(running: &mut Option<Active>) -> Result<(), Error> {
    match running {
        Some(active) => match (&mut active.task).await {
            Ok(result) => result,
            Err(error) => Err(Error::Panicked(error)),
        },
        None => std::future::pending().await,
    }
}

impl Owner {
    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Fetch { wanted, reply } => {
                let progress = self.failed_lately(&wanted).unwrap_or_else(|| self.enqueue(wanted));
                // Who asks next how far it is must not hear of an earlier try.
                self.show();
                // Whoever asked may have gone; the image is still wanted.
                let _ = reply.send(progress);
            }
            Ask::Cancel { image, reply } => {
                let _ = reply.send(self.cancel(image));
            }
        }
    }

    /// The failure of an image that a handheld wants and that was tried a moment ago. An operator may try at any time.
    fn failed_lately(&self, wanted: &Wanted) -> Option<watch::Receiver<Progress>> {
        let failure = self.failures.get(&wanted.image).filter(|_| wanted.why == Why::Demanded)?;
        if self.clock.now() >= policy::retry_at(failure) {
            return None;
        }
        let all = self.shared.all.borrow();
        let failed =
            all.iter().find(|one| one.image == wanted.image && matches!(one.phase, Phase::Failed(_)))?;
        Some(watch::Sender::new(failed.clone()).subscribe())
    }

    /// Puts a fetch in the queue: what people ask for before the rest. One that is there already is joined.
    fn enqueue(&mut self, mut wanted: Wanted) -> watch::Receiver<Progress> {
        // One that nobody waited for any more is about to end.
        let goes_on = |active: &&mut Active| active.wanted.lasting || !active.cancel.is_cancelled();
        let same = self.running.as_mut().filter(|active| active.wanted.image == wanted.image);
        if let Some(active) = same.filter(goes_on) {
            active.wanted.lasting |= wanted.lasting;
            return active.progress.subscribe();
        }
        let queued = self.queue.iter().position(|(other, _)| other.image == wanted.image);
        let progress = match queued.and_then(|at| self.queue.remove(at)) {
            Some((before, progress)) => {
                wanted.lasting |= before.lasting;
                progress
            }
            None => watch::Sender::new(Progress::queued(wanted.image)),
        };
        let receiver = progress.subscribe();
        let at = match wanted.why.is_for_somebody() {
            true => self.queue.iter().take_while(|(other, _)| other.why.is_for_somebody()).count(),
            false => self.queue.len(),
        };
        // Nobody waits for what the profile wants as somebody does for what he asked for.
        if wanted.why.is_for_somebody()
            && let Some(active) = self.running.as_ref().filter(|active| !active.wanted.why.is_for_somebody())
        {
            active.cancel.cancel();
        }
        self.queue.insert(at, (wanted, progress));
        receiver
    }

    /// Ends what was fetched for somebody who waits no more.
    fn leave(&mut self) {
        let is_left = |wanted: &Wanted, progress: &watch::Sender<Progress>| {
            !wanted.lasting && progress.receiver_count() == 0
        };
        if let Some(active) = self.running.as_ref().filter(|active| is_left(&active.wanted, &active.progress))
        {
            active.cancel.cancel();
        }
        self.queue.retain(|(wanted, progress)| !is_left(wanted, progress));
    }

    fn cancel(&mut self, image: ImageId) -> bool {
        self.unfinished.remove(&image);
        if let Some(active) = self.running.as_mut().filter(|active| active.wanted.image == image) {
            active.wanted.why = Why::Asked;
            active.cancel.cancel();
            return true;
        }
        let Some(at) = self.queue.iter().position(|(wanted, _)| wanted.image == image) else { return false };
        if let Some((_, progress)) = self.queue.remove(at) {
            progress.send_modify(|progress| progress.phase = Phase::Failed(Error::Cancelled.to_string()));
            self.add_shown(progress.borrow().clone());
        }
        true
    }

    fn start_next(&mut self) {
        if self.running.is_some() {
            return;
        }
        let Some((wanted, progress)) = self.queue.pop_front() else { return };
        let fetch = Fetch::new(Arc::clone(&self.shared), wanted.clone(), progress.clone());
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                result = fetch.run() => result,
                () = token.cancelled() => Err(Error::Cancelled),
            }
        });
        self.running = Some(Active { wanted, progress, task, cancel });
        self.show();
    }

    fn note_end(&mut self, result: Result<(), Error>) {
        let Some(active) = self.running.take() else { return };
        let image = active.wanted.image;
        let phase = match result {
            Ok(()) => {
                self.failures.remove(&image);
                Phase::Done
            }
            // It made room for what somebody asked for.
            Err(Error::Cancelled) if !active.wanted.why.is_for_somebody() => {
                active.progress.send_modify(|progress| progress.phase = Phase::Queued);
                self.queue.push_back((active.wanted, active.progress));
                return;
            }
            // Not a failure: whoever wants it again may have it at once.
            Err(error @ Error::Cancelled) => Phase::Failed(error.to_string()),
            Err(error) => {
                if matches!(error, Error::Patience { .. }) {
                    self.unfinished.insert(image);
                }
                let failure = self.failures.entry(image).or_default();
                *failure = Failure { times: failure.times + 1, last: self.clock.now() };
                let reason = chain(&error);
                tracing::error!(image = image.short(), reason, "an image was not fetched");
                Phase::Failed(reason)
            }
        };
        self.tell_failing();
        active.progress.send_modify(|progress| progress.phase = phase);
        self.add_shown(active.progress.borrow().clone());
    }

    /// Takes up what an earlier daemon did not finish. A parent comes with its child.
    async fn resume(&mut self) {
        let store = self.shared.store.clone();
        let found = tokio::task::spawn_blocking(move || {
            let found: Vec<ImageId> =
                store.interrupted()?.into_iter().filter(|one| !one.in_use).map(|one| one.id).collect();
            let parents: BTreeSet<ImageId> = found
                .iter()
                .filter_map(|id| store.begun(*id))
                .filter_map(|(manifest, _)| vm_images::Manifest::parse(&manifest).ok()?.parent)
                .collect();
            Ok::<_, vm_images::store::Error>(
                found.into_iter().filter(|id| !parents.contains(id)).collect::<Vec<_>>(),
            )
        });
        match found.await {
            Ok(Ok(found)) => {
                for image in found {
                    drop(self.enqueue(Wanted { image, from: None, why: Why::Resumed, lasting: true }));
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "cannot look for images that were being fetched"),
            Err(error) => tracing::error!(%error, "looking for images that were being fetched panicked"),
        }
    }

    /// Takes up what was given up for want of somebody who has it, and compares the mission's profile with what is
    /// here.
    async fn look(&mut self) {
        self.tell_failing();
        if self.running.is_some() {
            return;
        }
        let members = self.shared.peers.members();
        let held = |image: &ImageId| members.values().any(|held| held.holds(*image));
        if let Some(image) = self.unfinished.iter().copied().find(held) {
            self.unfinished.remove(&image);
            drop(self.enqueue(Wanted { image, from: None, why: Why::Resumed, lasting: true }));
            return;
        }
        let profile = &self.shared.config.profile;
        if profile.replicate.is_empty() {
            return;
        }
        let store = self.shared.store.clone();
        let own = match tokio::task::spawn_blocking(move || own_holdings(&store)).await {
            Ok(Ok(own)) => own,
            Ok(Err(error)) => {
                return tracing::error!(%error, "cannot compare the images here with the profile");
            }
            Err(error) => return tracing::error!(%error, "comparing images with the profile panicked"),
        };
        let fetching = self.queue.iter().map(|(wanted, _)| wanted.image).collect();
        let free_bytes = self.shared.store.free_bytes();
        let now = self.clock.now();
        let decided = policy::decide(now, profile, &own, &fetching, &members, free_bytes, &self.failures);
        for (service, decision) in decided {
            if let Decision::Fetch(image) = decision {
                tracing::info!(%service, image = image.short(), "the mission wants this service on every node; fetching it");
                drop(self.enqueue(Wanted { image, from: None, why: Why::Profile, lasting: true }));
                return;
            }
        }
    }

    /// Publishes what is not tried again yet.
    fn tell_failing(&self) {
        let now = self.clock.now();
        let failing = self.failures.iter().filter(|(_, failure)| now < policy::retry_at(failure));
        *self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner) =
            failing.map(|(image, _)| *image).collect();
    }

    /// Publishes what is going on.
    fn show(&self) {
        let active = self.running.iter().map(|active| &active.progress);
        let now: Vec<Progress> = active
            .chain(self.queue.iter().map(|(_, progress)| progress))
            .map(|one| one.borrow().clone())
            .collect();
        self.shared.all.send_if_modified(|all| {
            let mut shown = all.clone();
            shown.retain(|one| one.phase.is_end() && now.iter().all(|other| other.image != one.image));
            shown.extend(now);
            let is_new = shown != *all;
            *all = shown;
            is_new
        });
    }

    fn add_shown(&self, ended: Progress) {
        self.shared.all.send_modify(|all| {
            all.retain(|one| one.image != ended.image);
            let over = all.iter().filter(|one| one.phase.is_end()).count();
            if over >= SHOW_ENDED
                && let Some(oldest) = all.iter().position(|one| one.phase.is_end())
            {
                all.remove(oldest);
            }
            all.push(ended);
        });
    }
}

/// How much there is to fetch of an image. What cannot be looked at is said by the store when it is served.
fn size(store: &Store, image: &Image) -> ImageSize {
    let content = |image: &Image| -> u64 {
        let parts = image.manifest.parts.iter().filter_map(|part| image.path(part.role).ok());
        // Blocks of 512 bytes, whatever the file system's are; holes have none.
        let blocks = parts.filter_map(|path| Some(std::fs::metadata(path).ok()?.blocks()));
        blocks.map(|blocks| blocks.saturating_mul(512)).sum()
    };
    let mut size = ImageSize { own_bytes: content(image), parent_bytes: 0 };
    let mut next = image.manifest.parent;
    for _ in 0..MAX_CHAIN {
        let Some(parent) = next.and_then(|id| store.get(id).ok()) else { break };
        size.parent_bytes += content(&parent);
        next = parent.manifest.parent;
    }
    size
}

/// What the store holds, as adverts say it: the image of each service that has the service's name, or the newest.
pub(super) fn own_holdings(store: &Store) -> Result<Holdings, vm_images::store::Error> {
    let names: BTreeSet<ImageId> = store.names()?.into_values().collect();
    let mut holdings = Holdings::default();
    // By name and then newest first; named ones go before.
    let mut images = store.list()?.images;
    images.sort_by_key(|image| !names.contains(&image.id));
    for image in images {
        match &image.manifest.service {
            Some(service) if !holdings.images.contains_key(&service.id) => {
                holdings.images.insert(service.id.clone(), image.id);
                holdings.sizes.insert(service.id.clone(), size(store, &image));
            }
            Some(_) => {}
            None if image.manifest.kind == Kind::Base => drop(holdings.base_images.insert(image.id)),
            None => {}
        }
    }
    Ok(holdings)
}
