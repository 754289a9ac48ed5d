//! An endpoint whose service moves: real sockets, real programs, a scripted handoff.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use real time and may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use handheld::Follow;
use handheld::follow::{Mode, Settings, Status};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

mod moving;
use moving::{Farewell, Fleet};

/// Longest that anything may take here.
const PATIENCE: Duration = Duration::from_secs(60);

async fn follow(fleet: &Fleet, settings: Settings) -> Follow {
    let options = fleet.options();
    Follow::around(fleet.session().await, &options.search, false, settings).await.unwrap()
}

/// A program that knows nothing: it sends once and takes what comes. Its own proxies and retries are off.
fn program() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .retry(reqwest::retry::never())
        .tls_backend_preconfigured(mesh::trust::tls::nobody().unwrap())
        .build()
        .unwrap()
}

async fn serves_at(follow: &Follow, number: usize) {
    let mut status = follow.status();
    let there = |status: &Status| matches!(status, Status::Serving { node, .. } if node.to_string() == moving::node(number));
    tokio::time::timeout(PATIENCE, status.wait_for(there)).await.unwrap().unwrap();
}

/// Waits until the service works on so many requests.
async fn begun(fleet: &Fleet, count: usize) {
    let begin = Instant::now();
    while fleet.vm.done.lock().unwrap().len() < count {
        assert!(begin.elapsed() < PATIENCE, "{:?}", fleet.vm.done);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn ms(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }
}

fn seed() -> u64 {
    let given = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    })
}

/// Sends one request after the other until told to stop; each must be answered, once, with its own answer.
async fn keep_asking(address: String, who: usize, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let program = program();
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::SeqCst) {
        let name = format!("{who}-{count}");
        let body = vec![b'x'; (count as usize * 37) % 5000];
        let began = Instant::now();
        let asked = program.post(format!("http://{address}/work/{name}")).body(body.clone()).send().await;
        let answer = asked.unwrap_or_else(|error| panic!("{name} after {:?}: {error:?}", began.elapsed()));
        assert_eq!(answer.status(), 200, "{name} after {:?}", began.elapsed());
        assert_eq!(answer.text().await.unwrap(), format!("{name} {}", body.len()));
        longest = longest.max(began.elapsed());
        count += 1;
    }
    (count, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_in_two_hundred_moves_at_random_moments() {
    let seed = seed();
    println!("SEED={seed}");
    let mut random = Random(seed);
    let fleet = Fleet::start(3).await;
    let follow = follow(&fleet, Settings::default()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|who| tokio::spawn(keep_asking(follow.address().to_string(), who, stop.clone())))
        .collect();
    let mut aborted = 0;
    for number in 0..200 {
        tokio::time::sleep(random.ms(40)).await;
        if random.below(8) == 0 {
            // A handoff that comes to nothing: the VM goes on where it was.
            fleet.freeze();
            tokio::time::sleep(random.ms(40)).await;
            fleet.thaw();
            aborted += 1;
        }
        let to = (fleet.here() + 1 + usize::try_from(random.below(2)).unwrap()) % 3;
        let farewell = [Farewell::Tells, Farewell::WhenAsked, Farewell::Forgets][number % 3];
        let frozen = random.ms(40);
        fleet.hand_off(to, frozen, farewell).await;
    }
    serves_at(&follow, fleet.here()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.store(true, Ordering::SeqCst);
    let ended = tokio::time::timeout(PATIENCE, join_all(clients)).await.expect("a request hangs");
    let ended: Vec<_> = ended.into_iter().map(Result::unwrap).collect();
    let total: u64 = ended.iter().map(|(count, _)| count).sum();
    let longest = ended.iter().map(|(_, longest)| *longest).max().unwrap();
    assert!(total >= 40, "seed {seed}: only {total} requests");
    // Each was done, and one that was done again came with the same key.
    let done = fleet.vm.done.lock().unwrap();
    assert_eq!(done.len() as u64, total, "seed {seed}");
    for (name, keys) in done.iter() {
        assert!(
            !keys[0].is_empty() && keys.iter().all(|key| *key == keys[0]),
            "seed {seed}: {name} {keys:?}"
        );
    }
    let keys: std::collections::BTreeSet<&String> = done.values().map(|keys| &keys[0]).collect();
    assert_eq!(keys.len(), done.len(), "seed {seed}: each request has a key of its own");
    let repeated = done.values().filter(|keys| keys.len() > 1).count();
    println!(
        "seed {seed}: 200 moves and {aborted} that came to nothing; {total} requests, 0 lost, {repeated} done more than \
         once, longest {longest:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_request_goes_on_at_the_new_place_and_is_answered_once() {
    let fleet = Fleet::start(2).await;
    let follow = follow(&fleet, Settings { patience: Duration::from_secs(1), ..Settings::default() }).await;
    let url = format!("http://{}/long/1500/big", follow.address());
    let body = vec![b'y'; 3 << 20];
    let asked = tokio::spawn(program().post(url).body(body).send());
    begun(&fleet, 1).await;
    fleet.hand_off(1, Duration::from_millis(300), Farewell::Tells).await;
    let answer = tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), format!("big {}", 3 << 20));
    // It had been begun at the former place, and it worked for longer than anybody's patience.
    let done = fleet.vm.done.lock().unwrap();
    assert_eq!(done["big"].len(), 2, "{done:?}");
    assert_eq!(done["big"][0], done["big"][1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_gone_without_a_word_is_noticed_and_the_others_are_asked() {
    let fleet = Fleet::start(3).await;
    let follow = follow(&fleet, Settings::default()).await;
    let url = |name: &str| format!("http://{}/work/{name}", follow.address());
    assert_eq!(program().post(url("before")).send().await.unwrap().status(), 200);
    // It heard of the others by now, or does so with the next answer of the source.
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Its connections stand, and nothing comes back; the VM runs elsewhere.
    fleet.freeze();
    fleet.sites[0].away.send_replace(true);
    fleet.commit(2, Farewell::Forgets);
    let began = Instant::now();
    let answer = tokio::time::timeout(PATIENCE, program().post(url("after")).send()).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, "after 0".to_owned()));
    let took = began.elapsed();
    // A check each second, two seconds for each of two answers that do not come, and the search.
    assert!(took < Duration::from_secs(12), "{took:?}");
    println!("found again {took:?} after the source was gone without a word");
    serves_at(&follow, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_while_the_vm_stands_still_and_only_so_many_and_only_so_long() {
    let fleet = Fleet::start(2).await;
    let settings = Settings { patience: Duration::from_millis(800), waiting_most: 4, ..Settings::default() };
    let follow = follow(&fleet, settings).await;
    let url = |name: &str| format!("http://{}/work/{name}", follow.address());
    fleet.freeze();
    let mut status = follow.status();
    tokio::time::timeout(PATIENCE, status.wait_for(|status| *status == Status::Waiting))
        .await
        .unwrap()
        .unwrap();
    let began = Instant::now();
    let asked = (0..6).map(|number| program().get(url(&number.to_string())).send());
    let answers = join_all(asked).await;
    let mut codes = BTreeMap::new();
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "1");
        let told: serde_json::Value = answer.json().await.unwrap();
        *codes.entry(told["error"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(codes, BTreeMap::from([("full".to_owned(), 2), ("no-place".to_owned(), 4)]));
    assert!(began.elapsed() >= settings.patience, "{:?}", began.elapsed());
    assert_eq!(fleet.vm.requests.load(Ordering::SeqCst), 0, "nothing of them was sent");
    // Those that come now wait, and are served when it goes on.
    let waiting = tokio::spawn(program().get(url("late")).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    fleet.thaw();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_must_not_be_repeated_fails_and_is_done_once() {
    let fleet = Fleet::start(2).await;
    let follow = follow(&fleet, Settings { repeat_unkeyed: false, ..Settings::default() }).await;
    let url = |name: &str| format!("http://{}/long/700/{name}", follow.address());
    let strict = tokio::spawn(program().post(url("strict")).send());
    let keyed = tokio::spawn(program().post(url("keyed")).header("Idempotency-Key", "mine").send());
    begun(&fleet, 2).await;
    fleet.hand_off(1, Duration::from_millis(20), Farewell::Tells).await;
    let strict = strict.await.unwrap().unwrap();
    assert_eq!(strict.status(), 502);
    assert_eq!(strict.json::<serde_json::Value>().await.unwrap()["error"], "broken");
    assert_eq!(keyed.await.unwrap().unwrap().status(), 200);
    let done = fleet.vm.done.lock().unwrap();
    assert_eq!((done["strict"].len(), &done["keyed"][..]), (1, &["mine".to_owned(), "mine".to_owned()][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_answer_is_cut_and_never_continued_from_another() {
    let fleet = Fleet::start(2).await;
    let follow = follow(&fleet, Settings::default()).await;
    let mut answer = program().get(format!("http://{}/drip/one", follow.address())).send().await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 20 {
        heard.extend(answer.chunk().await.unwrap().unwrap());
    }
    fleet.hand_off(1, Duration::from_millis(50), Farewell::Tells).await;
    let end = loop {
        match tokio::time::timeout(PATIENCE, answer.chunk()).await.unwrap() {
            Ok(Some(piece)) => heard.extend(piece),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert!(end.is_err(), "a cut must not look like the end");
    let numbers: Vec<u32> =
        String::from_utf8(heard).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(place, number)| place == *number as usize), "{numbers:?}");
    assert_eq!(fleet.repeats(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_long_to_keep_goes_through_once() {
    let fleet = Fleet::start(2).await;
    let follow = follow(&fleet, Settings { body_bytes_most: 10_000, ..Settings::default() }).await;
    let url = |name: &str| format!("http://{}/work/{name}", follow.address());
    let answer = program().post(url("long")).body(vec![b'z'; 1 << 20]).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), format!("long {}", 1 << 20));
    // Chunked, so that nobody knows before.
    let pieces = (0..100).map(|_| Ok::<_, std::io::Error>(vec![b'z'; 1000]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let answer = program().post(url("pieces")).body(body).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "pieces 100000");
    let upgrade = program().get(url("no")).header("Connection", "upgrade").header("Upgrade", "websocket");
    assert_eq!(upgrade.send().await.unwrap().status(), 501);
}

async fn say(address: std::net::SocketAddr, line: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    stream.shutdown().await?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await?;
    Ok(heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_connections_wait_and_old_ones_are_reset() {
    let fleet = Fleet::start(2).await;
    let follow = follow(&fleet, Settings { mode: Mode::Tcp, ..Settings::default() }).await;
    assert_eq!(say(follow.address(), "one").await.unwrap(), "heard one\n");
    let (reader, mut writer) = TcpStream::connect(follow.address()).await.unwrap().into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    writer.write_all(b"two\n").await.unwrap();
    reader.read_line(&mut line).await.unwrap();
    assert_eq!(line, "heard two\n");
    // One that has said nothing yet is led to the new place without a trace.
    let mut quiet = TcpStream::connect(follow.address()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    fleet.freeze();
    let mut status = follow.status();
    tokio::time::timeout(PATIENCE, status.wait_for(|status| *status == Status::Waiting))
        .await
        .unwrap()
        .unwrap();
    let address = follow.address();
    let waiting: Vec<_> =
        (0..5).map(|n| tokio::spawn(async move { say(address, &format!("w{n}")).await })).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(waiting.iter().all(|one| !one.is_finished()));
    fleet.commit(1, Farewell::WhenAsked);
    for (number, one) in waiting.into_iter().enumerate() {
        let heard = tokio::time::timeout(PATIENCE, one).await.unwrap().unwrap().unwrap();
        assert_eq!(heard, format!("heard w{number}\n"));
    }
    quiet.write_all(b"three\n").await.unwrap();
    quiet.shutdown().await.unwrap();
    let mut heard = String::new();
    quiet.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "heard three\n");
    line.clear();
    let old = tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await.unwrap();
    assert_eq!(old.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_whose_first_bytes_are_said_again_sees_a_pause_only() {
    let seed = seed();
    println!("SEED={seed}");
    let mut random = Random(seed);
    let fleet = Fleet::start(3).await;
    let follow =
        follow(&fleet, Settings { mode: Mode::Tcp, replay_bytes: 4096, ..Settings::default() }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let said = Arc::new(AtomicU64::new(0));
    let address = follow.address();
    let programs: Vec<_> = (0..3)
        .map(|who| {
            let (stop, said) = (stop.clone(), said.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let line = format!("{who} {}", said.fetch_add(1, Ordering::SeqCst));
                    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
                    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
                    let mut heard = String::new();
                    stream.read_line(&mut heard).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                    assert_eq!(heard, format!("heard {line}\n"), "seed {seed}");
                }
            })
        })
        .collect();
    for _ in 0..60 {
        tokio::time::sleep(random.ms(30)).await;
        let to = (fleet.here() + 1) % 3;
        let frozen = random.ms(40);
        fleet.hand_off(to, frozen, Farewell::Tells).await;
    }
    serves_at(&follow, fleet.here()).await;
    stop.store(true, Ordering::SeqCst);
    for program in tokio::time::timeout(PATIENCE, join_all(programs)).await.expect("a connection hangs") {
        program.unwrap();
    }
    println!("seed {seed}: 60 moves, {} connections, 0 lost", said.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_released_where_it_is() {
    let fleet = Fleet::start(2).await;
    let follow = follow(&fleet, Settings::default()).await;
    fleet.hand_off(1, Duration::from_millis(10), Farewell::Tells).await;
    serves_at(&follow, 1).await;
    follow.release().await.unwrap();
    let released: Vec<bool> = fleet.sites.iter().map(|site| site.released.load(Ordering::SeqCst)).collect();
    assert_eq!(released, [false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_serves_says_where_the_service_is_and_releases_it() {
    let fleet = Fleet::start(2).await;
    let state = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_handheld"));
    command.args(["serve", "speech", "--insecure", "--json", "--patience", "20s"]);
    command
        .args(["--cloudlet", &format!("http://{}", fleet.sites[0].api)])
        .arg("--state-dir")
        .arg(state.path());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut serving = command.spawn().unwrap();
    let mut said = BufReader::new(serving.stdout.take().unwrap());
    let mut told = BufReader::new(serving.stderr.take().unwrap()).lines();
    let mut text = String::new();
    let address = loop {
        assert!(
            tokio::time::timeout(PATIENCE, said.read_line(&mut text)).await.unwrap().unwrap() > 0,
            "{text}"
        );
        if let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) {
            assert_eq!(json["service"], "speech");
            break json["address"].as_str().unwrap().to_owned();
        }
    };
    let ask = async |name: &str| {
        let answer = program().post(format!("http://{address}/work/{name}")).send().await.unwrap();
        answer.text().await.unwrap()
    };
    assert_eq!(ask("one").await, "one 0");
    fleet.hand_off(1, Duration::from_millis(100), Farewell::Tells).await;
    assert_eq!(ask("two").await, "two 0");
    let line = tokio::time::timeout(PATIENCE, told.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.starts_with("handheld: the service is on 0202"), "{line}");
    assert!(line.ends_with(&format!("at http://{}", fleet.sites[1].api)), "{line}");
    let id = nix::unistd::Pid::from_raw(i32::try_from(serving.id().unwrap()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(PATIENCE, serving.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
    assert!(fleet.sites[1].released.load(Ordering::SeqCst));
}
