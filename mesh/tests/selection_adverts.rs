//! Candidates from adverts, and the tie to the cloudlet that served last.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::time::Duration;

use mesh::NodeId;
use mesh::advert::{self, Advert, Capabilities, Gpu, Held, Presence};
use mesh::selection::{
    Candidate, Choice, Contact, Current, Infeasible, Link, Need, Offer, Power, Tie, Verdict, Weighted, choose,
};
use vm_images::manifest::Accelerator;

fn node(byte: u8) -> NodeId {
    NodeId::from_bytes([byte; 16])
}

fn need() -> Need {
    Need { guest_system: Some("debian-12".to_owned()), ..Need::of("speech".parse().unwrap()) }
}

fn advert(byte: u8) -> Advert {
    let capabilities = Capabilities {
        accelerator: Accelerator::Kvm,
        gpu: Gpu::None,
        architecture: "x86_64".to_owned(),
        cpu_models: Default::default(),
        machines: Default::default(),
        guest_systems: ["debian-12".to_owned()].into(),
        guest_speed_permille: None,
    };
    let mut advert = Advert::new(node(byte), format!("node-{byte}"), capabilities);
    advert.load.cpu_total_millis = 4000;
    advert
}

fn told(advert: &Advert) -> Candidate {
    Candidate::from_advert(advert, &need(), Link { rtt: Some(Duration::from_millis(5)), ..Link::default() })
}

fn cached(byte: u8, ready_ms: u64) -> Candidate {
    let mut advert = advert(byte);
    let ready_time = Some(Duration::from_millis(ready_ms));
    advert.services.insert("speech".parse().unwrap(), Held { ready_instances: 0, ready_time });
    told(&advert)
}

fn decide(all: &[Candidate], current: Option<Current>) -> Choice {
    choose(&need(), all, &Weighted::default(), current)
}

fn part(choice: &Choice, byte: u8, name: &str) -> Option<u128> {
    let one = choice.considered.iter().find(|one| one.node == node(byte))?;
    Some(one.completion.as_ref()?.parts.iter().find(|part| part.name == name)?.time.as_millis())
}

#[test]
fn power_and_drain_come_along_with_the_advert() {
    let mut advert = advert(1);
    assert_eq!((told(&advert).power, told(&advert).draining), (None, false));
    advert.power = advert::Power::Mains;
    assert_eq!(told(&advert).power, Some(Power::External));
    advert.power = advert::Power::Battery { percent: 35, remaining: None };
    assert_eq!(told(&advert).power, Some(Power::Battery { charge_permille: 350 }));
    for (presence, draining) in
        [(Presence::Serving, false), (Presence::Draining, true), (Presence::Left, true)]
    {
        advert.presence = presence;
        assert_eq!(told(&advert).draining, draining);
    }
}

#[test]
fn a_base_system_serves_only_who_has_the_overlay() {
    let base = told(&advert(1));
    assert_eq!(base.offer, Offer::Base);
    let choice = decide(std::slice::from_ref(&base), None);
    assert_eq!(choice.considered[0].verdict, Verdict::Cannot(vec![Infeasible::NoOverlay]), "{choice}");
    assert!(choice.to_string().contains("holds         the base system only"), "{choice}");
    let with_overlay = Need { overlay_bytes: Some(1_000_000), ..need() };
    let choice = choose(&with_overlay, &[base], &Weighted::default(), None);
    assert_eq!(choice.chosen, Some(node(1)));
}

#[test]
fn who_served_last_starts_like_the_others_and_is_left_for_more_than_the_margin_only() {
    let last = |byte, seconds| {
        Some(Current { node: node(byte), since: Duration::from_secs(seconds), tie: Tie::Habit })
    };
    // A little slower than the other.
    let all = [cached(1, 800), cached(2, 700)];
    let choice = decide(&all, last(1, 100));
    assert_eq!((choice.chosen, &choice.considered[0].verdict), (Some(node(1)), &Verdict::Stays), "{choice}");
    assert_eq!(part(&choice, 1, "ready"), Some(800), "nothing of the client is there any more");
    assert_eq!(part(&choice, 2, "moving"), None, "and there is nothing to carry over");
    let session = Current { tie: Tie::Session, ..last(1, 100).unwrap() };
    let choice = decide(&all, Some(session));
    assert_eq!((part(&choice, 1, "ready"), part(&choice, 2, "moving")), (Some(0), Some(2000)));
    // Much slower.
    assert_eq!(decide(&[cached(1, 3000), cached(2, 700)], last(1, 100)).chosen, Some(node(2)));
    // It takes nobody new, and who is served by it no longer is somebody new.
    let drained = Candidate { draining: true, ..cached(1, 800) };
    let choice = decide(&[drained.clone(), cached(2, 9000)], last(1, 100));
    assert_eq!(choice.chosen, Some(node(2)), "{choice}");
    assert_eq!(decide(&[drained, cached(2, 9000)], Some(session)).chosen, Some(node(1)));
}

#[test]
fn of_two_contacts_in_a_row_the_shorter_one_counts() {
    let lasts = |seconds| Contact::Predicted { lasts: Duration::from_secs(seconds) };
    assert_eq!(lasts(20).shorter(lasts(30)), lasts(20));
    assert_eq!(lasts(30).shorter(lasts(20)), lasts(20));
    assert_eq!(Contact::Unknown.shorter(lasts(20)), lasts(20));
    assert_eq!(lasts(20).shorter(Contact::Unknown), lasts(20));
    assert_eq!(Contact::Unknown.shorter(Contact::Unknown), Contact::Unknown);
}
