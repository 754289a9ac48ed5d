//! A cloudlet that is killed while it fetches, as losing power does: the next start goes on by itself. Real processes,
//! a real mesh on loopback; the hypervisor is opened, no guest is started.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests use real time and may panic"
)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mesh::NodeId;
use mesh::trust::{Authority, Grant, Home, Permissions, Request, Role};
use serde_json::Value as Json;
use vm_images::SigningKey;

mod api_support;
mod cli_support;
mod exchange_support;

use api_support::mission;
use api_support::ports::free;
use cli_support::{Ran, World};
use exchange_support::MEMORY_BYTES;

/// Longest that anything may take here; a busy machine fails no test.
const LIMIT: Duration = Duration::from_secs(120);
/// What the holder serves at most: slow enough to be killed in the middle.
const SERVED_KIB_PER_S: u64 = 3 * 1024;
/// Of the base image, two thirds of the memory are noise, of the service another third; what both have is not fetched
/// twice, zeros not at all.
const NEEDED_BYTES: u64 = MEMORY_BYTES;
/// What was on its way when the process was killed is lost: at most 4 MiB are asked for ahead; and lists, frames.
const LOST_BYTES: u64 = 4_500_000;

/// A real daemon; killed with its last handle, which is what the test is about.
struct Up {
    child: Child,
    api: String,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn enlist(authority: &Authority, world: &World) {
    let state = world.state_dir();
    std::fs::create_dir_all(&state).unwrap();
    let node = NodeId::load_or_create(&state.join("node-id"), &mut rand::rng()).unwrap();
    let home = Home::at(state.join("trust"));
    let pem = home.device().unwrap().request_pem(Role::Cloudlet(node), "truck").unwrap();
    let grant = Grant { permissions: Permissions::NONE, may_enroll: None, not_after_unix_s: None };
    home.join(&authority.enroll(&Request::from_bytes(pem.as_bytes()).unwrap(), grant).unwrap()).unwrap();
}

fn up(world: &World, holder: SocketAddr) -> Up {
    let set = [
        "discovery.enabled=false".to_owned(),
        "hypervisor.accelerator=tcg".to_owned(),
        "mesh.multicast=false".to_owned(),
        format!("mesh.listen={}", free()),
        format!("mesh.peers={holder}"),
        "trust.pairing_listen=127.0.0.1:0".to_owned(),
        "exchange.reserve_mib=0".to_owned(),
    ];
    let mut command = world.command(&["up", "--json", "--listen", "127.0.0.1:0"]);
    set.iter().for_each(|one| _ = command.args(["--set", one]));
    let log = std::fs::File::options().create(true).append(true).open(world.path("log")).unwrap();
    let child =
        command.env_remove("CLOUDLET_TRUST__INSECURE").stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut up = Up { child, api: String::new() };
    let mut document = String::new();
    for line in BufReader::new(up.child.stdout.take().unwrap()).lines() {
        document += &line.unwrap();
        if let Ok(ready) = serde_json::from_str::<Json>(&document) {
            up.api = format!("https://{}", ready["listen"].as_str().unwrap());
            return up;
        }
    }
    panic!("it ended: {}", std::fs::read_to_string(world.path("log")).unwrap());
}

fn cloudlet(world: &World, arguments: &[&str]) -> std::process::Command {
    let mut command = world.command(arguments);
    command.env_remove("CLOUDLET_TRUST__INSECURE");
    command
}

/// Runs a command until it succeeds with what is wanted.
fn until(world: &World, arguments: &[&str], good: impl Fn(&Json) -> bool) -> Json {
    let begin = Instant::now();
    loop {
        let ran = Ran::of(cloudlet(world, arguments).output().unwrap());
        if ran.code == 0 && good(&ran.json()) {
            return ran.json();
        }
        assert!(begin.elapsed() < LIMIT, "{arguments:?}: {} {}", ran.stdout, ran.stderr);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_cloudlet_that_is_killed_while_it_fetches_goes_on_after_its_next_start() {
    let authority = mission::authority();
    let mut holder = mission::join(&authority, "holder");
    let (store, _, speech) = exchange_support::holder(&holder.dir.path().join("noise"));
    holder.store = store;
    let at = free();
    holder.config.mesh.enabled = true;
    holder.config.mesh.multicast = false;
    holder.config.mesh.listen = Some(at);
    holder.config.exchange.rate_limit_kib_per_s = SERVED_KIB_PER_S;
    let serving = holder.daemon();

    let world = World::new();
    enlist(&authority, &world);
    let key = SigningKey::from_secret(&[1; 32]).public().to_string();
    world.run(&["image", "trust", &key]).succeeded();
    let first = up(&world, at);
    let serves = |peers: &Json| {
        peers.as_array().unwrap().iter().any(|peer| peer["name"] == "holder" && peer["reach"] == "neighbour")
    };
    until(&world, &["mesh", "--api", &first.api, "--json"], serves);
    // The command line asks, and is cut with the daemon.
    let fetching = begin(&world, &first);
    let before = a_third(&world, &first);
    drop(first);
    assert!(fetching.kill().stdout.is_empty(), "it was not done");
    assert!(
        before > NEEDED_BYTES / 4 && before < NEEDED_BYTES * 3 / 4,
        "killed at the wrong moment: {before}"
    );
    assert!(world.run(&["image", "show", "speech"]).code != 0, "half an image is none");

    // Nobody asks; it goes on by itself. Then somebody asks, and learns that it is on its way or here.
    let second = up(&world, at);
    let fetched = Ran::of(
        cloudlet(&world, &["image", "fetch", &speech.to_string(), "--api", &second.api, "--json"])
            .output()
            .unwrap(),
    );
    let fetched = fetched.succeeded().json();
    let after = fetched["fetch"]["wire_bytes"].as_u64().unwrap();
    eprintln!("{before} bytes before the kill, {after} after it; {NEEDED_BYTES} are needed");
    assert!(
        after > 0 && before + after < NEEDED_BYTES + LOST_BYTES,
        "{before} and {after} of {NEEDED_BYTES}"
    );
    world.run(&["image", "verify", "--all"]).succeeded();
    drop(second);
    serving.stop().unwrap();
}

/// A command line that fetches until it is killed.
struct Fetching(Child);

impl Fetching {
    fn kill(mut self) -> std::process::Output {
        let _ = self.0.kill();
        self.0.wait_with_output().unwrap()
    }
}

fn begin(world: &World, daemon: &Up) -> Fetching {
    let mut command = cloudlet(world, &["image", "fetch", "speech", "--api", &daemon.api]);
    Fetching(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// What came, once a third of what is needed has.
fn a_third(world: &World, daemon: &Up) -> u64 {
    let trust = Home::at(world.state_dir().join("trust")).load().unwrap().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let begin = Instant::now();
    runtime.block_on(async {
        let client = handheld::Client::with(&handheld::Access::Member(trust), &daemon.api).unwrap();
        loop {
            let fetches = client.image_fetches().await.unwrap();
            let came = fetches.first().map_or(0, |fetch| fetch.wire_bytes);
            if came > NEEDED_BYTES / 3 {
                return came;
            }
            assert!(begin.elapsed() < LIMIT, "{fetches:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}
