//! What must hold for every choice.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::time::Duration;

use mesh::NodeId;
use mesh::advert::Load;
use mesh::selection::{
    Candidate, Current, Infeasible, Instance, Link, Measure, Need, Offer, Utility, Verdict, Weighted, choose,
};
use proptest::prelude::*;
use vm_images::manifest::Accelerator;

const GIB: u64 = 1 << 30;

fn need() -> Need {
    Need { memory_bytes: GIB, cpu_millis: 1000, ..Need::of("speech".parse().unwrap()) }
}

fn candidate(id: u8) -> Candidate {
    Candidate {
        node: NodeId::from_bytes([id; 16]),
        name: format!("node-{id}"),
        load: Load {
            cpu_used_millis: 0,
            cpu_total_millis: 2000,
            memory_free_bytes: 2 * GIB,
            memory_total_bytes: 4 * GIB,
            instances: 0,
            queue_length: 0,
        },
        accelerator: Some(Accelerator::Kvm),
        guest_speed_permille: None,
        architecture: Some("x86_64".to_owned()),
        guest_systems: Some(["debian-12".to_owned()].into()),
        link: Link { rtt: Some(Duration::from_millis(5)), rate_bytes_per_s: None },
        offer: Offer::Cached,
        ready_time: Some(Duration::from_millis(600)),
    }
}

fn id(byte: u8) -> Option<NodeId> {
    Some(NodeId::from_bytes([byte; 16]))
}

#[test]
fn each_measure_alone_prefers_the_better_figure() {
    let base = candidate(9);
    let mut cases: Vec<(Measure, Candidate)> = Vec::new();
    for measure in
        [Measure::CpuFree, Measure::CpuPerformance, Measure::MemoryFree, Measure::Rtt, Measure::ReadyTime]
    {
        let mut worse = candidate(1);
        match measure {
            Measure::CpuFree => worse.load.cpu_used_millis = 1900,
            Measure::CpuPerformance => worse.accelerator = Some(Accelerator::Tcg),
            Measure::MemoryFree => worse.load.memory_free_bytes = GIB + 1,
            Measure::Rtt => worse.link.rtt = Some(Duration::from_millis(80)),
            Measure::ReadyTime => worse.ready_time = Some(Duration::from_secs(30)),
        }
        cases.push((measure, worse));
    }
    for (measure, worse) in cases {
        let choice = choose(&need(), &[worse, base.clone()], &Weighted::only(measure), None);
        assert_eq!(choice.chosen, id(9), "{}: {choice}", measure.name());
        let Verdict::Lost { most_by: Some((term, _)), .. } = choice.considered[1].verdict else {
            panic!("{choice}")
        };
        assert_eq!(term, measure.name());
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
    near.link.rtt = Some(Duration::from_millis(4));
    let current = Some(Current { node: far.node, margin: Current::DEFAULT_MARGIN });
    let choice = choose(&need(), &[near.clone(), far.clone()], &Weighted::default(), current);
    assert_eq!((choice.chosen, &choice.considered[0].verdict), (id(2), &Verdict::Stays));
    assert!(choice.to_string().contains("not worth a change"), "{choice}");

    near.offer = Offer::Running;
    let choice = choose(&need(), &[near.clone(), far.clone()], &Weighted::default(), current);
    assert_eq!((choice.chosen, &choice.considered[0].verdict), (id(1), &Verdict::Best));

    let gone = Some(Current { node: NodeId::from_bytes([7; 16]), margin: 1.0 });
    assert_eq!(choose(&need(), &[near, far], &Weighted::default(), gone).chosen, id(1));
}

/// Counts services held: shows that a utility from outside this crate can be plugged in.
struct ByName;

impl Utility for ByName {
    fn score(&self, _need: &Need, candidate: &Candidate) -> mesh::selection::Scored {
        let score = if candidate.name == "node-2" { 1.0 } else { 0.0 };
        mesh::selection::Scored { score, terms: Vec::new() }
    }
}

#[test]
fn a_utility_of_ones_own_decides() {
    assert_eq!(choose(&need(), &[candidate(1), candidate(2)], &ByName, None).chosen, id(2));
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let load = (0..8000_u32, 0..8000_u32, 0..8 * GIB);
    let speed = proptest::option::of(0..3000_u32);
    let offer = prop_oneof![Just(Offer::Nothing), Just(Offer::Cached), Just(Offer::Running)];
    let ms = || proptest::option::of((0..5000_u64).prop_map(Duration::from_millis));
    (0..40_u8, load, speed, offer, ms(), ms()).prop_map(|(byte, load, speed, offer, rtt, ready_time)| {
        Candidate {
            load: Load {
                cpu_used_millis: load.0,
                cpu_total_millis: load.1,
                memory_free_bytes: load.2,
                memory_total_bytes: 8 * GIB,
                instances: 0,
                queue_length: 0,
            },
            guest_speed_permille: speed,
            offer,
            link: Link { rtt, rate_bytes_per_s: None },
            ready_time,
            ..candidate(byte)
        }
    })
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

fn any_current() -> impl Strategy<Value = Option<(prop::sample::Index, f64)>> {
    proptest::option::of((any::<prop::sample::Index>(), 0.0..0.3))
}

fn current(all: &[Candidate], pick: Option<(prop::sample::Index, f64)>) -> Option<Current> {
    pick.map(|(index, margin)| Current { node: index.get(all).node, margin })
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
    fn a_winner_that_gets_better_still_wins(all in any_candidates(), pick in any_current(), which in 0..5_u8, by in 1..1000_u32) {
        let current = current(&all, pick);
        let before = choose(&need(), &all, &Weighted::default(), current);
        let mut better = all.clone();
        if let Some(winner) = better.iter_mut().find(|one| Some(one.node) == before.chosen) {
            match which {
                0 => winner.load.cpu_used_millis = winner.load.cpu_used_millis.saturating_sub(by),
                1 => winner.guest_speed_permille = winner.guest_speed_permille.map(|speed| speed + by),
                2 => winner.load.memory_free_bytes += u64::from(by) << 20,
                3 => winner.link.rtt = winner.link.rtt.map(|rtt| rtt / (by + 1)),
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
            prop_assert!((0.0..=1.0 + 1e-12).contains(&one.score));
            prop_assert!(one.terms.iter().all(|term| (0.0..=1.0).contains(&term.value)));
        }
        let winners = choice.considered.iter().filter(|one| one.verdict == Verdict::Best).count();
        prop_assert_eq!(winners, usize::from(choice.chosen.is_some()));
    }
}
