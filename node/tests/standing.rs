//! What a cloudlet says of its circumstances: place, power, drain, queue, measured ready times; to handhelds and to peers.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use real time and may panic")]

use std::path::Path;
use std::time::{Duration, Instant};

use handheld::api::{Cloudlet, Code, Heading, Peer, Place, PowerSource, Service, Standing};
use handheld::{Access, Here, Wanted, beyond, reach, selection, survey};
use mesh::selection::{Contact, Infeasible, Offer, Policy, Power, Verdict};
use mesh::trust::Permissions;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

mod api_support;
use api_support::mission::{self, USE};
use api_support::ports::free;
use api_support::{Client, PATIENCE, World};

const FIXED: Place = Place { latitude_deg: 48.5, longitude_deg: 11.25, motion: None };

async fn cloudlet(client: &Client) -> Cloudlet {
    let (status, body) = client.get("/cloudlet").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_value(body).unwrap()
}

async fn send(client: &Client, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    let mut request = client.http.request(method, client.url(path));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// Looks until it holds.
async fn until<T: std::fmt::Debug>(mut look: impl AsyncFnMut() -> T, holds: impl Fn(&T) -> bool) -> T {
    let begin = Instant::now();
    loop {
        let seen = look().await;
        if holds(&seen) {
            return seen;
        }
        assert!(begin.elapsed() < PATIENCE, "waited too long: {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn battery(dir: &Path, percent: u8) {
    let supply = dir.join("BAT0");
    std::fs::create_dir_all(&supply).unwrap();
    let values = [("type", "Battery".to_owned()), ("status", "Discharging".to_owned())];
    for (name, value) in values.into_iter().chain([("capacity", percent.to_string())]) {
        std::fs::write(supply.join(name), value).unwrap();
    }
}

#[tokio::test]
async fn a_place_is_told_and_forgotten_and_what_an_operator_said_survives_a_restart() {
    let mut world = World::new();
    let supplies = world.dir.path().join("power");
    battery(&supplies, 37);
    world.config.node.power_supply = supplies;
    let daemon = world.daemon();
    let client = &daemon.client;
    let power = Some(PowerSource::Battery { percent: 37, remaining_s: None });
    let said = until(async || cloudlet(client).await.standing, |said| said.power == power).await;
    assert_eq!((said.draining, said.place), (false, None));
    let guests = said.guests.unwrap();
    assert_eq!(
        (guests.architecture.as_str(), guests.systems.len()),
        (std::env::consts::ARCH, 1),
        "{guests:?}"
    );

    let moving = Place { motion: Some(Heading { heading_deg: 90.0, speed_m_s: 5.5 }), ..FIXED };
    let (status, body) = send(client, Method::PUT, "/place", Some(json!(moving))).await;
    let answered: Standing = serde_json::from_value(body).unwrap();
    assert_eq!((status, answered.place), (StatusCode::OK, Some(moving)));
    for bad in [json!({"latitude_deg": 91, "longitude_deg": 0}), json!({"latitude_deg": 1}), json!("here")] {
        let (status, problem) = send(client, Method::PUT, "/place", Some(bad)).await;
        assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("bad-request")), "{problem}");
    }
    assert_eq!(cloudlet(client).await.standing.place, Some(moving), "nothing bad was taken");
    send(client, Method::PUT, "/place", Some(json!(FIXED))).await;
    daemon.stop().unwrap();

    let daemon = world.daemon();
    assert_eq!(cloudlet(&daemon.client).await.standing.place, Some(FIXED));
    let (status, _) = send(&daemon.client, Method::DELETE, "/place", None).await;
    assert_eq!((status, cloudlet(&daemon.client).await.standing.place), (StatusCode::OK, None));
    daemon.stop().unwrap();
    world.config.node.position = Some("10.5, -20.25".to_owned());
    let daemon = world.daemon();
    let configured = cloudlet(&daemon.client).await.standing.place.unwrap();
    assert_eq!((configured.latitude_deg, configured.longitude_deg), (10.5, -20.25));
}

#[tokio::test]
async fn a_drained_cloudlet_keeps_its_users_and_takes_nobody_new() {
    let world = World::new();
    let daemon = world.daemon();
    let client = &daemon.client;
    let used = client.ready("echo", "phone", "shared").await;
    let (status, _) = send(client, Method::PUT, "/drain", Some(json!({"draining": true}))).await;
    assert_eq!(status, StatusCode::OK);
    assert!(cloudlet(client).await.standing.draining);
    let (again, created) = client.start("echo", "phone", "shared").await;
    assert_eq!((again.id, created), (used.id, false), "who uses an instance keeps it");
    for (service, token) in [("echo", "other"), ("solo", "other")] {
        let (status, problem) = client.refused(service, token, "shared").await;
        assert_eq!((status, problem.code), (StatusCode::SERVICE_UNAVAILABLE, Code::Draining), "{service}");
        assert!(problem.message.contains("ask another one"), "{problem:?}");
    }
    assert_eq!(send(client, Method::PUT, "/drain", Some(json!({}))).await.0, StatusCode::BAD_REQUEST);
    daemon.stop().unwrap();

    let daemon = world.daemon();
    let client = &daemon.client;
    assert!(cloudlet(client).await.standing.draining, "it was not switched off by a restart");
    assert_eq!(client.refused("echo", "other", "shared").await.1.code, Code::Draining);
    send(client, Method::PUT, "/drain", Some(json!({"draining": false}))).await;
    client.ready("echo", "other", "shared").await;
}

#[tokio::test]
async fn starts_under_way_are_a_queue_and_what_they_took_is_remembered() {
    let world = World::new();
    let daemon = world.daemon();
    let client = &daemon.client;
    let service =
        async || -> Service { serde_json::from_value(client.get("/services/solo").await.1).unwrap() };
    let before = service().await;
    assert_eq!((before.ready_ms, before.joinable_instances), (None, Some(0)));
    assert!(before.guest_system.is_some(), "{before:?}");
    let instance = client.ready("solo", "phone", "private").await;
    let after = service().await;
    // Rounded to hundredths of a second.
    assert!(
        after.ready_ms.unwrap().abs_diff(instance.ready_after_ms.unwrap()) <= 5,
        "{after:?} {instance:?}"
    );
    assert_eq!(
        (after.ready_instances, after.joinable_instances),
        (1, Some(0)),
        "a private one takes nobody in"
    );
    client.ready("echo", "phone", "shared").await;
    let echo: Service = serde_json::from_value(client.get("/services/echo").await.1).unwrap();
    assert_eq!((echo.ready_instances, echo.joinable_instances), (1, Some(1)));
    assert_eq!(cloudlet(client).await.load.queue_length, 0);
    world.hypervisor.hold_clones();
    client.start("solo", "other", "private").await;
    until(async || cloudlet(client).await.load.queue_length, |queue| *queue == 1).await;
    world.hypervisor.release_clones();
    until(async || cloudlet(client).await.load.queue_length, |queue| *queue == 0).await;
}

#[tokio::test]
async fn only_operators_say_where_a_cloudlet_is_or_empty_it() {
    let authority = mission::authority();
    let world = mission::join(&authority, "one");
    let daemon = world.daemon();
    let dir = tempfile::tempdir().unwrap();
    let user = mission::client(&daemon, &mission::handheld(&authority, USE, &dir.path().join("user")));
    for refused in [user.tell_place(Some(&FIXED)).await, user.tell_place(None).await, user.drain(true).await]
    {
        assert_eq!(mission::code_of(&refused.unwrap_err()), Code::NotAllowed);
    }
    let operate = USE | Permissions::OPERATE;
    let operator =
        mission::client(&daemon, &mission::handheld(&authority, operate, &dir.path().join("boss")));
    assert_eq!(operator.tell_place(Some(&FIXED)).await.unwrap().place, Some(FIXED));
    assert!(operator.drain(true).await.unwrap().draining);
    // This cloudlet's own key, as 'cloudlet position' and 'cloudlet drain' use it.
    let own = mission::client(&daemon, &world.config.trust_home().load().unwrap().unwrap());
    assert!(!own.drain(false).await.unwrap().draining);
    assert!(user.cloudlet().await.unwrap().standing.place.is_some(), "everybody may know");
}

#[tokio::test]
async fn peers_hear_of_it_and_a_handheld_reckons_with_it_two_hops_away() {
    let authority = mission::authority();
    let listens = [free(), free()];
    let sites: Vec<World> = ["near", "far"]
        .iter()
        .zip([0, 1])
        .map(|(name, place)| {
            let mut world = mission::join(&authority, name);
            world.config.mesh.enabled = true;
            world.config.mesh.multicast = false;
            world.config.mesh.listen = Some(listens[place]);
            world.config.mesh.peers = vec![listens[1 - place].to_string()];
            world.config.node.power_supply = world.dir.path().join("power");
            world.hypervisor.serve_at(mission::echo());
            world
        })
        .collect();
    battery(&sites[1].config.node.power_supply, 64);
    let daemons = [sites[0].daemon(), sites[1].daemon()];
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE | Permissions::OPERATE, dir.path());
    let near = mission::client(&daemons[0], &trust);
    let far = mission::client(&daemons[1], &trust);
    mission::ready(&far, "echo", "somebody").await;
    // 100 m east of the handheld and standing; 350 m east, leaving at 5 m/s.
    let east = |metres: f64, motion| Place { latitude_deg: 0.0, longitude_deg: metres / 111_195.0, motion };
    near.tell_place(Some(&east(100.0, None))).await.unwrap();
    let leaving = east(350.0, Some(Heading { heading_deg: 90.0, speed_m_s: 5.0 }));
    far.tell_place(Some(&leaving)).await.unwrap();

    let told =
        async || -> Option<Peer> { near.peers().await.unwrap().into_iter().find(|peer| peer.name == "far") };
    let whole = |peer: &Option<Peer>| {
        peer.as_ref().is_some_and(|peer| {
            peer.standing.place.is_some() && peer.held.values().any(|held| held.joinable_instances == 1)
        })
    };
    let peer = until(told, whole).await.unwrap();
    assert_eq!(peer.standing.power, Some(PowerSource::Battery { percent: 64, remaining_s: None }));
    assert!(peer.held[&"echo".parse().unwrap()].ready_ms.is_some(), "{peer:?}");

    let access = Access::Member(trust.clone());
    let look = async || {
        let direct = reach(near.clone()).await.unwrap();
        let mut all = beyond(&access, std::slice::from_ref(&direct)).await;
        assert!(all.iter().all(|one| one.behind.unwrap().hearsay));
        all.insert(0, direct);
        survey(&"echo".parse().unwrap(), all).await
    };
    let surveyed = look().await;
    assert!(!surveyed[1].reachable.behind.unwrap().hearsay, "it was asked itself");
    let here = Some(Here { place: east(0.0, None), range_m: 300.0 });
    let wanted =
        Wanted { here, permitted: Some(access.may_use_services()), ..Wanted::of("echo".parse().unwrap()) };
    let (_, candidates) = selection::picture(&wanted, &surveyed);
    let [one, two] = candidates.as_slice() else { panic!("{candidates:?}") };
    assert_eq!((one.offer, two.offer), (Offer::Cached, Offer::Running));
    assert_eq!((one.link.hops, two.link.hops), (Some(1), Some(2)));
    assert_eq!(two.power, Some(Power::Battery { charge_permille: 640 }));
    assert_eq!((one.permitted, two.permitted), (Some(true), Some(true)));
    assert!(matches!(two.contact, Contact::Forecast { .. }), "{two:?}");
    let lasts = two.contact.expected().unwrap();
    // 50 m to the end of the range of the one in between, at 5 m/s.
    assert!((9.0..11.0).contains(&lasts.as_secs_f64()), "{lasts:?}");

    // Emptied, it is left out, with the reason, and it says so itself although the news may not have come round.
    far.drain(true).await.unwrap();
    let choice = selection::choose(&wanted, &look().await, &Policy::default());
    println!("{choice}");
    assert_eq!(choice.chosen, Some(mission::node(&sites[0])));
    let verdict = &choice.considered[1].verdict;
    assert!(matches!(verdict, Verdict::Cannot(why) if why == &[Infeasible::Draining]), "{verdict:?}");
    for daemon in daemons {
        daemon.stop().unwrap();
    }
}
