//! The world's rules, on scenarios small enough to check by hand.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::report::Data;

const PATROL: &str = include_str!("../../scenarios/patrol.toml");
const RECORDED: &str = include_str!("../../scenarios/recorded.toml");
const TRACE: &str = include_str!("../../tests/data/two-handhelds.txt");

fn patrol(seed: u64) -> Outcome {
    run(&Scenario::from_toml(PATROL).unwrap(), seed, None).unwrap()
}

fn recorded(change: impl Fn(&str) -> String, trace: &str) -> Outcome {
    run(&Scenario::from_toml(&change(RECORDED)).unwrap(), 1, Some(trace)).unwrap()
}

/// Lines of the log that say `what`, as their remaining words.
fn lines<'a>(log: &'a str, what: &str) -> Vec<Vec<&'a str>> {
    let words = log.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    words.filter(|words| words[1] == what).collect()
}

#[test]
fn the_same_seed_gives_the_same_log_and_another_gives_another() {
    let one = patrol(7);
    assert_eq!(one, patrol(7));
    assert_ne!(one.log, patrol(8).log);
    assert!(one.log.lines().count() > 1000, "{} lines", one.log.lines().count());
}

#[test]
fn every_request_and_every_object_ends_in_exactly_one_way() {
    let mut seen = [0; 4];
    for seed in 0..8 {
        let report = patrol(seed).report;
        let ends = report.served
            + report.out_of_range
            + report.refused_no_service
            + report.refused_full
            + report.cut_before_ready
            + report.still_starting;
        assert_eq!(report.requests, ends, "seed {seed}");
        let Data { collected, delivered, expired, waiting, .. } = report.data;
        assert_eq!(collected, delivered + expired + waiting, "seed {seed}");
        assert_eq!(report.ready_ms.count, report.served, "seed {seed}");
        for (sum, count) in seen.iter_mut().zip([report.served, report.cut_before_ready, delivered, expired])
        {
            *sum += count;
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// Reads the log as an outsider: what was started ran on a cloudlet in reach, and was over when contact was.
#[test]
fn the_log_is_consistent() {
    let log = patrol(3).log;
    let mut links = BTreeSet::new();
    let mut asked_by = BTreeMap::new();
    let mut on: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut last = 0.0;
    let mut delivered = 0;
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let at: f64 = words[0].parse().unwrap();
        assert!(at >= last, "{line}");
        last = at;
        match words[1..] {
            ["contact-up", handheld, cloudlet] => assert!(links.insert((handheld, cloudlet)), "{line}"),
            ["contact-down", handheld, cloudlet] => assert!(links.remove(&(handheld, cloudlet)), "{line}"),
            ["request", request, handheld, _] => _ = asked_by.insert(request, handheld),
            ["out-of-range", request] => {
                assert!(!links.iter().any(|(handheld, _)| *handheld == asked_by[request]), "{line}");
            }
            ["start", request, cloudlet] => {
                assert!(links.contains(&(asked_by[request], cloudlet)), "{line}");
                assert!(on.insert(request, (asked_by[request], cloudlet)).is_none(), "{line}");
            }
            ["ready", request, _] => assert!(links.contains(&on[request]), "{line}"),
            ["cut", request] => assert!(!links.contains(&on.remove(request).unwrap()), "{line}"),
            ["delivered", key, cloudlet, _] => {
                let handheld = key.split('/').nth(1).unwrap();
                assert!(links.contains(&(handheld, cloudlet)), "{line}");
                delivered += 1;
            }
            ["done", request] => assert!(on.remove(request).is_some(), "{line}"),
            _ => {}
        }
    }
    assert!(last > 7000.0 && asked_by.len() > 100 && delivered > 100, "{delivered} delivered until {last} s");
}

#[test]
fn recorded_contacts_decide_who_reaches_the_cloudlet() {
    let outcome = recorded(str::to_owned, TRACE);
    assert_eq!(outcome.report.cloudlets, 1);
    assert_eq!(outcome.report.handhelds, 2);
    assert_eq!(outcome.report.contact_ms.count, 3);
    assert_eq!(outcome.report.contact_ms.max, Some(550_000.0));
    let up = lines(&outcome.log, "contact-up");
    assert_eq!(
        up,
        [
            ["1.000000", "contact-up", "3", "7"],
            ["50.000000", "contact-up", "4", "7"],
            ["400.500000", "contact-up", "3", "7"]
        ]
    );
    // 10 ms for there and back, 1.334 ms for 1000 bytes of payload, 400 ms of work.
    assert_eq!(outcome.report.ready_ms.median, Some(411.334));
}

#[test]
fn a_cloudlet_without_the_memory_refuses_and_one_without_the_service_too() {
    let full = recorded(|text| text.replace("memory_mib = 1024", "memory_mib = 200"), TRACE).report;
    assert!(full.served == 0 && full.refused_full > 0 && full.refused_no_service == 0, "{full}");
    let ignorant = recorded(|text| text.replace("speech = \"cached-vm\"", ""), TRACE).report;
    assert!(
        ignorant.served == 0 && ignorant.refused_full == 0 && ignorant.refused_no_service > 0,
        "{ignorant}"
    );
    // Room for one: never two at a time, however many ask.
    let one = recorded(|text| text.replace("memory_mib = 1024", "memory_mib = 256"), TRACE).report;
    assert!(one.most_instances == 1 && one.served > 0 && one.refused_full > 0, "{one}");
}

#[test]
fn an_overlay_needs_a_long_contact() {
    // 147 MB at 750 kB/s take 196 s, so a contact of 60 s cannot do it, one of 550 s can.
    let synthesis = |text: &str| text.replace("speech = \"cached-vm\"", "speech = \"vm-synthesis\"");
    let report = recorded(synthesis, TRACE).report;
    assert!(report.cut_before_ready > 0 && report.served > 0, "{report}");
    assert!(report.ready_ms.median > Some(276_000.0), "{report}");
    let short = "1 CONN 3 7 up\n61 CONN 3 7 down\n";
    assert_eq!(recorded(synthesis, short).report.served, 0);
}

#[test]
fn urgent_data_overtakes() {
    let report = recorded(str::to_owned, TRACE).report;
    let median = |priority| report.data.delay_ms[priority].median.unwrap();
    assert!(median("flash") < median("immediate") && median("immediate") < median("priority"), "{report}");
    let sent = report.data.bytes;
    assert!(sent > 0 && sent <= 750_000 * 1100, "no more than the links carry: {sent}");
}

#[test]
fn what_one_contact_began_the_next_one_finishes() {
    // 40 MB take 53 s, and no contact lasts longer than 30.
    let forty = |text: &str| {
        let sized = text.replace("smallest_bytes = 1000000", "smallest_bytes = 40000000");
        sized.replace("largest_bytes = 20000000", "largest_bytes = 40000000")
    };
    let trace: String =
        (0..10).map(|n| format!("{} CONN 3 7 up\n{} CONN 3 7 down\n", 60 * n, 60 * n + 30)).collect();
    let report = recorded(forty, &trace).report;
    assert!(report.contact_ms.max == Some(30_000.0) && report.data.delivered > 0, "{report}");
}

#[test]
fn runs_that_cannot_start_say_why() {
    let scenario = Scenario::from_toml(RECORDED).unwrap();
    assert!(matches!(run(&scenario, 1, None), Err(Error::NoTrace)));
    assert!(matches!(run(&scenario, 1, Some("1 CONN 0 1 up")), Err(Error::NoSuchNode(7))));
    assert!(matches!(run(&scenario, 1, Some("what")), Err(Error::Trace(_))));
}
