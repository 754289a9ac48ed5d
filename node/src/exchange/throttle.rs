//! What makes fetching and serving give way to people. The policy is [`mesh::exchange::pace::Courtesy`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh::exchange::Pace;
use mesh::exchange::pace::Courtesy;

use crate::instances::clock::Clock;

/// Longest sleep before looking again whether somebody has let go.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Shared by everything that fetches and serves images, and by everything that goes before it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Throttle {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    courtesy: Courtesy,
    fetch: Pace,
    serve: Pace,
}

/// While this lives, the exchange gives way.
#[derive(Debug)]
pub struct Pressing(Throttle);

impl Drop for Pressing {
    fn drop(&mut self) {
        let now = self.0.clock.now();
        self.0.lock().courtesy.release(now);
    }
}

impl Throttle {
    pub(super) fn new(limit_bytes_per_s: Option<u64>) -> Self {
        let clock = Clock::start();
        let pace = Pace::new(clock.now(), limit_bytes_per_s);
        let state = State { courtesy: Courtesy::new(limit_bytes_per_s), fetch: pace.clone(), serve: pace };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    /// Makes the exchange give way until the result is dropped: for the time of a handheld's request or of a handoff.
    #[must_use]
    pub fn press(&self) -> Pressing {
        self.lock().courtesy.press();
        Pressing(self.clone())
    }

    /// Somebody was served just now: for bytes that go through, as in a tunnel.
    pub fn touch(&self) {
        let now = self.clock.now();
        let mut state = self.lock();
        state.courtesy.press();
        state.courtesy.release(now);
    }

    /// What may be taken of each link now (thousandths), and whether the limit over all leaves room to ask for more.
    pub(super) fn fetching(&self) -> (u32, bool) {
        let now = self.clock.now();
        let mut state = self.lock();
        (state.courtesy.share_permille(now), state.fetch.is_open(now))
    }

    pub(super) fn fetched(&self, bytes: u64) {
        self.lock().fetch.spend(self.clock.now(), bytes);
    }

    /// Waits until something may be sent.
    pub(super) async fn wait_to_serve(&self) {
        loop {
            let wait = {
                let now = self.clock.now();
                let mut state = self.lock();
                let rate = state.courtesy.serve_rate(now);
                state.serve.set_rate(now, rate);
                state.serve.wait(now)
            };
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
    }

    pub(super) fn served(&self, bytes: u64) {
        self.lock().serve.spend(self.clock.now(), bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Valid after every single operation, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
