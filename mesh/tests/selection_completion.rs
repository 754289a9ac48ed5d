//! Completion: its parts by hand, what makes it later, and the explanation word for word.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::time::Duration;

use mesh::NodeId;
use mesh::advert::Load;
use mesh::selection::completion::{Basis, CACHED_READY, Role};
use mesh::selection::{Candidate, Contact, Fetch, Link, Need, Offer, Policy, Power, Task, completion};
use proptest::prelude::*;
use vm_images::manifest::Accelerator;

fn need() -> Need {
    Need {
        overlay_bytes: Some(10_000_000),
        fallback: Some(Duration::from_secs(20)),
        task: Task { requests: 2, up_bytes: 500_000, down_bytes: 1_000, cpu: Duration::from_secs(1) },
        ..Need::of("speech".parse().unwrap())
    }
}

fn candidate(id: u8, offer: Offer) -> Candidate {
    let load = Load {
        cpu_used_millis: 0,
        cpu_total_millis: 16_000,
        memory_free_bytes: 4 << 30,
        memory_total_bytes: 8 << 30,
        instances: 2,
        queue_length: 0,
    };
    let rtt = Some(Duration::from_millis(10));
    let link = Link { rtt, rate_bytes_per_s: Some(1_000_000), ..Link::default() };
    Candidate {
        accelerator: Some(Accelerator::Kvm),
        contact: Contact::Predicted { lasts: Duration::from_secs(60) },
        power: Some(Power::Battery { charge_permille: 800 }),
        ..Candidate::unknown(NodeId::from_bytes([id; 16]), &format!("node-{id}"), load, link, offer)
    }
}

fn parts(candidate: &Candidate, role: Role) -> Vec<(&'static str, u128, Basis)> {
    let completion = completion(&need(), candidate, role).unwrap();
    let sum: Duration = completion.parts.iter().map(|part| part.time).sum();
    assert_eq!(sum, completion.total);
    completion.parts.iter().map(|part| (part.name, part.time.as_millis(), part.basis)).collect()
}

#[test]
fn the_parts_add_up_by_hand() {
    use Basis::{Assumed, Known};
    let requests = [("upload", 1000, Known), ("work", 2000, Known), ("download", 2, Known)];
    let with = |before: &[(&'static str, u128, Basis)]| [before, &requests].concat();
    let running = candidate(1, Offer::Running);
    assert_eq!(parts(&running, Role::New), with(&[("round_trips", 40, Known), ("ready", 0, Known)]));
    assert_eq!(parts(&running, Role::Serves), with(&[("round_trips", 20, Known), ("ready", 0, Known)]));
    let moving = Role::Elsewhere { moving: Duration::from_secs(3) };
    assert_eq!(parts(&running, moving)[0], ("moving", 3000, Known));

    let mut cached = candidate(1, Offer::Cached);
    let assumed = ("ready", CACHED_READY.as_millis(), Assumed);
    assert_eq!(parts(&cached, Role::New), with(&[("round_trips", 40, Known), assumed]));
    cached.ready_time = Some(Duration::from_millis(1500));
    cached.load.queue_length = 2;
    let queued = [("queue", 3000, Known), ("round_trips", 40, Known), ("ready", 1500, Known)];
    assert_eq!(parts(&cached, Role::New), with(&queued));

    let base = candidate(1, Offer::Base);
    let synthesis = [("round_trips", 40, Known), ("payload", 10_000, Known), ("ready", 80_900, Assumed)];
    assert_eq!(parts(&base, Role::New), with(&synthesis));
    assert_eq!(completion(&need(), &candidate(1, Offer::Nothing), Role::New), None);
}

#[test]
fn what_is_not_told_is_taken_from_the_bad_side() {
    let told = candidate(1, Offer::Running);
    let mut silent = told.clone();
    silent.link = Link::default();
    silent.accelerator = None;
    let (told, silent) = (parts(&told, Role::New), parts(&silent, Role::New));
    for ((name, known, _), (_, assumed, basis)) in
        told.iter().zip(&silent).filter(|(one, _)| !matches!(one.0, "ready" | "download"))
    {
        assert!(assumed > known && *basis == Basis::Assumed, "{name}: {known} {assumed} {basis:?}");
    }
}

#[test]
fn a_busy_processor_stretches_the_work_and_a_full_one_shows_by_its_instances() {
    let work = |used: u32, instances: u32| {
        let mut one = candidate(1, Offer::Running);
        one.load.cpu_total_millis = 4000;
        (one.load.cpu_used_millis, one.load.instances) = (used, instances);
        parts(&one, Role::New).iter().find(|part| part.0 == "work").unwrap().1
    };
    assert!(work(0, 0) < work(3500, 4) && work(3500, 4) < work(4000, 4) && work(4000, 4) < work(4000, 12));
    assert!((2000..2050).contains(&work(0, 0)), "{}", work(0, 0));
}

#[test]
fn a_contact_that_ends_is_paid_for_by_its_chance() {
    let lasting = |seconds| {
        let contact = Contact::Predicted { lasts: Duration::from_secs(seconds) };
        completion(&need(), &Candidate { contact, ..candidate(1, Offer::Running) }, Role::New).unwrap()
    };
    let (long, short, none) = (lasting(3600), lasting(3), lasting(0));
    assert_eq!((long.total, short.total), (none.total, none.total));
    assert!(long.chance > 0.99 && long.expected.abs_diff(long.total) < Duration::from_millis(50), "{long:?}");
    assert!(short.chance > 0.3 && short.chance < 0.9 && short.expected > short.total, "{short:?}");
    // It is gone at once: what is left is the fallback.
    assert!(
        none.chance < 0.01 && none.expected.abs_diff(Duration::from_secs(20)) < Duration::from_secs(1),
        "{none:?}"
    );
}

/// Word for word, so that nobody changes it unawares.
#[test]
fn the_explanation_says_everything() {
    let mut near = candidate(2, Offer::Cached);
    near.ready_time = Some(Duration::from_millis(500));
    near.contact = Contact::Predicted { lasts: Duration::from_secs(5) };
    let mut full = candidate(3, Offer::Cached);
    full.load.memory_free_bytes = 0;
    full.draining = true;
    full.link.rate_bytes_per_s = None;
    let need = Need { memory_bytes: 256 << 20, ..need() };
    let choice = Policy::default().choose(&need, &[full, near, candidate(1, Offer::Running)], None);
    assert_eq!(choice.to_string(), include_str!("data/selection-explained.txt"));
}

#[test]
fn what_is_fetched_from_another_cloudlet_takes_as_long_as_the_link_between_them_says() {
    use Basis::{Assumed, Known};
    let fetch = Fetch { bytes: 62_000_000, from: "two".to_owned(), rate_bytes_per_s: Some(1_200_000) };
    let mut one = Candidate { fetch: Some(fetch), ..candidate(1, Offer::Nothing) };
    let brought = |one: &Candidate| parts(one, Role::New)[1..3].to_vec();
    assert_eq!(brought(&one), [("fetch", 51_666, Known), ("ready", 800, Assumed)]);
    let explained = completion(&need(), &one, Role::New).unwrap().to_string();
    assert!(explained.contains("fetch            51.667 s   62.0 MB from two at 1.2 MB/s"), "{explained}");

    // The client's own overlay takes 10 s to send and 80.9 s to install: that is later.
    one.offer = Offer::Base;
    assert_eq!(brought(&one)[0].0, "fetch");
    one.ready_time = Some(Duration::from_secs(5));
    assert_eq!(brought(&one)[0].0, "payload");
    // Nobody measured the link: the usual one is assumed.
    one.ready_time = None;
    one.fetch = one.fetch.map(|fetch| Fetch { rate_bytes_per_s: None, ..fetch });
    assert_eq!(brought(&one)[0], ("fetch", 82_666, Assumed));
    // What it holds by now it does not fetch.
    one.offer = Offer::Cached;
    assert_eq!(parts(&one, Role::New)[1].0, "ready");
}

#[test]
fn nearer_and_fetched_first_may_be_sooner_than_there_and_far() {
    let fetch = Fetch { bytes: 4_000_000, from: "two".to_owned(), rate_bytes_per_s: Some(4_000_000) };
    let near = Candidate { fetch: Some(fetch), ..candidate(1, Offer::Nothing) };
    let mut far = candidate(2, Offer::Cached);
    let need = Need { overlay_bytes: None, guest_system: Some("debian-12".to_owned()), ..need() };
    let systems = Some(std::collections::BTreeSet::new());
    let near = Candidate { guest_systems: systems, ..near };
    let chosen = |far: &Candidate| Policy::default().choose(&need, &[near.clone(), far.clone()], None).chosen;
    assert_eq!(chosen(&far), Some(far.node), "as near, it is ready sooner");
    far.link.rate_bytes_per_s = Some(100_000);
    assert_eq!(chosen(&far), Some(near.node));
}

proptest! {
    #[test]
    fn nothing_that_is_worse_makes_it_sooner(
        rtt in 0..500_u64, rate in 1_000..5_000_000_u64, speed in 10..3000_u32, used in 0..8000_u32, queue in 0..5_u32,
        ready in 0..60_000_u64, lasts in 0..600_u64, which in 0..7_u8, by in 1..1000_u32, cached: bool,
    ) {
        let base = Candidate {
            link: Link { rtt: Some(Duration::from_millis(rtt)), rate_bytes_per_s: Some(rate), ..Link::default() },
            guest_speed_permille: Some(speed + by),
            ready_time: Some(Duration::from_millis(ready)),
            contact: Contact::Predicted { lasts: Duration::from_secs(lasts + u64::from(by)) },
            load: Load { cpu_used_millis: used, cpu_total_millis: 8000, queue_length: queue, ..Load::default() },
            ..candidate(1, if cached { Offer::Cached } else { Offer::Running })
        };
        let mut worse = base.clone();
        match which {
            0 => worse.link.rtt = Some(Duration::from_millis(rtt + u64::from(by))),
            1 => worse.link.rate_bytes_per_s = Some(rate.saturating_sub(u64::from(by)).max(1)),
            2 => worse.guest_speed_permille = Some(speed),
            3 => worse.load.cpu_used_millis = (used + by).min(8000),
            4 => worse.load.queue_length = queue + by,
            5 => worse.ready_time = Some(Duration::from_millis(ready + u64::from(by))),
            _ => worse.contact = Contact::Predicted { lasts: Duration::from_secs(lasts) },
        }
        let (one, two) =
            (completion(&need(), &base, Role::New).unwrap(), completion(&need(), &worse, Role::New).unwrap());
        prop_assert!(two.total >= one.total, "{:?} {:?}", one, two);
        prop_assert!(two.chance <= one.chance, "{:?} {:?}", one, two);
        prop_assert!((0.0..=1.0).contains(&two.chance));
    }

    #[test]
    fn no_figure_overflows(requests: u32, up: u64, down: u64, cpu: u64, rate: u64, speed: u32, load: (u32, u32, u32), ready: u64, lasts: u64) {
        let task = Task { requests, up_bytes: up, down_bytes: down, cpu: Duration::from_secs(cpu) };
        let one = Candidate {
            link: Link { rtt: Some(Duration::from_secs(ready)), rate_bytes_per_s: Some(rate), ..Link::default() },
            guest_speed_permille: Some(speed),
            ready_time: Some(Duration::from_secs(ready)),
            contact: Contact::History { median: Duration::from_secs(lasts), lasted: Duration::from_secs(ready) },
            load: Load { cpu_used_millis: load.0, cpu_total_millis: load.1, queue_length: load.2, ..Load::default() },
            ..candidate(1, Offer::Cached)
        };
        let need = Need { task, ..need() };
        let choice = Policy::default().choose(&need, &[one], None);
        let score = choice.considered[0].score.unwrap();
        prop_assert!((0.0..=1.0 + 1e-12).contains(&score), "{}", score);
    }
}
