//! A bare node of the mesh, to measure what the mesh costs and how fast it is.
//!
//! ```text
//! mesh_node mission DIR COUNT           makes a mission and COUNT enrolled devices in DIR
//! mesh_node node DIR/INDEX [options]    runs one of them
//!   --listen MULTIADDR    (repeatable; default /ip4/0.0.0.0/udp/0/quic-v1)
//!   --peer MULTIADDR      (repeatable) rendezvous address
//!   --hail                call out on the local network by multicast
//!   --mdns                also run libp2p's mDNS
//! ```
//!
//! A node prints JSON lines: `{"unix_ms":…,"event":"joined","node":"…","members":…}`; for `changed` also `"name"`,
//! for `neighbour-down` also `"why"`.
//! It reads commands from standard input: `event TEXT` changes its advert's name, `announce TEXT` sends a notice,
//! `status` prints members, neighbours and counters, `leave` says goodbye. End of input is no command: it stays.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh::advert::{Advert, Capabilities, Gpu};
use mesh::membership::{Event, Reach};
use mesh::swarm::{self, Config, Hail, Mdns, MissionVerifier, Multiaddr};
use mesh::trust::{Authority, Bundle, Device, Grant, Home, Permissions, Request, Role, Trust, Window, files};
use mesh::{NodeId, trust};
use rand::SeedableRng;
use serde_json::json;
use vm_images::manifest::Accelerator;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["mission", directory, count] => mission(Path::new(directory), count.parse()?),
        ["node", home, options @ ..] => {
            // One thread: fifty of these share a machine.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(node(PathBuf::from(home), options))
        }
        _ => Err("usage: mesh_node mission DIR COUNT | mesh_node node DIR/INDEX [--listen A] [--peer A] [--hail] [--mdns]".into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "a program that measures reads the clock")]
fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

fn mission(directory: &Path, count: usize) -> Result<(), Failure> {
    let now = unix_ms() / 1000;
    let window = Window { not_before_unix_s: now - 3600, not_after_unix_s: now + 86_400 };
    let authority = Authority::create("measurement", window)?;
    let mut rng = rand::rngs::StdRng::seed_from_u64(now);
    for index in 0..count {
        let home = directory.join(index.to_string());
        files::private_directory(&home)?;
        let device = Home::at(&home).device()?;
        let bundle = enroll(&authority, &device, NodeId::generate(&mut rng), index)?;
        Home::at(&home).join(&bundle)?;
    }
    Ok(())
}

fn enroll(
    authority: &Authority,
    device: &Device,
    node: NodeId,
    index: usize,
) -> Result<Bundle, trust::Error> {
    let request = device.request(Role::Cloudlet(node), &format!("node-{index}"))?;
    let permissions = Permissions::NONE;
    let grant = Grant { permissions, may_enroll: None, not_after_unix_s: None };
    authority.enroll(&Request::from_der(&request)?, grant)
}

struct Options {
    listen: Vec<Multiaddr>,
    peers: Vec<String>,
    hail: bool,
    mdns: bool,
}

fn options(words: &[&str]) -> Result<Options, Failure> {
    let mut options = Options { listen: Vec::new(), peers: Vec::new(), hail: false, mdns: false };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--hail" => options.hail = true,
            "--mdns" => options.mdns = true,
            "--listen" => options.listen.push(words.next().ok_or("--listen needs an address")?.parse()?),
            "--peer" => options.peers.push((*words.next().ok_or("--peer needs an address")?).to_owned()),
            other => return Err(format!("unknown option '{other}'").into()),
        }
    }
    if options.listen.is_empty() {
        options.listen.push("/ip4/0.0.0.0/udp/0/quic-v1".parse()?);
    }
    Ok(options)
}

fn advert(node: NodeId, name: &str) -> Advert {
    let capabilities = Capabilities {
        accelerator: Accelerator::Tcg,
        gpu: Gpu::None,
        architecture: "x86_64".to_owned(),
        cpu_models: ["Nehalem".to_owned()].into(),
        machines: ["pc-q35-10.0".to_owned()].into(),
        guest_systems: ["debian-12".to_owned()].into(),
        guest_speed_permille: Some(83),
    };
    Advert::new(node, name.to_owned(), capabilities)
}

async fn node(home: PathBuf, words: &[&str]) -> Result<(), Failure> {
    let options = options(words)?;
    let trust: Trust = Home::at(&home).load()?.ok_or("no such device; make a mission first")?;
    let identity = swarm::identity(&trust)?;
    let own = identity.node;
    let mut seed = [0; 8];
    seed.copy_from_slice(&own.as_bytes()[..8]);
    let mut config = Config::new(identity, options.listen, swarm::topic(&trust), u64::from_be_bytes(seed));
    config.core.rendezvous = options.peers;
    if options.hail {
        config.hail = Some(Hail::of(&trust));
    }
    if options.mdns {
        config.mdns = Mdns::On;
    }
    let mut local = advert(own, "start");
    let (handle, running) = swarm::start(config, Box::new(MissionVerifier::new(trust)), local.clone())?;
    let mut events = handle.events();
    let mut notices = handle.notices();
    let mut lines = commands();
    let listening = handle.listening().await?;
    let listening: Vec<String> = listening.iter().map(ToString::to_string).collect();
    println!("{}", json!({"unix_ms": unix_ms(), "event": "started", "node": own, "listening": listening}));
    let mut is_open = true;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => print(&handle, &event),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(_) => break,
            },
            Ok(notice) = notices.recv() => {
                let text = String::from_utf8_lossy(&notice.bytes).into_owned();
                println!("{}", json!({"unix_ms": unix_ms(), "event": "notice", "node": notice.from, "text": text}));
            }
            line = lines.recv(), if is_open => match line {
                None => is_open = false,
                Some(line) => match line.split_once(' ').unwrap_or((line.as_str(), "")) {
                    ("event", text) => {
                        local.name = text.to_owned();
                        println!("{}", json!({"unix_ms": unix_ms(), "event": "said", "node": own, "name": text}));
                        handle.set_local(local.clone()).await?;
                    }
                    ("announce", text) => drop(handle.announce(text.as_bytes().to_vec()).await?),
                    ("status", _) => status(&handle).await?,
                    ("leave", _) => {
                        handle.leave().await?;
                        break;
                    }
                    (other, _) => eprintln!("mesh_node: unknown command '{other}'"),
                },
            },
        }
    }
    tokio::time::timeout(Duration::from_secs(3), running.ended()).await??;
    Ok(())
}

/// Lines of standard input, by a thread of their own: a blocking read would hold up the only other one.
fn commands() -> tokio::sync::mpsc::Receiver<String> {
    let (to_node, lines) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if to_node.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn print(handle: &swarm::Handle, event: &Event) {
    let (kind, node) = match event {
        Event::Joined(node) => ("joined", *node),
        Event::Changed(node) => ("changed", *node),
        Event::Left(node) => ("left", *node),
        Event::Unreachable(node) => ("unreachable", *node),
        Event::Forgotten(node) => ("forgotten", *node),
        Event::Expelled(node) => ("expelled", *node),
        Event::NeighbourUp(node) => ("neighbour-up", *node),
        Event::NeighbourDown(node, _) => ("neighbour-down", *node),
        Event::Revocation(_) => return,
    };
    let members = handle.members();
    let members = members.borrow();
    let there = members.values().filter(|member| !matches!(member.reach, Reach::UnreachableSince(_))).count();
    let name = members.get(&node).map(|member| member.advert.name.clone());
    let mut line = json!({"unix_ms": unix_ms(), "event": kind, "node": node, "name": name, "members": there});
    if let Event::NeighbourDown(_, why) = event {
        line["why"] = format!("{why:?}").to_lowercase().into();
    }
    println!("{line}");
}

async fn status(handle: &swarm::Handle) -> Result<(), Failure> {
    let members = handle.members().borrow().clone();
    let there = members.values().filter(|member| !matches!(member.reach, Reach::UnreachableSince(_))).count();
    let neighbours = handle.neighbours().await?;
    let rtts: Vec<Option<u128>> = neighbours.values().map(|rtt| rtt.map(|rtt| rtt.as_micros())).collect();
    let counters = handle.counters();
    println!(
        "{}",
        json!({
            "unix_ms": unix_ms(), "event": "status", "members": there, "known": members.len(),
            "neighbours": neighbours.keys().collect::<Vec<_>>(), "rtt_us": rtts,
            "frames_sent": counters.frames_sent, "bytes_sent": counters.bytes_sent,
            "peers_cut": counters.peers_cut,
        })
    );
    Ok(())
}
