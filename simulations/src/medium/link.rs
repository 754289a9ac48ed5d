//! One ordered pair: how it carries frames from the first host to the second.

use std::collections::VecDeque;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::counters;
use super::loss::{Loss, State};
use super::units::{Queue, Rate, Share, Span};

/// Least queue that a link has by default, bytes: ten full frames, so that slow links take a fragmented datagram.
/// A guess.
const LEAST_QUEUE: u64 = 16 * 1024;
/// What the default queue holds of a link's rate. A guess: between the 100 ms of a well-kept router and the seconds of
/// a radio that nobody tuned.
const DEFAULT_QUEUE_TIME: Duration = Duration::from_millis(250);

/// How an ordered pair carries frames. The default is a perfect wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// How fast frames leave the sender.
    pub rate: Rate,
    /// Time from the last bit sent to the frame's arrival.
    pub delay: Duration,
    /// The delay is drawn evenly from `delay - jitter ..= delay + jitter`. A frame that would overtake an earlier one
    /// waits for it, so where frames are close together the mean is above `delay`. At most `delay`.
    pub jitter: Duration,
    /// What is lost on the air. Lost frames take their time to send.
    pub loss: Loss,
    /// Share of frames that skip `delay` and so overtake what was sent before them, as `tc netem` reorders.
    pub reorder: Share,
    /// Most bytes that wait to be sent, the frame being sent included; what comes on top is dropped. An idle link takes
    /// one frame of any size. `None`: what the rate sends in 250 ms, at least 16 KiB; all if it is unlimited.
    pub queue_bytes: Option<u64>,
}

/// Settings that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// Frames would arrive before they are sent.
    #[error("jitter {} is more than delay {}", Span(*.jitter), Span(*.delay))]
    Jitter {
        /// What was asked.
        jitter: Duration,
        /// What was asked.
        delay: Duration,
    },
    /// There is nothing that frames could overtake.
    #[error("reordering {reorder} needs a delay: reordered frames skip it")]
    Reorder {
        /// What was asked.
        reorder: Share,
    },
}

impl Settings {
    /// The limit of the queue in bytes.
    pub fn queue_limit_bytes(&self) -> u64 {
        match (self.queue_bytes, self.rate.get()) {
            (Some(bytes), _) => bytes,
            // What waits here was sent when the rate was another one, and must not block what is sent now.
            (None, None) => u64::MAX,
            (None, Some(rate)) => (rate / 8 * DEFAULT_QUEUE_TIME.as_millis() as u64 / 1_000).max(LEAST_QUEUE),
        }
    }

    /// Whether such a link can be.
    pub fn check(&self) -> Result<(), BadSettings> {
        if self.jitter > self.delay {
            return Err(BadSettings::Jitter { jitter: self.jitter, delay: self.delay });
        }
        if self.reorder > Share::ZERO && self.delay.is_zero() {
            return Err(BadSettings::Reorder { reorder: self.reorder });
        }
        Ok(())
    }
}

/// Some settings of a link; what is `None` stays as it is. Also how settings are written in files and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// See [`Settings::rate`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// See [`Settings::delay`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// See [`Settings::jitter`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Span>,
    /// See [`Settings::loss`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// See [`Settings::reorder`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder: Option<Share>,
    /// See [`Settings::queue_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
}

impl Change {
    /// `settings` with this change.
    pub fn apply(&self, settings: &Settings) -> Settings {
        Settings {
            rate: self.rate.unwrap_or(settings.rate),
            delay: self.delay.map_or(settings.delay, |span| span.0),
            jitter: self.jitter.map_or(settings.jitter, |span| span.0),
            loss: self.loss.unwrap_or(settings.loss),
            reorder: self.reorder.unwrap_or(settings.reorder),
            queue_bytes: self.queue.map_or(settings.queue_bytes, |queue| queue.0),
        }
    }
}

/// The change that makes any link like `settings`.
impl From<Settings> for Change {
    fn from(settings: Settings) -> Self {
        Self {
            rate: Some(settings.rate),
            delay: Some(Span(settings.delay)),
            jitter: Some(Span(settings.jitter)),
            loss: Some(settings.loss),
            reorder: Some(settings.reorder),
            queue: Some(Queue(settings.queue_bytes)),
        }
    }
}

/// What waits to be sent by one sender, first come first served.
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// When the last of it has been sent.
    pub(super) busy_until: Duration,
    waiting: VecDeque<(Duration, u32)>,
    waiting_bytes: u64,
}

impl Sender {
    /// When a frame that comes at `now` has been sent if sending cannot begin before `free_at`; `None` if there is no
    /// room for it.
    pub(super) fn send(
        &mut self,
        now: Duration,
        free_at: Duration,
        bytes: u32,
        airtime: Duration,
        limit_bytes: u64,
    ) -> Option<Duration> {
        while let Some((_, bytes)) = self.waiting.pop_front_if(|(sent_at, _)| *sent_at <= now) {
            self.waiting_bytes -= u64::from(bytes);
        }
        if !self.waiting.is_empty() && self.waiting_bytes + u64::from(bytes) > limit_bytes {
            return None;
        }
        let sent_at = now.max(self.busy_until).max(free_at) + airtime;
        self.busy_until = sent_at;
        if sent_at > now {
            self.waiting.push_back((sent_at, bytes));
            self.waiting_bytes += u64::from(bytes);
        }
        Some(sent_at)
    }
}

/// An ordered pair of hosts that are in reach of each other.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) settings: Settings,
    pub(super) up: bool,
    /// Counts cuts, so that frames that were on their way are known.
    pub(super) cuts: u32,
    pub(super) sender: Sender,
    pub(super) counters: counters::Pair,
    last_arrival: Duration,
    loss: State,
    rng: ChaCha8Rng,
}

impl Link {
    pub(super) fn new(settings: Settings, rng: ChaCha8Rng) -> Self {
        Self {
            settings,
            up: true,
            cuts: 0,
            sender: Sender::default(),
            counters: counters::Pair::default(),
            last_arrival: Duration::ZERO,
            loss: State::Good,
            rng,
        }
    }

    /// Whatever waits or is on its way is lost.
    pub(super) fn cut(&mut self) {
        if self.up {
            self.up = false;
            self.cuts += 1;
            self.sender = Sender::default();
            self.last_arrival = Duration::ZERO;
        }
    }

    /// When a frame whose last bit was sent at `sent_at` arrives; `None` if it is lost.
    pub(super) fn propagate(&mut self, sent_at: Duration) -> Option<Duration> {
        if self.loss.loses(&self.settings.loss, &mut self.rng) {
            return None;
        }
        let Settings { delay, jitter, reorder, .. } = self.settings;
        if reorder > Share::ZERO && self.rng.random::<f64>() < reorder.fraction() {
            return Some(sent_at);
        }
        let delay = match jitter {
            Duration::ZERO => delay,
            jitter => delay - jitter + (jitter * 2).mul_f64(self.rng.random::<f64>()),
        };
        self.last_arrival = self.last_arrival.max(sent_at + delay);
        Some(self.last_arrival)
    }
}
