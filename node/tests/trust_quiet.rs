//! A quiet mission on a real link: two daemons and a handheld in network namespaces, and an ear that hears every packet.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests use real time and may panic"
)]

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use handheld::api::ShowCode;
use handheld::{Access, Client, Error, Options, Session, Where, pair};
use mesh::trust::{Home, Rules};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod api_support;
#[path = "../../mesh/tests/support/mod.rs"]
mod netns;
use api_support::{Daemon, PATIENCE, World, mission};
use netns::{Namespace, can_make_namespaces, linked_pair};

/// Hears every frame of a namespace, in either direction.
struct Ear {
    frames: Arc<AtomicUsize>,
    multicast: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    fn of(namespace: &Namespace) -> Self {
        let (frames, multicast) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (counted, heard, stopping) = (frames.clone(), multicast.clone(), stop.clone());
        let (open, is_open) = std::sync::mpsc::channel();
        let thread = namespace.spawn(move || {
            // ETH_P_ALL, in network order.
            let all = Protocol::from(i32::from(3_u16.to_be()));
            let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            open.send(()).unwrap();
            let mut frame = [0; 2048];
            while !stopping.load(Ordering::Relaxed) {
                let Ok(length) = socket.read(&mut frame) else { continue };
                counted.fetch_add(1, Ordering::Relaxed);
                if let Some(to) = to_many(&frame[..length]) {
                    println!("to many: {to}");
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        is_open.recv().unwrap();
        Self { frames, multicast, stop, thread: Some(thread) }
    }

    /// Frames in all, and those of them that were for many.
    fn heard(&self) -> (usize, usize) {
        (self.frames.load(Ordering::Relaxed), self.multicast.load(Ordering::Relaxed))
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is for more than one receiver, apart from ARP, which the kernel sends to find the one that is asked for.
fn to_many(frame: &[u8]) -> Option<String> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let is_group = frame.first()? & 1 == 1;
    match *kind {
        [0x08, 0x06] => None,
        [0x08, 0x00] => {
            let to = std::net::Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
            (is_group || to.is_multicast() || to.is_broadcast()).then(|| to.to_string())
        }
        [0x86, 0xdd] => {
            let to = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?);
            (is_group || to.is_multicast()).then(|| to.to_string())
        }
        _ => is_group.then(|| "no IP".to_owned()),
    }
}

/// Two namespaces on one link without IPv6, whose neighbour discovery is the kernel's multicast, not ours.
fn site(tag: &str) -> (Namespace, Namespace) {
    let (a, b) = linked_pair(tag);
    for namespace in [&a, &b] {
        namespace.run(|| {
            for which in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").unwrap();
            }
        });
    }
    (a, b)
}

/// A cloudlet with the defaults, which are loud, in its own network.
fn cloudlet(authority: &mesh::trust::Authority, name: &str, is_quiet: bool, peer: Option<&str>) -> World {
    let mut world = mission::join(authority, name);
    world.config.mission.quiet = is_quiet;
    world.config.discovery.enabled = true;
    world.config.mesh.enabled = true;
    world.config.mesh.multicast = true;
    world.config.mesh.peers = peer.into_iter().map(str::to_owned).collect();
    // Nobody else is in this network, so the usual ports are free.
    world.config.api.listen = "0.0.0.0:8477".parse().unwrap();
    world.config.trust.pairing_listen = None;
    world
}

fn start(world: World, namespace: &Namespace) -> (World, Daemon) {
    namespace.run(move || {
        // The service is in the same network.
        world.hypervisor.serve_at(mission::echo());
        let daemon = world.daemon();
        (world, daemon)
    })
}

fn block_on<T: Send + 'static>(namespace: &Namespace, work: impl Future<Output = T> + Send + 'static) -> T {
    namespace
        .run(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work))
}

async fn acquainted(client: &Client, count: usize) {
    let begin = Instant::now();
    while client.peers().await.unwrap().len() != count {
        assert!(begin.elapsed() < 3 * PATIENCE, "they do not find each other");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_quiet_mission_sends_no_multicast_and_is_joined_paired_and_used_by_address() {
    if !can_make_namespaces() {
        return;
    }
    let (a, b) = site("quiet");
    let ears = [Ear::of(&a), Ear::of(&b)];
    // The mission says so in its certificate, and nobody's configuration does.
    let authority = mission::authority_with(Rules { quiet: true, ..Rules::default() });
    let (one, one_daemon) = start(cloudlet(&authority, "one", false, None), &a);
    let (_two, two_daemon) = start(cloudlet(&authority, "two", false, Some("10.77.0.1:8479")), &b);
    let operator = one.config.trust_home().load().unwrap().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path().join("hand"));

    // They join by address, and the cloudlet shows a QR code.
    let shown = block_on(&a, async move {
        let operator =
            Client::reaching(&Access::Member(operator), "127.0.0.1:8477".parse().unwrap()).unwrap();
        acquainted(&operator, 2).await;
        operator.show_code(&ShowCode { allow: None }).await.unwrap()
    });
    // A handheld on the other side of the link reads it, and uses a service by address.
    block_on(&b, async move {
        let paired = pair(&home, &Where::Invited(shown.invitation.parse().unwrap()), "hand").await.unwrap();
        let mut options = Options::new("echo".parse().unwrap());
        options.search.access = Access::Member(paired.trust.clone());
        // Told no address, it asks for one and calls out for nobody.
        let unnamed = Session::open(&options, &|_| {}).await.unwrap_err();
        assert!(matches!(unnamed, Error::Quiet), "{unnamed:?}");
        assert!(unnamed.next_step().unwrap().contains("--cloudlet"));
        options.cloudlet = Some("10.77.0.1:8477".to_owned());
        let session = Session::open(&options, &|_| {}).await.unwrap();
        let mut program = tokio::net::TcpStream::connect(session.address()).await.unwrap();
        program.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        program.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        session.release().await.unwrap();
    });
    // Long enough for what a loud one repeats: its first hail and its first announcement take less than a second.
    std::thread::sleep(Duration::from_secs(5));
    one_daemon.stop().unwrap();
    two_daemon.stop().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    for (ear, whose) in ears.iter().zip(["one", "two"]) {
        let (frames, multicast) = ear.heard();
        println!("{whose}: {frames} frames, {multicast} of them for many");
        assert!(frames > 50, "the ear of {whose} is deaf: {frames}");
        assert_eq!(multicast, 0, "packets for many in the network of {whose}");
    }
    drop(ears);

    // A cloudlet that is quiet by its own configuration, in a mission that is not.
    let authority = mission::authority();
    let ear = Ear::of(&a);
    let (_, quiet) = start(cloudlet(&authority, "quiet", true, None), &a);
    std::thread::sleep(Duration::from_secs(2));
    quiet.stop().unwrap();
    assert_eq!(ear.heard().1, 0);
    // One that is not: the ear does hear.
    let (_, loud) = start(cloudlet(&authority, "loud", false, None), &a);
    let begin = Instant::now();
    while ear.heard().1 == 0 {
        assert!(begin.elapsed() < PATIENCE, "nothing would have been heard anyway");
        std::thread::sleep(Duration::from_millis(20));
    }
    loud.stop().unwrap();
}
