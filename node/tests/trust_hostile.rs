//! A thousand hostile peers against one cloudlet, from a process of their own, while it goes on serving its own.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests use real time and may panic"
)]

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh::swarm::{self, MissionVerifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

mod api_support;
use api_support::fleet::{Site, acquainted, sites};
use api_support::mission::{self, USE, client, ready};
use api_support::{PATIENCE, eventually};

/// Where the hostile process finds its victim: addresses of API and mesh.
const VICTIM: &str = "CLOUDLET_TEST_VICTIM";
/// How many there are of each kind; a thousand in all.
const SILENT: usize = 300;
const RUDE: usize = 100;
const STRANGERS: usize = 100;
const SILENT_IN_MESH: usize = 150;
const RUBBISH: usize = 150;
const OTHER_MISSION: usize = 200;
/// Rounds in which the handheld is served.
const ROUNDS: u32 = 30;
/// What the daemons may take more while all this goes on. A guess: four times the 256 handshakes of API and mesh each, at
/// 40 kB.
const MAX_GROWTH_BYTES: u64 = 80 << 20;

/// From many addresses of one network, which is not that of the honest ones.
fn source(number: usize) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 1, u8::try_from(2 + number % 50).unwrap()), 0).into()
}

async fn connect(number: usize, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(source(number))?;
    socket.connect(to).await
}

/// Waits until the other side hangs up.
async fn hold(mut stream: TcpStream) {
    let mut bytes = [0; 1024];
    while matches!(stream.read(&mut bytes).await, Ok(1..)) {}
}

/// Bytes without order.
fn rubbish(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// One hostile peer of a kind, once.
async fn strike(kind: usize, number: usize, api: SocketAddr, mesh: SocketAddr) -> std::io::Result<()> {
    match kind {
        // Connects and says nothing.
        0 => hold(connect(number, api).await?).await,
        // Speaks something else.
        1 => {
            let mut stream = connect(number, api).await?;
            let said =
                if number.is_multiple_of(2) { b"GET / HTTP/1.1\r\n\r\n".to_vec() } else { rubbish(7, 4000) };
            stream.write_all(&said).await?;
            hold(stream).await;
        }
        // Speaks TLS and has no certificate.
        2 => {
            let config = Arc::new(mesh::trust::tls::nobody().unwrap());
            let name = tokio_rustls::rustls::pki_types::ServerName::from(IpAddr::from([127, 0, 0, 1]));
            let tls = tokio_rustls::TlsConnector::from(config);
            tls.connect(name, connect(number, api).await?).await?;
        }
        3 => hold(connect(number, mesh).await?).await,
        // What begins like QUIC and goes on like nothing.
        _ => {
            let socket = UdpSocket::bind(source(number)).await?;
            socket.connect(mesh).await?;
            for n in 0..20 {
                let mut packet = rubbish(number as u64 * 1000 + n, 1200);
                if u64::is_multiple_of(n, 2) {
                    // A long header, version 1.
                    packet[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
                }
                socket.send(&packet).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    Ok(())
}

/// The hostile process. Without a victim, as when all tests are run, there is nothing to do.
#[test]
fn hostile_process() {
    let Ok(victim) = std::env::var(VICTIM) else { return };
    let (api, mesh) = victim.split_once(' ').unwrap();
    let (api, mesh): (SocketAddr, SocketAddr) = (api.parse().unwrap(), mesh.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let strikes = Arc::new(AtomicU64::new(0));
        let counts = [SILENT, RUDE, STRANGERS, SILENT_IN_MESH, RUBBISH];
        for (kind, count) in counts.into_iter().enumerate() {
            for number in 0..count {
                let strikes = strikes.clone();
                tokio::spawn(async move {
                    loop {
                        strikes.fetch_add(1, Ordering::Relaxed);
                        let _ = strike(kind, number, api, mesh).await;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                });
            }
        }
        // Members of another mission: their libp2p is as good as ours, their certificates are not.
        let authority = mission::authority();
        let mut others = Vec::new();
        for number in 0..OTHER_MISSION {
            let trust = mission::cloudlet(&authority);
            let identity = swarm::identity(&trust).unwrap();
            let node = identity.node;
            let last = 60 + number % 50;
            let listen = vec![format!("/ip4/127.0.1.{last}/udp/0/quic-v1").parse().unwrap()];
            let mut config = swarm::Config::new(identity, listen, swarm::topic(&trust), rand::random());
            config.core.rendezvous = vec![format!("/ip4/{}/udp/{}/quic-v1", mesh.ip(), mesh.port())];
            let advert = mission::advert(node, "other");
            others.push(swarm::start(config, Box::new(MissionVerifier::new(trust)), advert).unwrap());
            strikes.fetch_add(1, Ordering::Relaxed);
        }
        println!("all there");
        loop {
            println!("strikes {}", strikes.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

struct Hostile {
    child: Child,
    strikes: Arc<AtomicU64>,
    all_there: Arc<AtomicU64>,
}

impl Hostile {
    fn against(site: &Site) -> Self {
        let api = mission::address(site.daemon());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hostile_process", "--nocapture", "--test-threads", "1"])
            .env(VICTIM, format!("{api} {}", site.mesh()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (strikes, all_there) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, there) = (strikes.clone(), all_there.clone());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(number) = line.strip_prefix("strikes ") {
                    counted.store(number.parse().unwrap(), Ordering::Relaxed);
                } else if line.contains("all there") {
                    there.store(1, Ordering::Relaxed);
                }
            }
        });
        Self { child, strikes, all_there }
    }

    fn strikes(&self) -> u64 {
        self.strikes.load(Ordering::Relaxed)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of this process that is in use, bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hostile_peers_do_not_stop_a_cloudlet_from_serving_its_own() {
    let authority = mission::authority();
    let sites = sites(&authority, &["struck", "other"], |_| ());
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    let there = client(sites[1].daemon(), &trust);
    acquainted(&there, 2).await;
    client(sites[0].daemon(), &trust).cloudlet().await.unwrap();
    let before = resident_bytes();
    let mut hostile = Hostile::against(&sites[0]);
    let begin = Instant::now();
    while hostile.all_there.load(Ordering::Relaxed) == 0 || hostile.strikes() < 1000 {
        assert!(hostile.child.try_wait().unwrap().is_none(), "the hostile process ended");
        assert!(begin.elapsed() < 10 * PATIENCE, "only {} came", hostile.strikes());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut slowest, mut slowest_news) = (Duration::ZERO, Duration::ZERO);
    let (mut most, mut most_files) = (0, 0);
    let first = hostile.strikes();
    for round in 0..ROUNDS {
        // A new connection each time: what has one already is not at the mercy of the door.
        let hand = client(sites[0].daemon(), &trust);
        let asked = Instant::now();
        let token = format!("hand {round}");
        let instance =
            tokio::time::timeout(PATIENCE, ready(&hand, "echo", &token)).await.expect("not served");
        let mut tunnel = tokio::time::timeout(PATIENCE, hand.tunnel(instance.id, &token))
            .await
            .expect("no tunnel")
            .unwrap();
        tunnel.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        tokio::time::timeout(PATIENCE, tunnel.read_exact(&mut heard)).await.expect("no answer").unwrap();
        assert_eq!(&heard, b"hello");
        slowest = slowest.max(asked.elapsed());
        // The other cloudlet hears of the instance, and that it has gone.
        for instances in [1, 0] {
            let told = Instant::now();
            if instances == 0 {
                hand.release(instance.id, &token).await.unwrap();
            }
            loop {
                let peers = tokio::time::timeout(PATIENCE, there.peers()).await.expect("no answer").unwrap();
                let struck = peers.iter().find(|peer| peer.name == "struck").unwrap();
                if struck.load.instances == instances {
                    break;
                }
                assert!(
                    told.elapsed() < PATIENCE,
                    "round {round}: the other cloudlet hears nothing: {struck:?}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            slowest_news = slowest_news.max(told.elapsed());
        }
        most = most.max(resident_bytes());
        most_files = most_files.max(open_files());
    }
    let strikes = hostile.strikes() - first;
    let grown = most.saturating_sub(before);
    println!(
        "{ROUNDS} rounds during {strikes} more strikes: slowest service {slowest:?}, slowest news {slowest_news:?}; memory \
         {} KiB, {} KiB more at most; {most_files} files open at most",
        before / 1024,
        grown / 1024
    );
    assert!(hostile.child.try_wait().unwrap().is_none(), "the hostile process ended before it was over");
    assert!(strikes > 0, "nothing was shown");
    assert!(grown < MAX_GROWTH_BYTES, "{grown} bytes more");
    // A cloudlet that comes only now is let in.
    let late = mission::join(&authority, "late");
    let mut late = late;
    late.config.mesh.enabled = true;
    late.config.mesh.multicast = false;
    late.config.mesh.listen = Some(([127, 0, 0, 1], 0).into());
    late.config.mesh.peers = vec![sites[0].mesh().to_string()];
    let daemon = late.daemon();
    acquainted(&there, 3).await;
    drop(hostile);
    eventually("connections of strangers are kept", || open_files() < most_files.max(200) / 2 + 100).await;
    daemon.stop().unwrap();
    sites.into_iter().for_each(Site::stop);
}
