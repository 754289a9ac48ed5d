//! What must hold for every choice.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::time::Duration;

use mesh::NodeId;
use mesh::advert::Load;
use mesh::selection::{
    Candidate, Completion, Contact, Current, Hysteresis, HysteresisSettings, Infeasible, Instance, Link,
    Measure, Need, Offer, Policy, Power, Scored, Settings, Tie, Utility, Verdict, Weighted, choose,
};
use proptest::prelude::*;
use vm_images::manifest::Accelerator;

const GIB: u64 = 1 << 30;

fn need() -> Need {
    Need { memory_bytes: GIB, cpu_millis: 1000, ..Need::of("speech".parse().unwrap()) }
}

fn candidate(id: u8) -> Candidate {
    let load = Load {
        cpu_used_millis: 0,
        cpu_total_millis: 2000,
        memory_free_bytes: 2 * GIB,
        memory_total_bytes: 4 * GIB,
        instances: 0,
        queue_length: 0,
    };
    let link = Link {
        rtt: Some(Duration::from_millis(5)),
        rate_bytes_per_s: Some(1_000_000),
        signal_dbm: Some(-60),
        hops: Some(1),
    };
    Candidate {
        accelerator: Some(Accelerator::Kvm),
        architecture: Some("x86_64".to_owned()),
        guest_systems: Some(["debian-12".to_owned()].into()),
        contact: Contact::Predicted { lasts: Duration::from_secs(100) },
        ready_time: Some(Duration::from_millis(600)),
        power: Some(Power::External),
        ..Candidate::unknown(NodeId::from_bytes([id; 16]), &format!("node-{id}"), load, link, Offer::Cached)
    }
}

fn id(byte: u8) -> Option<NodeId> {
    Some(NodeId::from_bytes([byte; 16]))
}

#[test]
fn each_measure_alone_prefers_the_better_figure() {
    let base = candidate(9);
    let mut cases: Vec<(Measure, Candidate)> = Vec::new();
    for measure in Measure::ALL {
        let mut worse = candidate(1);
        match measure {
            Measure::CpuFree => worse.load.cpu_used_millis = 1900,
            Measure::CpuPerformance => worse.accelerator = Some(Accelerator::Tcg),
            Measure::MemoryFree => worse.load.memory_free_bytes = GIB + 1,
            Measure::Rtt => worse.link.rtt = Some(Duration::from_millis(80)),
            Measure::Signal => worse.link.signal_dbm = Some(-75),
            Measure::Rate => worse.link.rate_bytes_per_s = Some(100_000),
            Measure::ReadyTime => worse.ready_time = Some(Duration::from_secs(30)),
            Measure::Queue => worse.load.queue_length = 3,
            Measure::Energy => worse.ready_time = Some(Duration::from_secs(20)),
            Measure::Power => worse.power = Some(Power::Battery { charge_permille: 400 }),
            Measure::Contact => worse.contact = Contact::Predicted { lasts: Duration::from_secs(9) },
            Measure::Completion => worse.contact = Contact::Predicted { lasts: Duration::from_secs(1) },
        }
        cases.push((measure, worse));
    }
    for (measure, worse) in cases {
        let choice = choose(&need(), &[worse, base.clone()], &Weighted::only(measure), None);
        assert_eq!(choice.chosen, id(9), "{}: {choice}", measure.name());
        let Verdict::Lost { most_by: Some((term, _)), .. } = &choice.considered[1].verdict else {
            panic!("{choice}")
        };
        assert_eq!(term, measure.name());
        assert_eq!(Measure::named(term), Some(measure));
    }
}

#[test]
fn every_candidate_that_cannot_says_all_its_reasons() {
    let mut poor = candidate(1);
    poor.offer = Offer::Nothing;
    poor.ready_time = None;
    poor.load.memory_free_bytes = GIB / 2;
    poor.load.cpu_total_millis = 400;
    poor.architecture = Some("aarch64".to_owned());
    poor.guest_systems = Some(Default::default());
    let need = Need {
        architecture: Some("x86_64".to_owned()),
        guest_system: Some("debian-12".to_owned()),
        ..need()
    };
    let choice = choose(&need, &[poor], &Weighted::default(), None);
    assert_eq!(choice.chosen, None);
    let expected = vec![
        Infeasible::ServiceNotOffered,
        Infeasible::MemoryShort { missing_bytes: GIB / 2 },
        Infeasible::TooFewCores { missing_millis: 600 },
        Infeasible::WrongArchitecture { has: "aarch64".to_owned() },
        Infeasible::NoBaseSystem { wanted: "debian-12".to_owned() },
    ];
    assert_eq!(choice.considered[0].verdict, Verdict::Cannot(expected));
    let text = choice.to_string();
    assert!(text.contains("lacks 512 MiB of free memory, lacks 0.6 cores, runs aarch64 guests"), "{text}");
}

#[test]
fn a_shared_running_instance_needs_no_memory_but_an_own_one_does() {
    let mut full = candidate(1);
    full.offer = Offer::Running;
    full.load.memory_free_bytes = 0;
    assert_eq!(choose(&need(), &[full.clone()], &Weighted::default(), None).chosen, id(1));
    let own = Need { instance: Instance::Own, ..need() };
    assert_eq!(choose(&own, &[full], &Weighted::default(), None).chosen, None);
}

#[test]
fn of_equals_the_smaller_id_wins_and_the_explanation_says_so() {
    let choice = choose(&need(), &[candidate(2), candidate(1)], &Weighted::default(), None);
    assert_eq!(choice.chosen, id(1));
    assert!(choice.to_string().contains("its node id is larger"), "{choice}");
}

#[test]
fn the_current_one_stays_until_another_is_better_by_the_margin() {
    let (mut near, far) = (candidate(1), candidate(2));
    near.link.rtt = Some(Duration::from_millis(1));
    let current = serving(2, 60);
    let hysteresis = HysteresisSettings { moving_ms: 0, ..HysteresisSettings::default() };
    let free_moves = Policy::new(&Settings { hysteresis, ..Settings::default() }).unwrap();
    near.offer = Offer::Running;
    let mut ready = Candidate { offer: Offer::Running, ..far.clone() };
    ready.link.rtt = Some(Duration::from_millis(60));
    let choice = free_moves.choose(&need(), &[near.clone(), ready], current);
    assert_eq!((choice.chosen, &choice.considered[0].verdict), (id(2), &Verdict::Stays), "{choice}");
    assert!(choice.to_string().contains("not worth a change"), "{choice}");

    // It runs the service already: 600 ms sooner, but the change alone takes 2 s.
    let choice = choose(&need(), &[near.clone(), far.clone()], &Weighted::default(), current);
    assert_eq!(choice.chosen, id(2), "{choice}");
    let slow = Candidate { accelerator: Some(Accelerator::Tcg), ..far.clone() };
    let choice = choose(&need(), &[near.clone(), slow.clone()], &Weighted::default(), current);
    assert_eq!((choice.chosen, &choice.considered[0].verdict), (id(1), &Verdict::Best), "{choice}");

    // Not before it has served for a while, and at once if it cannot serve any more or is gone.
    let choice = choose(&need(), &[near.clone(), slow.clone()], &Weighted::default(), serving(2, 3));
    assert_eq!((choice.chosen, &choice.considered[0].verdict), (id(2), &Verdict::Held), "{choice}");
    let refusing = Candidate { permitted: Some(false), ..far.clone() };
    assert_eq!(choose(&need(), &[near.clone(), refusing], &Weighted::default(), serving(2, 3)).chosen, id(1));
    let choice = choose(&need(), &[near, far], &Weighted::default(), serving(7, 3));
    assert_eq!(choice.chosen, id(1));
    let moving = |part: &mesh::selection::completion::Part| part.name == "moving";
    assert!(!choice.considered.iter().any(|one| one.completion.as_ref().unwrap().parts.iter().any(moving)));
}

#[test]
fn a_draining_cloudlet_takes_nobody_new_and_a_deadline_excludes() {
    let draining = Candidate { draining: true, ..candidate(1) };
    let choice = choose(&need(), std::slice::from_ref(&draining), &Weighted::default(), None);
    assert_eq!(choice.considered[0].verdict, Verdict::Cannot(vec![Infeasible::Draining]));
    assert_eq!(choose(&need(), &[draining], &Weighted::default(), serving(1, 0)).chosen, id(1));
    let hurried = Need { deadline: Some(Duration::from_millis(500)), ..need() };
    let choice = choose(&hurried, &[candidate(1)], &Weighted::default(), None);
    let Verdict::Cannot(reasons) = &choice.considered[0].verdict else { panic!("{choice}") };
    assert!(matches!(reasons[..], [Infeasible::TooLate { .. }]) && !reasons[0].may_pass(), "{choice}");
}

/// Node number `byte` has served for `seconds`.
fn serving(byte: u8, seconds: u64) -> Option<Current> {
    Some(Current {
        node: NodeId::from_bytes([byte; 16]),
        since: Duration::from_secs(seconds),
        tie: Tie::Session,
    })
}

/// Counts services held: shows that a utility from outside this crate can be plugged in.
struct ByName;

impl Utility for ByName {
    fn score(&self, _: &Need, candidate: &Candidate, _: Option<&Completion>) -> Scored {
        let score = if candidate.name == "node-2" { 1.0 } else { 0.0 };
        Scored { score: Some(score), terms: Vec::new() }
    }
}

#[test]
fn a_utility_of_ones_own_decides() {
    assert_eq!(choose(&need(), &[candidate(1), candidate(2)], &ByName, None).chosen, id(2));
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let load = (0..8000_u32, 0..8000_u32, 0..8 * GIB);
    let speed = proptest::option::of(0..3000_u32);
    let offer =
        prop_oneof![Just(Offer::Nothing), Just(Offer::Base), Just(Offer::Cached), Just(Offer::Running)];
    let ms = || proptest::option::of((0..5000_u64).prop_map(Duration::from_millis));
    let rate = proptest::option::of(0..5_000_000_u64);
    let contact = prop_oneof![
        Just(Contact::Unknown),
        (0..300_u64).prop_map(|s| Contact::Predicted { lasts: Duration::from_secs(s) }),
        (0..300_u64, 0..300_u64).prop_map(|(median, lasted)| Contact::History {
            median: Duration::from_secs(median),
            lasted: Duration::from_secs(lasted),
        }),
    ];
    (0..40_u8, load, speed, offer, ms(), ms(), rate, contact, 0..5_u32).prop_map(
        |(byte, load, speed, offer, rtt, ready_time, rate_bytes_per_s, contact, queue_length)| {
            let load = Load {
                cpu_used_millis: load.0,
                cpu_total_millis: load.1,
                memory_free_bytes: load.2,
                memory_total_bytes: 8 * GIB,
                instances: 0,
                queue_length,
            };
            let link = Link { rtt, rate_bytes_per_s, ..Link::default() };
            Candidate {
                load,
                guest_speed_permille: speed,
                offer,
                link,
                contact,
                ready_time,
                ..candidate(byte)
            }
        },
    )
}

/// Candidates with ids of their own.
fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    proptest::collection::vec(any_candidate(), 1..8).prop_map(|mut all| {
        for (place, one) in all.iter_mut().enumerate() {
            let byte = one.node.as_bytes()[0].wrapping_mul(8).wrapping_add(u8::try_from(place).unwrap());
            one.node = NodeId::from_bytes([byte; 16]);
        }
        all
    })
}

fn any_current() -> impl Strategy<Value = Option<(prop::sample::Index, u64)>> {
    proptest::option::of((any::<prop::sample::Index>(), 0..30_u64))
}

fn current(all: &[Candidate], pick: Option<(prop::sample::Index, u64)>) -> Option<Current> {
    pick.map(|(index, s)| Current {
        node: index.get(all).node,
        since: Duration::from_secs(s),
        tie: Tie::Session,
    })
}

/// Every utility that the properties must hold for.
fn policies() -> [Policy; 4] {
    let with = |utility: &str| {
        let settings = Settings { utility: Some(utility.to_owned()), ..Settings::default() };
        Policy::new(&settings).unwrap()
    };
    [
        Policy::default(),
        with("rtt"),
        with("-completion.total_s + 0.1 * cloudlet.cpu_free_cores"),
        with("has(link.rtt_ms) ? 1 / (1 + link.rtt_ms) : -1"),
    ]
}

proptest! {
    #[test]
    fn a_candidate_that_cannot_never_changes_the_choice(all in any_candidates(), pick in any_current(), mut extra in any_candidate()) {
        let current = current(&all, pick);
        let before = choose(&need(), &all, &Weighted::default(), current);
        extra.node = NodeId::from_bytes([255; 16]);
        extra.offer = Offer::Nothing;
        extra.ready_time = None;
        let mut more = all.clone();
        more.push(extra);
        let after = choose(&need(), &more, &Weighted::default(), current);
        prop_assert_eq!(before.chosen, after.chosen);
        prop_assert_eq!(after.considered.len(), all.len() + 1);
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter(all in any_candidates(), pick in any_current(), turn in 0..8_usize) {
        let current = current(&all, pick);
        let mut turned = all.clone();
        turned.rotate_left(turn % all.len());
        turned.reverse();
        let (one, two) = (choose(&need(), &all, &Weighted::default(), current), choose(&need(), &turned, &Weighted::default(), current));
        prop_assert_eq!(one, two);
    }

    #[test]
    fn a_winner_that_gets_better_still_wins(all in any_candidates(), pick in any_current(), which in 0..6_u8, by in 1..1000_u32) {
        let current = current(&all, pick);
        let before = choose(&need(), &all, &Weighted::default(), current);
        let mut better = all.clone();
        if let Some(winner) = better.iter_mut().find(|one| Some(one.node) == before.chosen) {
            match which {
                0 => winner.load.cpu_used_millis = winner.load.cpu_used_millis.saturating_sub(by),
                1 => winner.guest_speed_permille = winner.guest_speed_permille.map(|speed| speed + by),
                2 => winner.load.memory_free_bytes += u64::from(by) << 20,
                3 => winner.link.rtt = winner.link.rtt.map(|rtt| rtt / (by + 1)),
                4 => winner.link.rate_bytes_per_s = winner.link.rate_bytes_per_s.map(|rate| rate + u64::from(by)),
                _ => winner.ready_time = winner.ready_time.map(|time| time / (by + 1)),
            }
        }
        let after = choose(&need(), &better, &Weighted::default(), current);
        prop_assert_eq!(before.chosen, after.chosen);
    }

    #[test]
    fn every_term_and_score_is_between_0_and_1_and_exactly_one_is_chosen(all in any_candidates()) {
        let choice = choose(&need(), &all, &Weighted::default(), None);
        for one in &choice.considered {
            prop_assert!((0.0..=1.0 + 1e-12).contains(&one.score.unwrap()));
            prop_assert!(one.terms.iter().all(|term| (0.0..=1.0).contains(&term.value)));
        }
        let winners = choice.considered.iter().filter(|one| one.verdict == Verdict::Best).count();
        prop_assert_eq!(winners, usize::from(choice.chosen.is_some()));
    }

    #[test]
    fn who_comes_or_goes_never_changes_the_order_of_the_others(all in any_candidates(), pick in any_current(), which in any::<prop::sample::Index>()) {
        // Without the current one the others' completions would not count a move, so that one stays.
        let current = current(&all, pick);
        let out = which.get(&all).node;
        prop_assume!(current.is_none_or(|current| current.node != out));
        for policy in policies() {
            let order = |all: &[Candidate]| -> Vec<NodeId> {
                let choice = policy.choose(&need(), all, current);
                choice.considered.iter().map(|one| one.node).filter(|node| *node != out).collect()
            };
            let less: Vec<Candidate> = all.iter().filter(|one| one.node != out).cloned().collect();
            let before = order(&all);
            let after = order(&less);
            // The current one is moved to the front if it is kept; whether it is may depend on the best of the others.
            let others = |nodes: Vec<NodeId>| -> Vec<NodeId> {
                nodes.into_iter().filter(|node| Some(*node) != current.map(|one| one.node)).collect()
            };
            prop_assert_eq!(others(before), others(after));
        }
    }

    #[test]
    fn the_order_does_not_matter_to_any_policy(all in any_candidates(), pick in any_current(), turn in 0..8_usize) {
        let current = current(&all, pick);
        let mut turned = all.clone();
        turned.rotate_left(turn % all.len());
        for policy in policies() {
            prop_assert_eq!(policy.choose(&need(), &all, current), policy.choose(&need(), &turned, current));
        }
    }

    /// If noise moves no score by more than half of the margin, every change leads to a cloudlet that is truly better,
    /// so there are fewer changes than cloudlets, however long it goes on.
    #[test]
    fn noise_makes_nobody_flap(all in any_candidates(), noise in proptest::collection::vec(proptest::collection::vec(0.9..1.1_f64, 8), 60)) {
        let margin = 0.05;
        let hysteresis = HysteresisSettings { margin, moving_ms: 0, hold_ms: 0 };
        let policy = Policy::new(&Settings { hysteresis, ..Settings::default() }).unwrap();
        // The one that serves is judged by what it does for one who is there; all here run the service, so that nothing else
        // changes with who serves.
        let all: Vec<Candidate> = all
            .into_iter()
            .map(|one| Candidate { offer: Offer::Running, contact: Contact::Unknown, ..one })
            .collect();
        let far = Candidate { link: Link { rtt: Some(Duration::ZERO), ..Link::default() }, ..all[0].clone() };
        let (mut serving, mut changes) = (Some(far.node), 0);
        for factors in noise {
            let seen: Vec<Candidate> = all
                .iter()
                .zip(&factors)
                .map(|(one, factor)| {
                    let rtt = one.link.rtt.map(|rtt| rtt.mul_f64(*factor));
                    let rate = one.link.rate_bytes_per_s.map(|rate| (rate as f64 * factor) as u64);
                    Candidate { link: Link { rtt, rate_bytes_per_s: rate, ..one.link }, ..one.clone() }
                })
                .collect();
            let current = serving.map(|node| Current { node, since: Duration::from_secs(99), tie: Tie::Session });
            let chosen = policy.choose(&need(), &seen, current).chosen;
            changes += usize::from(chosen != serving);
            serving = chosen;
        }
        prop_assert!(changes < all.len().max(2), "{} changes among {}", changes, all.len());
    }

    #[test]
    fn a_survey_on_paper_leads_to_the_same_choice(all in any_candidates(), pick in any_current()) {
        let current = current(&all, pick);
        let survey = mesh::selection::record::Survey::of(&need(), &all, current);
        let text = serde_json::to_string(&survey).unwrap();
        let read: mesh::selection::record::Survey = serde_json::from_str(&text).unwrap();
        let (read_need, read_all, read_current) = read.unpack().unwrap();
        prop_assert_eq!((&read_need, &read_all, read_current), (&need(), &all, current));
        prop_assert_eq!(
            Policy::default().choose(&need(), &all, current),
            Policy::default().choose(&read_need, &read_all, read_current)
        );
    }
}

#[test]
fn the_default_hysteresis_is_what_the_settings_say() {
    assert_eq!(Policy::new(&Settings::default()).unwrap().hysteresis(), Hysteresis::default());
}
