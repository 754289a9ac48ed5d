use std::collections::BTreeMap;

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn at(number: u8) -> Route {
    Route::direct(node(number), format!("https://{number}"))
}

fn asks(effects: &[Effect]) -> Vec<Route> {
    let ask = |effect: &Effect| match effect {
        Effect::Ask(route) => Some(route.clone()),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

fn tracker() -> Tracker {
    let mut tracker = Tracker::new(ms(0), Pace::default(), at(1), vec![at(2), at(3)]);
    tracker.step(ms(0), Input::Looked(Vec::new()));
    tracker
}

#[test]
fn others_are_looked_for_until_there_are_some_and_again_at_a_new_place() {
    let mut tracker = Tracker::new(ms(0), Pace::default(), at(1), Vec::new());
    let mut looks = Vec::new();
    while let Some(due) = tracker.due().filter(|due| *due < ms(30_000)) {
        for effect in tracker.step(due, Input::Tick) {
            match effect {
                Effect::Ask(route) => drop(tracker.step(due, Input::Answered(route, Word::Ready))),
                Effect::Look => {
                    looks.push(due);
                    // Another address of the same cloudlet is not another cloudlet.
                    let told = Route::direct(node(1), "https://1b");
                    assert_eq!(tracker.step(due, Input::Looked(vec![told])), []);
                }
                effect => panic!("{effect:?}"),
            }
        }
    }
    assert_eq!(looks, [1000, 2000, 4000, 8000, 16_000].map(ms));
    tracker.step(ms(30_000), Input::Looked(vec![at(2)]));
    let next = |tracker: &Tracker| tracker.look.due;
    assert_eq!(next(&tracker), ms(90_000));
    tracker.step(ms(31_000), Input::Answered(at(1), Word::Moved(vec![at(2)])));
    tracker.step(ms(31_100), Input::Answered(at(2), Word::Ready));
    assert_eq!(next(&tracker), ms(32_100), "it may know others");
}

#[test]
fn a_place_that_is_well_is_asked_now_and_then_and_nobody_else_is() {
    let mut tracker = tracker();
    let mut asked = 0;
    while let Some(due) = tracker.due().filter(|due| *due < ms(30_000)) {
        for route in asks(&tracker.step(due, Input::Tick)) {
            assert_eq!(route, at(1));
            asked += 1;
            assert_eq!(tracker.step(due, Input::Answered(route, Word::Ready)), []);
        }
    }
    assert_eq!(asked, 5);
    assert_eq!(tracker.step(ms(30_000), Input::Busy(true)), [Effect::Ask(at(1))], "it was due anyway");
    tracker.step(ms(30_000), Input::Answered(at(1), Word::Ready));
    assert_eq!(tracker.due(), Some(ms(31_000)), "more often while somebody waits");
}

#[test]
fn who_is_told_the_new_place_asks_there_first() {
    let mut tracker = tracker();
    let effects = tracker.step(ms(10), Input::Answered(at(1), Word::Moved(vec![at(3)])));
    assert_eq!(effects, [Effect::Hold, Effect::Ask(at(3))]);
    assert_eq!(tracker.place(), None);
    let effects = tracker.step(ms(40), Input::Answered(at(3), Word::Ready));
    assert_eq!(effects, [Effect::Lead(at(3), 2)]);
    assert_eq!(tracker.place(), Some(&at(3)));
}

#[test]
fn a_vm_that_stands_still_is_awaited_where_it_is_and_its_connections_stay() {
    let mut tracker = tracker();
    tracker.step(ms(0), Input::Busy(true));
    let effects = tracker.step(ms(10), Input::Answered(at(1), Word::NotNow));
    assert_eq!(effects[0], Effect::Hold);
    let due = tracker.due().unwrap();
    assert!(due <= ms(110), "{due:?}");
    assert!(asks(&tracker.step(ms(110), Input::Tick)).contains(&at(1)));
    let effects = tracker.step(ms(130), Input::Answered(at(1), Word::Ready));
    assert_eq!(effects, [Effect::Lead(at(1), 1)], "the handoff came to nothing: the same stay goes on");
}

#[test]
fn a_place_that_is_gone_without_a_word_is_doubted_once_and_then_everybody_is_asked() {
    let mut tracker = tracker();
    tracker.step(ms(0), Input::Busy(true));
    let effects = tracker.step(ms(50), Input::Broke(1));
    assert_eq!(asks(&effects), [at(1)], "a broken connection is a reason to ask at once");
    let effects = tracker.step(ms(2050), Input::Answered(at(1), Word::Silent));
    assert_eq!(effects, [], "one lost answer means nothing");
    let again = tracker.due().unwrap();
    assert_eq!(asks(&tracker.step(again, Input::Tick)), [at(1)]);
    let effects = tracker.step(ms(4500), Input::Answered(at(1), Word::Silent));
    assert_eq!(effects, [Effect::Hold, Effect::Ask(at(2)), Effect::Ask(at(3))]);
    // One of them leads to it, as its hop in between.
    tracker.step(ms(4510), Input::Answered(at(2), Word::Unknown));
    tracker.step(ms(4510), Input::Answered(at(3), Word::Unknown));
    let mut now;
    let through = Route::through(node(2), node(1));
    loop {
        now = tracker.due().unwrap();
        assert!(now < ms(5600), "detours are tried soon");
        let asked = asks(&tracker.step(now, Input::Tick));
        if asked.contains(&through) {
            break;
        }
        asked.into_iter().for_each(|route| drop(tracker.step(now, Input::Answered(route, Word::Silent))));
    }
    let effects = tracker.step(now, Input::Answered(through.clone(), Word::Ready));
    assert_eq!(effects, [Effect::Lead(through.clone(), 1)], "it never left, only the way is another");
    // Back in range, the detour ends.
    tracker.step(now, Input::Answered(at(1), Word::Ready));
    assert_eq!(tracker.place(), Some(&at(1)));
}

#[test]
fn an_instance_that_ended_is_over_once_the_others_do_not_have_it() {
    let mut tracker = tracker();
    let effects = tracker.step(ms(0), Input::Answered(at(1), Word::Ended("stopped".to_owned())));
    assert_eq!(effects[0], Effect::Hold);
    for route in [at(2), at(3)] {
        tracker.step(ms(20), Input::Answered(route, Word::Unknown));
    }
    let mut over = None;
    while let Some(due) = tracker.due() {
        for effect in tracker.step(due, Input::Tick) {
            match effect {
                Effect::Ask(route) => {
                    tracker.step(due, Input::Answered(route, Word::Unknown));
                }
                Effect::Over(reason) => over = Some((due, reason)),
                _ => {}
            }
        }
    }
    assert_eq!(over, Some((ms(3000), "stopped".to_owned())));
}

#[test]
fn redirects_in_a_circle_are_followed_at_a_walk() {
    let mut tracker = tracker();
    let mut asked = 0;
    let mut effects = tracker.step(ms(0), Input::Answered(at(1), Word::Moved(vec![at(2)])));
    for now in 0..2000 {
        let mut next = Vec::new();
        for route in asks(&effects) {
            asked += 1;
            let told = if route.node == node(1) { at(2) } else { at(1) };
            next.extend(tracker.step(ms(now), Input::Answered(route, Word::Moved(vec![told]))));
        }
        next.extend(tracker.step(ms(now + 1), Input::Tick));
        effects = next;
    }
    // Each of three cloudlets and the ways through them, every 100 ms at most.
    assert!(asked <= 20 * 9, "{asked}");
}

#[test]
fn no_more_ways_are_kept_and_no_more_questions_asked_than_is_said() {
    let mut tracker = tracker();
    let many = (0..1000).map(|n| Route::direct(node(7), format!("https://{n}"))).collect();
    tracker.step(ms(0), Input::Looked(many));
    assert_eq!(tracker.routes.len(), MAX_ROUTES);
    let effects = tracker.step(ms(0), Input::Answered(at(1), Word::Unknown));
    assert_eq!(asks(&effects).len(), MAX_ASKS);
    assert!(tracker.due().is_none_or(|due| due > ms(0)));
}

/// Four cloudlets, an instance that moves, answers that take time, cloudlets that go and come.
struct World {
    random: u64,
    now: Duration,
    /// Who has it, and since when it serves there.
    here: u8,
    ready: Duration,
    /// When each of them is in range again.
    away: BTreeMap<u8, Duration>,
    /// Where each sent it.
    sent: BTreeMap<u8, u8>,
    answers: Vec<(Duration, Route, Word)>,
    asked: u64,
}

impl World {
    fn random(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn in_range(&self, one: u8) -> bool {
        self.away.get(&one).is_none_or(|until| self.now >= *until)
    }

    fn word(&self, route: &Route) -> Word {
        let asked = route.node.as_bytes()[0];
        let first = match &route.way {
            super::super::route::Way::Direct(_) => asked,
            super::super::route::Way::Through(first) => first.as_bytes()[0],
        };
        if !self.in_range(first) {
            return Word::Silent;
        }
        match self.sent.get(&asked) {
            _ if asked == self.here && self.now >= self.ready => Word::Ready,
            _ if asked == self.here => Word::NotNow,
            Some(to) => Word::Moved(vec![at(*to)]),
            None => Word::Unknown,
        }
    }

    fn run(
        &mut self,
        tracker: &mut Tracker,
        until: Duration,
        mut done: impl FnMut(&Tracker, &Self) -> bool,
    ) -> bool {
        let mut effects = Vec::new();
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Ask(route) => {
                        self.asked += 1;
                        let word = self.word(&route);
                        let takes = if word == Word::Silent { ms(2000) } else { ms(5 + self.random(60)) };
                        self.answers.push((self.now + takes, route, word));
                    }
                    Effect::Look => effects.extend(tracker.step(self.now, Input::Looked(Vec::new()))),
                    _ => {}
                }
            }
            if !effects.is_empty() {
                continue;
            }
            if done(tracker, self) {
                return true;
            }
            self.answers.sort_by_key(|(when, ..)| *when);
            let answer = self.answers.first().map(|(when, ..)| *when);
            let next = answer.into_iter().chain(tracker.due()).min().unwrap_or(until);
            if next > until {
                self.now = until;
                return false;
            }
            self.now = self.now.max(next);
            effects = match answer {
                Some(when) if when <= self.now => {
                    let (_, route, word) = self.answers.remove(0);
                    tracker.step(self.now, Input::Answered(route, word))
                }
                _ => tracker.step(self.now, Input::Tick),
            };
        }
    }
}

#[test]
fn in_a_thousand_moves_the_instance_is_always_found_again() {
    for seed in 0..20 {
        let mut world = World {
            random: seed,
            now: ms(0),
            here: 1,
            ready: ms(0),
            away: BTreeMap::new(),
            sent: BTreeMap::new(),
            answers: Vec::new(),
            asked: 0,
        };
        let mut tracker = Tracker::new(ms(0), Pace::default(), at(1), (2..=4).map(at).collect());
        tracker.step(ms(0), Input::Busy(true));
        let mut worst = ms(0);
        for step in 0..50 {
            let calm = world.now + ms(world.random(4000));
            world.run(&mut tracker, calm, |_, _| false);
            let (from, to) = (world.here, 1 + u8::try_from(world.random(4)).unwrap());
            if to != from {
                world.sent.insert(from, to);
                world.sent.remove(&to);
            }
            (world.here, world.ready) = (to, world.now + ms(200 + world.random(1500)));
            // Every third time the source, and now and then the destination, is out of range for the handheld.
            for (one, odds) in [(from, 3), (to, 4)] {
                if world.random(odds) == 0 {
                    let back = world.now + ms(3000 + world.random(20_000));
                    world.away.insert(one, back);
                }
            }
            let limit = world.ready + ms(60_000);
            let found = world.run(&mut tracker, limit, |tracker, world| {
                world.now >= world.ready
                    && tracker.place().is_some_and(|place| world.word(place) == Word::Ready)
            });
            let took = world.now.saturating_sub(world.ready);
            assert!(found, "seed {seed}, move {step}: {tracker:?}");
            // It may be that nobody who is in range has it, or leads to it; else silence, twice, and a search.
            let reachable = world.away.values().all(|until| *until <= world.ready);
            assert!(!reachable || took <= ms(6000), "seed {seed}, move {step}: {took:?}");
            worst = worst.max(took);
        }
        let per_s = world.asked as f64 / world.now.as_secs_f64();
        assert!(per_s < 8.0, "seed {seed}: {per_s} questions each second");
        println!("seed {seed}: found again after {worst:?} at most, {per_s:.1} questions/s");
    }
}
