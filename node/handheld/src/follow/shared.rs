//! What all connections of an endpoint share: where to go, how many may wait, and how they wait.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::Settings;
use super::carried::{Carried, Failure, Room, Stage};
use super::place::{Lead, Place};

pub(super) struct Shared {
    pub settings: Settings,
    pub lead: watch::Receiver<Lead>,
    room: Mutex<Room>,
    /// How many wait or are served; the owner asks more often while there are any.
    busy: watch::Sender<usize>,
    /// Stays at which a connection broke. A report that finds the channel full would say what others have said.
    broke: mpsc::Sender<u64>,
    started: Instant,
}

/// Why work was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// The instance is elsewhere.
    Moved,
    /// This is what the client is told.
    For(Failure),
}

impl Shared {
    pub fn new(
        settings: Settings,
        lead: watch::Receiver<Lead>,
        busy: watch::Sender<usize>,
        broke: mpsc::Sender<u64>,
    ) -> Self {
        let room = Mutex::new(Room::new(settings.waiting_most, settings.kept_bytes_most));
        Self { settings, lead, room, busy, broke, started: crate::now() }
    }

    /// Time since the endpoint was opened.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A connection to this stay broke.
    pub fn broke(&self, generation: u64) {
        let _ = self.broke.try_send(generation);
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more wants to be served.
    pub fn enter(self: &Arc<Self>) -> Option<Ticket> {
        let mut room = self.room();
        if !room.enter() {
            return None;
        }
        self.busy.send_replace(room.taken());
        Some(Ticket { shared: self.clone(), bytes: 0 })
    }

    /// The next place to try: not before `not_before` if it is the one that was tried last.
    pub async fn place(&self, carried: &mut Carried, not_before: Duration) -> Result<Arc<Place>, Failure> {
        let mut lead = self.lead.clone();
        loop {
            let now = self.now();
            let mut pause = None;
            match &*lead.borrow_and_update() {
                Lead::Hold => carried.held(now),
                Lead::Over => return Err(Failure::Over),
                Lead::To(place) if now >= not_before || place.generation != carried.generation() => {
                    return Ok(place.clone());
                }
                Lead::To(_) => pause = Some(not_before),
            }
            let until = carried.until();
            tokio::select! {
                changed = lead.changed() => if changed.is_err() {
                    return Err(Failure::Over);
                },
                () = self.sleep_until(pause.into_iter().chain(until).min()) => {
                    if until.is_some_and(|until| self.now() >= until) {
                        return Err(carried.impatient());
                    }
                }
            }
        }
    }

    /// Does `work`, until it is done, the client's patience ends, or the instance is elsewhere.
    pub async fn race<T>(&self, carried: &mut Carried, work: impl Future<Output = T>) -> Result<T, GivenUp> {
        let mut work = pin!(work);
        let mut lead = self.lead.clone();
        let mut leave: Option<Duration> = None;
        loop {
            let now = self.now();
            match &*lead.borrow_and_update() {
                Lead::Hold => carried.held(now),
                Lead::To(place) => leave = leave.or(carried.led(now, place.generation)),
                Lead::Over if carried.stage() < Stage::Sent => return Err(GivenUp::For(Failure::Over)),
                // What it has answered may still arrive.
                Lead::Over => leave = leave.or(Some(now + self.settings.patience)),
            }
            let until = carried.until();
            tokio::select! { biased;
                done = &mut work => return Ok(done),
                changed = lead.changed() => if changed.is_err() {
                    return Err(GivenUp::For(Failure::Over));
                },
                () = self.sleep_until(leave.into_iter().chain(until).min()) => {
                    let now = self.now();
                    if leave.is_some_and(|leave| now >= leave) {
                        return Err(GivenUp::Moved);
                    }
                    if until.is_some_and(|until| now >= until) {
                        return Err(GivenUp::For(carried.impatient()));
                    }
                }
            }
        }
    }

    pub async fn sleep_until(&self, when: Option<Duration>) {
        match when {
            Some(when) => tokio::time::sleep_until((self.started + when).into()).await,
            None => std::future::pending().await,
        }
    }
}

/// A place in the queue; given back when dropped.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Ticket {
    /// Keeps so many bytes more for it, if there is room.
    pub fn keep(&mut self, bytes: usize) -> bool {
        let fits = self.shared.room().keep(bytes);
        self.bytes += if fits { bytes } else { 0 };
        fits
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut room = self.shared.room();
        room.leave(self.bytes);
        self.shared.busy.send_replace(room.taken());
    }
}
