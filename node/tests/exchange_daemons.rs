//! Images between daemons: fetched by an operator, for the mission, and for a handheld. Real meshes and TLS, on
//! hypervisors without guests.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests use real time and may panic"
)]

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use handheld::api::{Code, Event, FetchImage, FetchState, State};
use handheld::{Access, Client, Fetched, Options, Session, Step};
use mesh::trust::{Authority, Permissions, Rules};
use vm_images::{SigningKey, Store};

mod api_support;
mod cli_support;

use api_support::mission::{self, USE, client, code_of, start};
use api_support::ports::free;
use api_support::{Daemon, World};
use cli_support::Ran;

/// Longest that anything may take here; a busy machine fails no test.
const LIMIT: Duration = Duration::from_secs(60);
/// Key of `api_support::images`.
const SIGNER: [u8; 32] = [7; 32];

struct Site {
    world: World,
    daemon: Daemon,
}

impl Site {
    /// As its own operator.
    fn operator(&self) -> Client {
        client(&self.daemon, &self.world.config.trust_home().load().unwrap().unwrap())
    }

    /// The operator's command line at this cloudlet.
    fn cli(&self, shell: &cli_support::World, arguments: &[&str]) -> Ran {
        let api = format!("https://{}", mission::address(&self.daemon));
        let state = self.world.state_dir();
        let mut command =
            shell.command(&["--state-dir", state.to_str().unwrap(), "image", "fetch", "--api", &api]);
        Ran::of(command.env_remove("CLOUDLET_TRUST__INSECURE").args(arguments).output().unwrap())
    }
}

/// A cloudlet with services `echo` and `solo`, and others without any, that know each other. The others trust its images.
fn sites(authority: &Authority, others: usize, change: impl Fn(usize, &mut World)) -> Vec<Site> {
    let listens: Vec<SocketAddr> = (0..=others).map(|_| free()).collect();
    let start = |at: usize| {
        let mut world = mission::join(authority, &format!("site-{at}"));
        world.config.mesh.enabled = true;
        world.config.mesh.multicast = false;
        world.config.mesh.listen = Some(listens[at]);
        world.config.mesh.peers =
            listens.iter().filter(|other| **other != listens[at]).map(ToString::to_string).collect();
        world.config.exchange.reserve_mib = 0;
        if at > 0 {
            let own = SigningKey::from_secret(&[u8::try_from(at).unwrap(); 32]);
            world.store = Store::open(&world.dir.path().join("empty"), own).unwrap();
            world.store.trust(SigningKey::from_secret(&SIGNER).public()).unwrap();
        }
        world.hypervisor.serve_at(mission::echo());
        change(at, &mut world);
        Site { daemon: world.daemon(), world }
    };
    (0..=others).map(start).collect()
}

/// Waits until something holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < LIMIT, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a cloudlet knows so many others that serve `echo`.
async fn knows_holders(site: &Site, count: usize) {
    let operator = site.operator();
    until("the others' adverts", || {
        operator.peers().map(|peers| {
            let serving =
                |peer: &handheld::api::Peer| peer.services.iter().any(|service| service.as_str() == "echo");
            peers.unwrap().iter().filter(|peer| serving(peer)).count() == count
        })
    })
    .await;
}

async fn offers_echo(client: &Client) -> bool {
    client.service(&"echo".parse().unwrap()).await.unwrap().is_some()
}

fn ask(image: &str) -> FetchImage {
    FetchImage { image: image.to_owned(), from: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_fetches_a_service_and_it_is_used_at_once() {
    let authority = mission::authority();
    let sites = sites(&authority, 1, |_, _| {});
    knows_holders(&sites[1], 1).await;
    let dir = tempfile::tempdir().unwrap();
    let hand = mission::handheld(&authority, USE, &dir.path().join("hand"));
    let hand = client(&sites[1].daemon, &hand);
    assert!(!offers_echo(&hand).await);

    // Handhelds that may only use services have nothing fetched, and end nothing.
    assert_eq!(code_of(&hand.fetch_image(&ask("echo")).await.unwrap_err()), Code::NotAllowed);
    let shell = cli_support::World::new();
    let ran = sites[1].cli(&shell, &["echo"]).succeeded();
    assert!(ran.stdout.contains(" from site-0\n"), "{}", ran.stdout);
    assert!(ran.stderr.contains("is here"), "{}", ran.stderr);
    let fetches = hand.image_fetches().await.unwrap();
    let [fetch] = fetches.as_slice() else { panic!("{fetches:?}") };
    assert_eq!(fetch.state, FetchState::Done);
    assert_eq!(code_of(&hand.cancel_image_fetch(&fetch.image).await.unwrap_err()), Code::NotAllowed);

    // No wait, no restart: the parent came along, and an instance starts.
    let instance = hand.start(&start("echo", "phone")).await.unwrap();
    assert_eq!(instance.image, fetch.image);
    hand.wait_ready(instance.id, LIMIT).await.unwrap();
    assert!(offers_echo(&hand).await);
    let echo = sites[0].world.store.by_name("echo").unwrap();
    assert!(sites[1].world.store.contains(echo.manifest.parent.unwrap()));

    // Now it is one of those that hold it, and asking again is no error.
    knows_holders(&sites[0], 2).await;
    let again = sites[1].cli(&shell, &["echo", "--json"]).succeeded().json();
    assert_eq!((&again["fetch"]["state"], &again["fetch"]["wire_bytes"]), (&"done".into(), &0.into()));
    // The rest by id, from a handheld that may operate, which is told how far it is.
    let boss = mission::handheld(&authority, USE | Permissions::OPERATE, &dir.path().join("boss"));
    let boss = client(&sites[1].daemon, &boss);
    let solo = sites[0].world.store.by_name("solo").unwrap().id.to_string();
    let mut events = boss.events().await.unwrap();
    let asked = FetchImage { image: solo[..10].to_owned(), from: Some("site-0".to_owned()) };
    assert_eq!(boss.fetch_image(&asked).await.unwrap().image, solo);
    let told = async {
        loop {
            match events.next().await.unwrap() {
                Some(Event::ImageFetch(fetch)) if fetch.state == FetchState::Done => return fetch,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(LIMIT, told).await.unwrap().image, solo);
    for site in sites {
        site.daemon.stop().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_said_and_told_apart() {
    let authority = mission::authority();
    let sites = sites(&authority, 1, |at, world| {
        if at == 1 {
            world.store.distrust(SigningKey::from_secret(&SIGNER).public()).unwrap();
        }
    });
    knows_holders(&sites[1], 1).await;
    let shell = cli_support::World::new();
    for (arguments, said) in [
        (&["faces"][..], "none of the 1 cloudlets in reach that may be asked holds an image of 'faces'"),
        (&["../x"], "neither an image's id"),
        (&["echo", "--from", "nobody"], "no other cloudlet is known as 'nobody'"),
        (&["echo"], "run `cloudlet image trust"),
    ] {
        let ran = sites[1].cli(&shell, arguments).failed_with(1);
        assert!(ran.stderr.contains(said) && ran.stderr.contains("next: "), "{arguments:?}: {}", ran.stderr);
        let json = sites[1].cli(&shell, &[arguments, &["--json"]].concat()).failed_with(1);
        assert!(json.json_error()["error"].as_str().unwrap().contains(said), "{}", json.stderr);
    }
    // A handheld that wants it hears why, and does not make the cloudlet try again and again.
    let dir = tempfile::tempdir().unwrap();
    let hand = client(&sites[1].daemon, &mission::handheld(&authority, USE, dir.path()));
    for _ in 0..2 {
        let waiting = hand.start(&start("echo", "phone")).await.unwrap();
        let failed = hand.wait_ready(waiting.id, LIMIT).await.unwrap_err().to_string();
        assert!(failed.contains("does not trust"), "{failed}");
    }
    assert_eq!(hand.image_fetches().await.unwrap().len(), 1);
    let told = hand.cloudlet().await.unwrap().fetchable;
    let told: Vec<&str> = told.iter().map(|one| one.service.as_str()).collect();
    assert_eq!(told, ["solo"], "it does not say that it could fetch what it could not a moment ago");
    // Once it is trusted, an operator need not wait.
    sites[1].world.store.trust(SigningKey::from_secret(&SIGNER).public()).unwrap();
    sites[1].cli(&shell, &["echo"]).succeeded();

    // Somebody who is alone in his mission, and a cloudlet without one.
    let mut sites = sites.into_iter();
    sites.next().unwrap().daemon.stop().unwrap();
    let site = sites.next().unwrap();
    let operator = site.operator();
    until("the other one's farewell", || {
        operator.peers().map(|peers| {
            peers.unwrap().iter().all(|peer| {
                peer.reach == handheld::api::PeerReach::Own
                    || peer.reach == handheld::api::PeerReach::Unreachable
            })
        })
    })
    .await;
    let ran = site.cli(&shell, &["solo"]).failed_with(1);
    assert!(ran.stderr.contains("no other cloudlet is in reach"), "{}", ran.stderr);
    site.cli(&shell, &["echo"]).succeeded();
    site.daemon.stop().unwrap();
    let without = World::new();
    let daemon = without.daemon();
    let url = daemon.client.base.trim_end_matches("/api/v1").to_owned();
    let ran = shell.run(&["image", "fetch", "echo", "--api", &url]).failed_with(1);
    assert!(
        ran.stderr.contains("runs without others") && ran.stderr.contains("join a mission"),
        "{}",
        ran.stderr
    );
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mission_wants_everywhere_gets_everywhere() {
    let authority = mission::authority();
    let sites = sites(&authority, 2, |_, world| {
        world.config.mission.replicate = vec!["echo".parse().unwrap()];
    });
    for site in &sites[1..] {
        let operator = site.operator();
        until("the service comes by itself", || offers_echo(&operator)).await;
        let names = site.world.store.names().unwrap();
        assert!(!names.contains_key("solo"), "nobody wanted that: {names:?}");
    }
    for site in sites {
        site.daemon.stop().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mission_says_whose_images_are_used_for_as_long_as_it_lasts() {
    let key = SigningKey::from_secret(&SIGNER).public();
    let authority = mission::authority_with(Rules { quiet: false, image_signers: [key].into() });
    let mut sites = sites(&authority, 1, |at, world| {
        if at == 1 {
            // As on a vehicle on which nobody ever typed 'cloudlet image trust'.
            assert!(world.store.distrust(key).unwrap());
            world.config.mission.replicate = vec!["echo".parse().unwrap()];
        }
    });
    let vehicle = sites.pop().unwrap();
    let operator = vehicle.operator();
    until("the service comes by itself", || offers_echo(&operator)).await;
    let instance = operator.start(&start("echo", "phone")).await.unwrap();
    operator.wait_ready(instance.id, LIMIT).await.unwrap();
    vehicle.daemon.stop().unwrap();

    // The trust was the mission's: whoever opens the same store without it uses none of its images.
    let echo = vehicle.world.store.by_name("echo").unwrap().id;
    vehicle.world.store.ensure_intact(echo).unwrap();
    let alone =
        Store::open(&vehicle.world.dir.path().join("empty"), SigningKey::from_secret(&[1; 32])).unwrap();
    assert!(!alone.trusted().unwrap().contains(&key));
    let refused = alone.ensure_intact(echo).unwrap_err();
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("does not trust"), "{refused}");
    sites.pop().unwrap().daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handheld_that_asks_for_what_another_cloudlet_has_gets_it_here() {
    let authority = mission::authority();
    let sites = sites(&authority, 2, |at, world| world.config.exchange.on_demand = at < 2);
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    for site in &sites[1..] {
        knows_holders(site, 1).await;
    }
    // Where it is switched off, there is no such service.
    let off = client(&sites[2].daemon, &trust);
    assert_eq!(code_of(&off.start(&start("echo", "phone")).await.unwrap_err()), Code::UnknownService);

    let on = client(&sites[1].daemon, &trust);
    let mut events = on.events().await.unwrap();
    let first = on.start(&start("solo", "phone")).await.unwrap();
    assert_eq!(on.start(&start("solo", "phone")).await.unwrap().id, first.id, "asked again, it is the same");
    let mut states = Vec::new();
    while states.last() != Some(&State::Ready) {
        let told = tokio::time::timeout(LIMIT, events.next()).await.unwrap().unwrap();
        if let Some(Event::Instance(instance)) = told {
            assert_eq!(instance.id, first.id);
            assert!(instance.state == State::Fetching || instance.fetching.is_none());
            states.push(instance.state);
        }
    }
    states.dedup();
    assert_eq!(states, [State::Fetching, State::Starting, State::Ready]);
    // The library waits for it; the program that uses it notices nothing but the time.
    let mut options = Options::new("echo".parse().unwrap());
    options.search.access = Access::Member(trust);
    options.cloudlet = Some(on.url().to_owned());
    options.ready_limit = LIMIT;
    // Among several it counts with the time that fetching would take.
    let found = handheld::find(&options.search, options.cloudlet.as_deref(), None).await.unwrap();
    let surveyed = handheld::survey(&options.service, found).await;
    let wanted = handheld::Wanted::of(options.service.clone());
    let choice = handheld::selection::choose(&wanted, &surveyed, &options.policy);
    assert!(choice.chosen.is_some(), "{choice}");
    let fetch =
        choice.considered[0].completion.as_ref().unwrap().parts.iter().find(|part| part.name == "fetch");
    assert!(fetch.is_some_and(|part| part.figure.contains(" MB from site-0")), "{choice}");
    let steps = Mutex::new(Vec::new());
    let session = Session::open(&options, &|step| steps.lock().unwrap().push(step)).await.unwrap();
    let fetched: Vec<Fetched> = steps
        .into_inner()
        .unwrap()
        .into_iter()
        .filter_map(|step| if let Step::Fetching(fetched) = step { Some(fetched) } else { None })
        .collect();
    assert!(!fetched.is_empty(), "it waits without a word");
    assert_eq!(session.cloudlet().cloudlet.name, "site-1");
    session.release().await.unwrap();
    assert_eq!(sites[1].world.hypervisor.clones(), 2);
    for site in sites {
        site.daemon.stop().unwrap();
    }
}

/// Memory of a service that takes some seconds at [`SLOW_KIB_PER_S`].
fn memory(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; 6 << 20];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

const SLOW_KIB_PER_S: u64 = 1024;

/// Asks for a service that is elsewhere, and waits until some of it has come.
async fn half_fetched(client: &Client, service: &str) -> handheld::api::Instance {
    let asked = client.start(&start(service, "phone")).await.unwrap();
    assert_eq!(asked.state, State::Fetching);
    until("some of it", || async {
        let instance = client.instance(asked.id).await.unwrap();
        assert_eq!(instance.state, State::Fetching, "{instance:?}");
        let fetching = instance.fetching.unwrap();
        fetching.here_bytes > 0 && fetching.total_bytes > 6_000_000 && fetching.from[0].name == "site-0"
    })
    .await;
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_on_its_way_survives_the_daemon_and_ends_with_who_waits_for_it() {
    let authority = mission::authority();
    let mut sites = sites(&authority, 1, |at, world| {
        if at == 0 {
            world.config.exchange.rate_limit_kib_per_s = SLOW_KIB_PER_S;
            for (seed, name) in [(1, "maps"), (2, "faces"), (3, "signs")] {
                api_support::images::large(&world.store, name, &memory(seed));
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let hand = mission::handheld(&authority, USE, dir.path());
    let Site { world, daemon } = sites.pop().unwrap();
    let site = Site { daemon, world };
    knows_holders(&site, 1).await;

    // Killed in the middle, it goes on by itself, and its client finds the instance that it asked for.
    let asked = half_fetched(&client(&site.daemon, &hand), "maps").await;
    let shell = cli_support::World::new();
    let state = site.world.state_dir();
    let api = format!("https://{}", mission::address(&site.daemon));
    let mut list = shell.command(&["--state-dir", state.to_str().unwrap(), "vm", "--api", &api, "list"]);
    let listed = Ran::of(list.env_remove("CLOUDLET_TRUST__INSECURE").output().unwrap()).succeeded();
    assert!(
        listed.stdout.contains("fetching (") && listed.stdout.contains(" from site-0)"),
        "{}",
        listed.stdout
    );
    let Site { daemon, world } = site;
    daemon.kill();
    let site = Site { daemon: world.daemon(), world };
    let user = client(&site.daemon, &hand);
    assert_eq!(user.instance(asked.id).await.unwrap().state, State::Fetching);
    let ready = user.wait_ready(asked.id, LIMIT).await.unwrap();
    assert_eq!((ready.image, ready.fetching), (asked.image, None));
    user.release(asked.id, "phone").await.unwrap();

    // Who waits no more ends the fetch, but not what an operator asked for.
    let operator = site.operator();
    let left = half_fetched(&user, "faces").await;
    user.release(left.id, "phone").await.unwrap();
    until("the end of the fetch", || async {
        operator.image_fetch(&left.image).await.unwrap().state == FetchState::Failed
    })
    .await;
    let stopped = user.instance(left.id).await.unwrap();
    assert_eq!(stopped.state, State::Stopped, "{stopped:?}");
    let shared = half_fetched(&user, "signs").await;
    operator.fetch_image(&ask("signs")).await.unwrap();
    user.release(shared.id, "phone").await.unwrap();
    until("the service", || async {
        let fetch = operator.image_fetch(&shared.image).await.unwrap();
        assert_ne!(fetch.state, FetchState::Failed, "{fetch:?}");
        fetch.state == FetchState::Done
    })
    .await;
    site.daemon.stop().unwrap();
    sites.pop().unwrap().daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_before_it_is_fetched() {
    let authority = mission::authority();
    let mut sites = sites(&authority, 1, |at, world| {
        if at == 0 {
            world.config.exchange.rate_limit_kib_per_s = SLOW_KIB_PER_S;
            api_support::images::large(&world.store, "maps", &memory(1));
        } else {
            world.config.instances.memory_reserve_mib = 1000;
        }
    });
    let site = sites.pop().unwrap();
    knows_holders(&site, 1).await;
    let operator = site.operator();
    let asked = operator.start(&start("maps", "phone")).await.unwrap();
    let failed = operator.wait_ready(asked.id, LIMIT).await.unwrap_err().to_string();
    assert!(failed.contains("not enough is free"), "{failed}");
    until("the end of the fetch", || async {
        operator.image_fetch(&asked.image).await.unwrap().state == FetchState::Failed
    })
    .await;
    assert!(operator.service(&"maps".parse().unwrap()).await.unwrap().is_none());
    site.daemon.stop().unwrap();
    sites.pop().unwrap().daemon.stop().unwrap();
}
