//! An endpoint that follows real handoffs between real daemons, while programs ask all the time; on hypervisors without guests.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests use real time and may panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handheld::api::HandoffState;
use handheld::follow::{KEY, Settings, Status};
use handheld::{Access, Follow, Options};
use mesh::trust::Trust;
use migration::VmId;
use migration::hypervisor::fake::{Agent, Answer, Guest, Request, Service};

mod api_support;
mod handoff_support;

use api_support::World;
use api_support::mission::{self, USE, client};
use handoff_support::*;

/// Programs that ask at the same time.
const PROGRAMS: u64 = 3;
/// Moves, there and back.
const MOVES: usize = 6;
/// How long the service works on a request, so that most moves meet one.
const WORK: Duration = Duration::from_millis(15);

/// What the service remembers, wherever it runs: the keys with which each request came.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<String>>>);

impl Memory {
    fn serve(&self, request: &Request) -> Answer {
        if request.path == "/healthz" {
            return Answer::text(200, "ok");
        }
        std::thread::sleep(WORK);
        let key = request.headers.get(KEY.as_str()).cloned().unwrap_or_default();
        self.0.lock().unwrap().entry(request.path.clone()).or_default().push(key);
        Answer::text(200, &format!("{} {}", request.path, request.body.len()))
    }
}

fn lives_on(world: &World, memory: &Arc<Memory>) {
    let memory = Arc::clone(memory);
    let service = Service::Custom(Arc::new(move |request: &Request| memory.serve(request)));
    world.hypervisor.fake().set_guest(Guest { agent: Agent::Answers, service, ..Guest::default() });
}

async fn follow(site: &Site, hand: &Trust) -> Follow {
    let cloudlet = Some(client(site.daemon(), hand).url().to_owned());
    let mut options = Options { cloudlet, ..Options::new("walker".parse().unwrap()) };
    options.search.access = Access::Member(hand.clone());
    Follow::open(&options, Settings { patience: LIMIT, ..Settings::default() }, &|_| {}).await.unwrap()
}

/// Asks until told to stop; each request must be answered, with its own answer.
async fn keep_asking(address: String, who: u64, answered: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> u64 {
    let program = reqwest::Client::builder()
        .no_proxy()
        .retry(reqwest::retry::never())
        .tls_backend_preconfigured(mesh::trust::tls::nobody().unwrap())
        .build()
        .unwrap();
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        let path = format!("/work/{who}-{count}");
        let body = vec![b'x'; (count as usize * 37) % 5000];
        let asked = program.post(format!("http://{address}{path}")).body(body.clone()).send();
        let answer = tokio::time::timeout(2 * LIMIT, asked).await.expect("it hangs");
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.text().await.unwrap(), format!("{path} {}", body.len()));
        count += 1;
        answered.fetch_add(1, Ordering::SeqCst);
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_in_real_handoffs_and_when_the_source_is_killed_afterwards() {
    let authority = mission::authority();
    let memory = Arc::new(Memory::default());
    let mut sites = sites(&authority, 2, |_, world| lives_on(world, &memory));
    knows(&sites[0], 1).await;
    knows(&sites[1], 1).await;
    let dir = tempfile::tempdir().unwrap();
    let hand = mission::handheld(&authority, USE, &dir.path().join("hand"));
    let follow = follow(&sites[0], &hand).await;
    let id = follow.instance();

    let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let programs: Vec<_> = (0..PROGRAMS)
        .map(|who| {
            let address = follow.address().to_string();
            tokio::spawn(keep_asking(address, who, Arc::clone(&answered), Arc::clone(&stop)))
        })
        .collect();
    // Whatever was under way is answered, and one that began afterwards.
    let goes_on = async || {
        let until_then = answered.load(Ordering::SeqCst) + 2 * PROGRAMS;
        until("answers", || async { answered.load(Ordering::SeqCst) >= until_then }).await;
    };
    goes_on().await;
    for number in 0..MOVES {
        let (from, to) = (number % 2, 1 - number % 2);
        let operator = sites[from].operator();
        let instance = operator.instance(id).await.unwrap();
        operator.hand_off(id, &format!("site-{to}")).await.unwrap();
        let done = reached(&operator, &instance, HandoffState::Done).await;
        println!("move {number}: {} ms, stood still for {:?} ms", done.total_ms, done.downtime_ms);
        if number + 1 == MOVES {
            // Before it can tell those who ask later.
            sites[from].kill();
        }
        goes_on().await;
        assert!(sites[to].executes(VmId(id)));
    }
    let here = mission::node(&sites[0].world);
    let status = follow.status().borrow().clone();
    let expected = u64::try_from(MOVES).unwrap() + 1;
    assert!(
        matches!(&status, Status::Serving { node, generation, .. } if *node == here && *generation == expected),
        "{status:?}"
    );
    stop.store(true, Ordering::SeqCst);
    let mut total = 0;
    for program in programs {
        total += program.await.unwrap();
    }

    // Each was done; if again, with the same key.
    let done = memory.0.lock().unwrap().clone();
    assert_eq!(done.len() as u64, total);
    let distinct = |keys: &Vec<String>| keys.iter().collect::<BTreeSet<_>>().len();
    assert!(done.values().all(|keys| !keys[0].is_empty() && distinct(keys) == 1), "{done:?}");
    assert_eq!(done.values().map(|keys| &keys[0]).collect::<BTreeSet<_>>().len(), done.len());
    let repeated = done.values().filter(|keys| keys.len() > 1).count();
    println!("{MOVES} moves and a kill: {total} requests, 0 lost, {repeated} done more than once");
    follow.release().await.unwrap();
    sites[0].daemon.take().unwrap().stop().unwrap();
}
