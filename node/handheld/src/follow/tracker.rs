//! Where the instance is, and where to look for it next. Pure: time comes in, questions go out.
//!
//! ```text
//!             it moved / it is not here / silent twice / it stands still
//!   Serving ─────────────────────────────────────────────────────────────► Lost
//!      ▲                                                                     │ ask where it was told to be, at once;
//!      └────────────────────────── somebody says that it is ready there ─────┤ then its former place, the others, and
//!                                                                            │ ways through others; look for more
//!                it ended, and nobody else has it ──► Over  ◄────────────────┘
//! ```
//!
//! The word of a cloudlet only says whom to ask; new connections are led to whoever says that the instance is ready there,
//! on the way on which that was said. What the driver owes: every [`Effect::Ask`] is answered once by [`Input::Answered`],
//! by [`Word::Silent`] at the latest when its time is up, and every [`Effect::Look`] by [`Input::Looked`].

use std::collections::BTreeMap;
use std::time::Duration;

use mesh::NodeId;

use super::route::Route;

/// Most ways that are known at a time. Guess: sixteen cloudlets with two addresses each, and detours.
const MAX_ROUTES: usize = 64;
/// Most questions under way at a time, so that a search does not fill a narrow link. Guess.
const MAX_ASKS: usize = 8;
/// Most cloudlets that are tried as a way to one that is out of range. Guess: as `relay` asks.
const MAX_DETOURS: usize = 4;

/// How fast things are done. The defaults are guesses: a question and its answer have about 600 bytes, so that a
/// handheld at work costs its cloudlet 600 B/s beside the requests, and an idle one 120 B/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often the place is asked whether all is well, while somebody waits for an answer.
    pub check_busy: Duration,
    /// The same, while nobody does.
    pub check_idle: Duration,
    /// Shortest pause between two questions on one way.
    pub pause_least: Duration,
    /// Longest such pause while somebody waits; each pause is twice the one before.
    pub pause_most: Duration,
    /// Longest such pause while nobody does.
    pub pause_idle: Duration,
    /// After this long with no trace, ways through others are tried, and others than those that were named.
    pub detour_after: Duration,
    /// After this long with no trace, or at a new place, it is looked for new cloudlets. While there is no trace, or no
    /// other cloudlet is known, the pause until the next look doubles.
    pub look_after: Duration,
    /// Longest pause between two looks, and the usual one while all is well.
    pub look_most: Duration,
    /// How often in a row the place may keep silent.
    pub silences: u32,
    /// How long others are asked after the place has said that the instance ended.
    pub end_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            check_busy: Duration::from_secs(1),
            check_idle: Duration::from_secs(5),
            pause_least: Duration::from_millis(100),
            pause_most: Duration::from_secs(2),
            pause_idle: Duration::from_secs(10),
            detour_after: Duration::from_millis(300),
            look_after: Duration::from_secs(1),
            look_most: Duration::from_secs(60),
            silences: 2,
            end_after: Duration::from_secs(3),
        }
    }
}

/// What a cloudlet says of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It is ready here.
    Ready,
    /// It is here and does not serve now: it starts, or is being moved.
    NotNow,
    /// It has come to its end here.
    Ended(String),
    /// It was here, and is at that cloudlet now.
    Moved(Vec<Route>),
    /// It is not here.
    Unknown,
    /// No answer.
    Silent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// An answer, or what the place says unasked.
    Answered(Route, Word),
    /// A connection of this generation broke, or could not be had.
    Broke(u64),
    /// The search for cloudlets brought this.
    Looked(Vec<Route>),
    /// Whether somebody waits for an answer.
    Busy(bool),
    /// Time has passed.
    Tick,
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask there for the instance.
    Ask(Route),
    /// New connections go there. A generation is one stay of the instance at one cloudlet.
    Lead(Route, u64),
    /// New connections wait.
    Hold,
    /// Look for cloudlets: on the link, and by asking those that are known.
    Look,
    /// It came to its end: nobody is led anywhere any more.
    Over(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Serving { silences: u32 },
    Lost { moved: bool, ended: Option<(Duration, String)> },
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contact {
    /// A question is under way.
    asked: bool,
    last: Option<Duration>,
    due: Duration,
    pause: Duration,
    silent: bool,
}

/// Follows one instance.
#[derive(Debug, Clone)]
pub struct Tracker {
    pace: Pace,
    /// Where it is, or was last.
    place: Route,
    state: State,
    generation: u64,
    routes: BTreeMap<Route, Contact>,
    busy: bool,
    look: Look,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    under_way: bool,
    due: Duration,
    pause: Duration,
}

impl Tracker {
    /// The instance serves at `place`, which knows of `others`. Nothing is to be done for that; call [`Self::step`] when
    /// [`Self::due`] says.
    pub fn new(now: Duration, pace: Pace, place: Route, others: Vec<Route>) -> Self {
        let contact = Contact::new(now + pace.check_idle, pace);
        let mut tracker = Self {
            pace,
            routes: BTreeMap::from([(place.clone(), contact)]),
            place,
            state: State::Serving { silences: 0 },
            generation: 1,
            busy: false,
            look: Look { under_way: false, due: now + pace.look_after, pause: pace.look_after },
        };
        for route in others {
            tracker.learn(route, now);
        }
        tracker
    }

    /// Where the instance is; `None` while that is not known.
    pub fn place(&self) -> Option<&Route> {
        matches!(self.state, State::Serving { .. }).then_some(&self.place)
    }

    /// Takes in what happened. `now` never goes backwards.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        match input {
            Input::Answered(route, word) => self.answered(now, &route, word, &mut out),
            Input::Broke(generation) => self.broke(now, generation),
            Input::Looked(routes) => self.looked(now, routes),
            Input::Busy(busy) => self.set_busy(now, busy),
            Input::Tick => {}
        }
        self.act(now, &mut out);
        out
    }

    /// When to call [`Self::step`] next if nothing else happens.
    pub fn due(&self) -> Option<Duration> {
        if self.state == State::Over {
            return None;
        }
        let open = self.asking() < MAX_ASKS;
        let waits =
            |(route, contact): &(&Route, &Contact)| open && !contact.asked && self.is_asked_now(route);
        let asks = self.routes.iter().filter(waits).map(|(_, contact)| contact.due).min();
        let look = (!self.look.under_way).then_some(self.look.due);
        let end = match &self.state {
            State::Lost { ended: Some((since, _)), .. } => Some(*since + self.pace.end_after),
            _ => None,
        };
        asks.into_iter().chain(look).chain(end).min()
    }

    /// Whether questions go that way at present: while all is well, to the place only, and past the detour if there is one.
    fn is_asked_now(&self, route: &Route) -> bool {
        match self.state {
            State::Over => false,
            State::Serving { .. } => *route == self.place || self.is_shortcut(route),
            State::Lost { .. } => true,
        }
    }

    fn is_shortcut(&self, route: &Route) -> bool {
        !self.place.is_direct() && route.is_direct() && route.node == self.place.node
    }

    fn asking(&self) -> usize {
        self.routes.values().filter(|contact| contact.asked).count()
    }

    fn broke(&mut self, now: Duration, generation: u64) {
        let least = self.pace.pause_least;
        if generation == self.generation
            && matches!(self.state, State::Serving { .. })
            && let Some(contact) = self.routes.get_mut(&self.place)
        {
            contact.sooner(contact.last.map_or(now, |last| now.max(last + least)));
        }
    }

    fn set_busy(&mut self, now: Duration, busy: bool) {
        self.busy = busy;
        if !busy {
            return;
        }
        let latest = match self.state {
            State::Serving { .. } => now + self.pace.check_busy,
            _ => {
                self.look.due = self.look.due.min(now + self.pace.look_after);
                now + self.pace.pause_most
            }
        };
        self.routes.values_mut().for_each(|contact| contact.sooner(latest));
    }

    fn looked(&mut self, now: Duration, routes: Vec<Route>) {
        let lost = matches!(self.state, State::Lost { .. });
        self.look.under_way = false;
        for route in routes {
            self.learn(route, now);
        }
        // When the place is gone without a word, it is too late to ask it for others.
        let alone = self.routes.keys().all(|route| route.node == self.place.node);
        self.look.due = now + if lost || alone { self.look.pause } else { self.pace.look_most };
        self.look.pause = (self.look.pause * 2).min(self.pace.look_most);
        if lost {
            self.detours(now, self.place.node);
        }
    }

    /// A further way. Those that lead to the place, and those that were told by it, are kept before others.
    fn learn(&mut self, route: Route, due: Duration) -> bool {
        if self.routes.contains_key(&route) {
            return true;
        }
        if self.routes.len() >= MAX_ROUTES {
            let spare = |(route, contact): &(&Route, &Contact)| {
                contact.silent && !contact.asked && **route != self.place
            };
            let Some(spare) = self.routes.iter().filter(spare).map(|(route, _)| route.clone()).next_back()
            else {
                return false;
            };
            self.routes.remove(&spare);
        }
        self.routes.insert(route, Contact::new(due, self.pace));
        true
    }

    /// Ways to `node` through those that are in range.
    fn detours(&mut self, due: Duration, node: NodeId) {
        let direct = |(route, contact): (&Route, &Contact)| {
            (route.is_direct() && !contact.silent && route.node != node).then_some(route.node)
        };
        let mut firsts: Vec<NodeId> = self.routes.iter().filter_map(direct).collect();
        firsts.dedup();
        for first in firsts.into_iter().take(MAX_DETOURS) {
            self.learn(Route::through(first, node), due);
        }
    }

    fn answered(&mut self, now: Duration, route: &Route, word: Word, out: &mut Vec<Effect>) {
        let busy = self.busy;
        let pace = self.pace;
        if let Some(contact) = self.routes.get_mut(route) {
            contact.asked = false;
            contact.silent = word == Word::Silent;
            contact.pause = match word {
                Word::Ready => pace.pause_least,
                // It comes back within a second or so, or is told to have moved.
                Word::NotNow => (contact.pause * 2).min(pace.pause_most / 4).max(pace.pause_least),
                _ => (contact.pause * 2).min(if busy { pace.pause_most } else { pace.pause_idle }),
            };
            contact.due = now + contact.pause;
        }
        match (&self.state, word) {
            (State::Over, _) => {}
            (State::Serving { .. }, word) if *route == self.place => self.place_says(now, word, out),
            (State::Serving { .. }, Word::Ready) if self.is_shortcut(route) => self.serves(now, route, out),
            (State::Serving { .. }, _) => {}
            (State::Lost { .. }, word) => self.searched(now, route, word, out),
        }
    }

    /// What the place says while it serves.
    fn place_says(&mut self, now: Duration, word: Word, out: &mut Vec<Effect>) {
        let State::Serving { silences } = &mut self.state else { return };
        let mut ended = None;
        let (mut moved, mut told) = (false, Vec::new());
        match word {
            Word::Ready => {
                *silences = 0;
                let check = if self.busy { self.pace.check_busy } else { self.pace.check_idle };
                if let Some(contact) = self.routes.get_mut(&self.place) {
                    contact.due = now + check;
                }
                return;
            }
            Word::Silent => {
                *silences += 1;
                if *silences < self.pace.silences {
                    return;
                }
            }
            Word::NotNow => {}
            Word::Ended(reason) => ended = Some((now, reason)),
            Word::Unknown => moved = true,
            Word::Moved(routes) => (moved, told) = (true, routes),
        }
        self.state = State::Lost { moved, ended };
        out.push(Effect::Hold);
        self.begin_search(now, told);
    }

    /// Whom to ask first: those that were told, then the former place, then everybody.
    fn begin_search(&mut self, now: Duration, told: Vec<Route>) {
        let aimed = !told.is_empty();
        let later = if aimed { now + self.pace.detour_after } else { now };
        for (route, contact) in &mut self.routes {
            contact.pause = self.pace.pause_least;
            contact.due = if *route == self.place { now + contact.pause } else { later };
        }
        self.look.pause = self.pace.look_after;
        self.look.due = now + self.pace.look_after;
        self.aim(now, told);
        self.detours(now + self.pace.detour_after, self.place.node);
    }

    /// Asks those that were told at once, or on detours.
    fn aim(&mut self, now: Duration, told: Vec<Route>) {
        for route in told {
            let node = route.node;
            if self.learn(route.clone(), now)
                && let Some(contact) = self.routes.get_mut(&route)
            {
                let least = self.pace.pause_least;
                contact.pause = least;
                contact.sooner(contact.last.map_or(now, |last| now.max(last + least)));
            }
            self.detours(now + self.pace.detour_after, node);
        }
    }

    /// What somebody says while the instance is looked for.
    fn searched(&mut self, now: Duration, route: &Route, word: Word, out: &mut Vec<Effect>) {
        let State::Lost { moved, ended } = &mut self.state else { return };
        match word {
            Word::Ready => {
                if *moved || route.node != self.place.node {
                    self.generation += 1;
                }
                self.serves(now, route, out);
            }
            Word::Moved(told) => {
                *moved |= route.node == self.place.node;
                *ended = None;
                self.aim(now, told);
            }
            Word::Unknown => *moved |= route.node == self.place.node,
            // Others may remember a copy that never woke up.
            Word::Ended(reason) if route.node == self.place.node => {
                ended.get_or_insert((now, reason));
            }
            Word::Ended(_) => {}
            Word::NotNow => *ended = None,
            Word::Silent => {}
        }
    }

    fn serves(&mut self, now: Duration, route: &Route, out: &mut Vec<Effect>) {
        // Another place may know others.
        let is_new = route.node != self.place.node;
        self.place = route.clone();
        self.state = State::Serving { silences: 0 };
        self.look.pause = self.pace.look_after;
        self.look.due = now + if is_new { self.pace.look_after } else { self.pace.look_most };
        if let Some(contact) = self.routes.get_mut(route) {
            contact.due = now + if self.busy { self.pace.check_busy } else { self.pace.check_idle };
        }
        out.push(Effect::Lead(route.clone(), self.generation));
    }

    fn act(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if let State::Lost { ended: Some((since, reason)), .. } = &self.state
            && now >= *since + self.pace.end_after
        {
            out.push(Effect::Over(reason.clone()));
            self.state = State::Over;
        }
        if self.state == State::Over {
            return;
        }
        let is_due = |(route, contact): &(&Route, &Contact)| contact.is_due(now) && self.is_asked_now(route);
        let mut due: Vec<(Duration, Route)> =
            self.routes.iter().filter(is_due).map(|(route, contact)| (contact.due, route.clone())).collect();
        due.sort();
        for (_, route) in due.into_iter().take(MAX_ASKS.saturating_sub(self.asking())) {
            if let Some(contact) = self.routes.get_mut(&route) {
                (contact.asked, contact.last) = (true, Some(now));
            }
            out.push(Effect::Ask(route));
        }
        if !self.look.under_way && now >= self.look.due {
            self.look.under_way = true;
            out.push(Effect::Look);
        }
    }
}

impl Contact {
    fn new(due: Duration, pace: Pace) -> Self {
        Self { asked: false, last: None, due, pause: pace.pause_least, silent: false }
    }

    fn sooner(&mut self, due: Duration) {
        self.due = self.due.min(due);
    }

    fn is_due(&self, now: Duration) -> bool {
        !self.asked && self.due <= now
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
