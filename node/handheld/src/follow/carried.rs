//! What becomes of one connection or request while its service moves. Pure.
//!
//! ```text
//!   Waiting ──a place is known──► Opening ──► Sent ──first of the answer──► Answering ──► PassingOn ──► done
//!      ▲                             │          │                              │             │
//!      └──── again, at the same or at the new place ◄──────────────────────────┘             └─► cut
//! ```
//!
//! What holds:
//!
//! * The client gets one answer. As soon as a byte of an answer was passed on, nothing is repeated: if the rest does not
//!   come, the client's connection is cut, so that it cannot take the half for the whole.
//! * Until then, a request that broke is sent again, as its [`Repeat`] allows. Sent again means that the service may see
//!   it twice: it may have done the work, and only the answer was lost. The key in its header is the same each time.
//! * Time waited for a place counts against the client's patience, time that the service works on it does not.

use std::time::Duration;

/// How often a request is sent at one place without an answer, before it is given up: it may be the request that breaks
/// the service. With the pauses, that is five seconds, in which a service that crashed is there again. Guess.
const MAX_SENT: u32 = 10;
/// First pause before it is sent again at the same place; each is twice the one before, up to [`PAUSE_MOST`]. Guess.
const PAUSE_LEAST: Duration = Duration::from_millis(25);
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// How long an answer that may still be under way from the former place is waited for, before a request whose repetition
/// the service may not notice is sent to the new one. Guess: a few round trips of a slow link. The VM stood still for longer
/// than that before it was told to have moved, so what it had answered has mostly arrived.
const GRACE: Duration = Duration::from_millis(250);
/// The same for an answer that has begun to arrive. Guess: the former place cuts its connections within a second.
const GRACE_ANSWERING: Duration = Duration::from_millis(1500);
/// The same for an answer of which the client has a part already. Guess: a former place that is in reach cuts it within a
/// second; one that is gone without a word would leave the client hanging for ever.
const GRACE_PASSING_ON: Duration = Duration::from_secs(5);

/// Under which conditions something may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Whenever nothing of an answer was passed on: the method is idempotent, or the client gave it a key.
    Always,
    /// While nothing of an answer has arrived.
    Unanswered,
    /// While nothing of it has left this device.
    Unsent,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It waits for a place.
    Waiting,
    /// A connection to the service is being made. Nothing has left.
    Opening,
    /// Some of it has left.
    Sent,
    /// Some of an answer has arrived and is held back.
    Answering,
    /// Some of an answer was passed on to the client.
    PassingOn,
}

/// What to do after it broke, or time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Try again then, or as soon as another place is known.
    Again(Duration),
    /// Tell the client.
    Fail(Failure),
    /// Cut the client's connection.
    Cut,
}

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing has left this device.
    #[error("the service was not reached within the time that was set; nothing was sent to it")]
    NoPlace,
    /// It was sent, and then the service was nowhere for too long.
    #[error(
        "the service was lost after it got the request, and not found again within the time that was set"
    )]
    Lost,
    /// The connection broke, and it may not be sent again.
    #[error(
        "the connection broke after the service got the request; it may have been done, so it was not sent again"
    )]
    Broken,
    /// It was sent again and again.
    #[error("the service broke the connection each time that it got the request")]
    Poison,
    /// Too many wait already.
    #[error("too many requests wait for the service already")]
    Full,
    /// The instance has come to its end.
    #[error("the service has come to its end")]
    Over,
}

/// One connection or request.
#[derive(Debug, Clone)]
pub struct Carried {
    repeat: Repeat,
    patience: Duration,
    stage: Stage,
    /// Since when there has been no place to serve it.
    waiting_since: Option<Duration>,
    /// The stay of the instance that it was led to.
    generation: u64,
    /// How often it was sent there.
    sent: u32,
    tries: u32,
    ever_sent: bool,
}

impl Carried {
    /// It has just come.
    pub fn new(now: Duration, repeat: Repeat, patience: Duration) -> Self {
        Self {
            repeat,
            patience,
            stage: Stage::Waiting,
            waiting_since: Some(now),
            generation: 0,
            sent: 0,
            tries: 0,
            ever_sent: false,
        }
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// A connection to this stay is being made.
    pub fn goes(&mut self, generation: u64) {
        if generation != self.generation {
            (self.generation, self.sent, self.tries) = (generation, 0, 0);
        }
        self.stage = Stage::Opening;
    }

    /// It got so far.
    pub fn reached(&mut self, stage: Stage) {
        if stage == Stage::Sent && self.stage < Stage::Sent {
            self.sent += 1;
            self.ever_sent = true;
            self.waiting_since = None;
        }
        self.stage = self.stage.max(stage);
    }

    /// There is no place at present.
    pub fn held(&mut self, now: Duration) {
        self.waiting_since.get_or_insert(now);
    }

    /// New connections go to this stay. Another one than its own: when to give up on the connection that it has, `None`
    /// if never.
    pub fn led(&mut self, now: Duration, generation: u64) -> Option<Duration> {
        if generation == self.generation || self.stage == Stage::Waiting {
            if self.stage >= Stage::Sent {
                self.waiting_since = None;
            }
            return None;
        }
        match (self.stage, self.repeat) {
            (Stage::Waiting, _) => None,
            (Stage::PassingOn, _) => Some(now + GRACE_PASSING_ON),
            (Stage::Opening, _) | (Stage::Sent, Repeat::Always) => Some(now),
            (Stage::Sent, Repeat::Unanswered) => Some(now + GRACE),
            // There it may be answered; here it would only fail.
            (Stage::Sent, Repeat::Unsent) | (Stage::Answering, _) => Some(now + GRACE_ANSWERING),
        }
    }

    /// When patience ends.
    pub fn until(&self) -> Option<Duration> {
        let since = self.waiting_since.filter(|_| self.stage < Stage::PassingOn)?;
        Some(since + self.patience)
    }

    /// Patience has ended.
    pub fn impatient(&self) -> Failure {
        if self.ever_sent { Failure::Lost } else { Failure::NoPlace }
    }

    /// The stay that it was led to.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it may be sent more than once at all.
    pub fn may_repeat(&self) -> bool {
        self.repeat != Repeat::Unsent
    }

    /// From now on it may be repeated under this condition only.
    pub fn allow(&mut self, repeat: Repeat) {
        self.repeat = repeat;
    }

    /// Its connection to the service broke, could not be had, or was given up.
    pub fn broke(&mut self, now: Duration) -> Fate {
        let may = match self.stage {
            Stage::PassingOn => return Fate::Cut,
            Stage::Waiting | Stage::Opening => true,
            Stage::Sent => self.repeat != Repeat::Unsent,
            Stage::Answering => self.repeat == Repeat::Always,
        };
        if !may {
            return Fate::Fail(Failure::Broken);
        }
        if self.sent >= MAX_SENT {
            return Fate::Fail(Failure::Poison);
        }
        self.stage = Stage::Waiting;
        self.waiting_since.get_or_insert(now);
        let pause = (PAUSE_LEAST * 2_u32.saturating_pow(self.tries.min(16))).min(PAUSE_MOST);
        self.tries += 1;
        Fate::Again(now + pause)
    }

    /// A connection that had been kept from an earlier request turned out to be dead: that is no try.
    pub fn was_stale(&mut self, now: Duration) -> Fate {
        let fate = self.broke(now);
        if let Fate::Again(_) = fate {
            (self.tries, self.sent) = (self.tries.saturating_sub(1), self.sent.saturating_sub(1));
            return Fate::Again(now);
        }
        fate
    }
}

/// How many may wait, and how many bytes may be kept for them.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    most: usize,
    taken: usize,
    most_bytes: usize,
    bytes: usize,
}

impl Room {
    /// Empty.
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self { most, taken: 0, most_bytes, bytes: 0 }
    }

    /// One more comes, if there is room.
    pub fn enter(&mut self) -> bool {
        let fits = self.taken < self.most;
        self.taken += usize::from(fits);
        fits
    }

    /// So many bytes more are kept, if there is room.
    pub fn keep(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.most_bytes - self.bytes;
        self.bytes += if fits { bytes } else { 0 };
        fits
    }

    /// One goes, and these bytes with it.
    pub fn leave(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// How many are there.
    pub fn taken(&self) -> usize {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn carried(repeat: Repeat, stage: Stage) -> Carried {
        let mut one = Carried::new(ms(0), repeat, ms(30_000));
        one.goes(1);
        if stage >= Stage::Sent {
            one.reached(Stage::Sent);
        }
        one.reached(stage);
        one
    }

    #[test]
    fn what_broke_is_repeated_as_its_kind_allows() {
        use {Failure::Broken, Repeat::*, Stage::*};
        let again = Fate::Again(ms(5025));
        for (repeat, stage, fate) in [
            (Unsent, Opening, again),
            (Unsent, Sent, Fate::Fail(Broken)),
            (Unsent, Answering, Fate::Fail(Broken)),
            (Unanswered, Opening, again),
            (Unanswered, Sent, again),
            (Unanswered, Answering, Fate::Fail(Broken)),
            (Always, Sent, again),
            (Always, Answering, again),
            (Always, PassingOn, Fate::Cut),
            (Unanswered, PassingOn, Fate::Cut),
        ] {
            assert_eq!(carried(repeat, stage).broke(ms(5000)), fate, "{repeat:?} {stage:?}");
        }
    }

    #[test]
    fn when_the_instance_has_moved_what_can_be_repeated_leaves_the_old_place_first() {
        use {Repeat::*, Stage::*};
        for (repeat, stage, leaves) in [
            (Always, Opening, Some(1000)),
            (Always, Sent, Some(1000)),
            (Unanswered, Sent, Some(1250)),
            (Unsent, Sent, Some(2500)),
            (Always, Answering, Some(2500)),
            (Always, PassingOn, Some(6000)),
        ] {
            assert_eq!(carried(repeat, stage).led(ms(1000), 2), leaves.map(ms), "{repeat:?} {stage:?}");
            assert_eq!(carried(repeat, stage).led(ms(1000), 1), None, "the same stay");
        }
    }

    #[test]
    fn patience_is_for_waiting_and_not_for_work() {
        let mut one = Carried::new(ms(100), Repeat::Always, ms(1000));
        assert_eq!((one.until(), one.impatient()), (Some(ms(1100)), Failure::NoPlace));
        one.goes(1);
        assert_eq!(one.until(), Some(ms(1100)), "a connection that does not come about is waiting, too");
        one.reached(Stage::Sent);
        assert_eq!(one.until(), None, "the service may work for an hour");
        one.held(ms(60_000));
        assert_eq!((one.until(), one.impatient()), (Some(ms(61_000)), Failure::Lost));
        assert_eq!(one.led(ms(60_500), 1), None);
        assert_eq!(one.until(), None, "it stood still and goes on");
        assert_eq!(one.broke(ms(70_000)), Fate::Again(ms(70_025)));
        assert_eq!(one.until(), Some(ms(71_000)));
    }

    #[test]
    fn a_request_that_breaks_the_service_is_given_up_and_a_stale_connection_is_no_try() {
        let mut one = Carried::new(ms(0), Repeat::Always, ms(30_000));
        let mut sent = 0;
        let last = loop {
            one.goes(1);
            one.reached(Stage::Sent);
            sent += 1;
            match one.broke(ms(0)) {
                Fate::Again(when) => assert!(when <= PAUSE_MOST),
                other => break other,
            }
        };
        assert_eq!((sent, last), (MAX_SENT, Fate::Fail(Failure::Poison)));
        let mut one = carried(Repeat::Always, Stage::Sent);
        assert_eq!(one.was_stale(ms(7)), Fate::Again(ms(7)));
        one.goes(1);
        assert_eq!((one.sent, one.tries), (0, 0));
        // At another place it has its tries again.
        one.sent = MAX_SENT;
        one.goes(2);
        assert_eq!(one.sent, 0);
    }

    #[test]
    fn there_is_room_for_so_many_and_so_much() {
        let mut room = Room::new(2, 100);
        assert!(room.enter() && room.enter() && !room.enter());
        assert!(room.keep(100) && !room.keep(1));
        room.leave(100);
        assert!(room.enter() && room.keep(60) && !room.keep(41));
        assert_eq!(room.taken(), 2);
    }
}
