//! What the way inside TLS costs: a service's forwarded port directly, through the cloudlet's API, and through another
//! cloudlet's. On loopback with a service that echoes, so what is measured is the work, not a network:
//! `cargo bench -p node --bench tunnel`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a bench reads the clock and may panic")]

#[path = "../tests/api_support/mod.rs"]
mod api_support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api_support::mission::{self, USE};
use api_support::ports::free;
use handheld::{Access, Client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connections whose time to the first byte is taken.
const CONNECTIONS: usize = 50;
/// Bytes that are echoed for the rate: each goes both ways.
const ECHOED_BYTES: usize = 32 << 20;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let authority = mission::authority();
    let listens: Vec<SocketAddr> = (0..2).map(|_| free()).collect();
    let service = mission::echo();
    let worlds = [0, 1].map(|number: usize| {
        let mut world = mission::join(&authority, &format!("c{number}"));
        world.config.mesh.enabled = true;
        world.config.mesh.multicast = false;
        world.config.mesh.listen = Some(listens[number]);
        world.config.mesh.peers = vec![listens[1 - number].to_string()];
        world.hypervisor.serve_at(service);
        world
    });
    let daemons = [worlds[0].daemon(), worlds[1].daemon()];
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    let (near, far) = (mission::client(&daemons[0], &trust), mission::client(&daemons[1], &trust));
    while near.peers().await.unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let through = Client::through(&Access::Member(trust.clone()), &near, mission::node(&worlds[1])).unwrap();
    let instance = mission::ready(&far, "echo", "me").await;
    let direct = far.endpoint(instance.id, "me").unwrap().unwrap();
    let relayed = through.endpoint(instance.id, "me").unwrap().unwrap();
    println!("way                         first byte, ms (median, p95)   echoed, MB/s each way");
    for (name, address) in [
        ("forwarded port", service),
        ("through the API", direct.address()),
        ("through another cloudlet", relayed.address()),
    ] {
        let (median, p95) = first_bytes(address).await;
        println!("{name:26}  {median:6.2} {p95:7.2}                  {:8.1}", rate(address).await);
    }
    for daemon in daemons {
        daemon.stop().unwrap();
    }
}

async fn first_bytes(address: SocketAddr) -> (f64, f64) {
    let mut took = Vec::new();
    for _ in 0..CONNECTIONS {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        took.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    (took[CONNECTIONS / 2], took[CONNECTIONS * 95 / 100])
}

async fn rate(address: SocketAddr) -> f64 {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let begin = Instant::now();
    let sending = tokio::spawn(async move {
        let chunk = vec![7; 64 << 10];
        for _ in 0..ECHOED_BYTES / chunk.len() {
            writer.write_all(&chunk).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut chunk = vec![0; 64 << 10];
    let mut heard = 0;
    while let read @ 1.. = reader.read(&mut chunk).await.unwrap() {
        heard += read;
    }
    sending.await.unwrap();
    assert_eq!(heard, ECHOED_BYTES + mission::LAST_WORD.len());
    ECHOED_BYTES as f64 / 1e6 / begin.elapsed().as_secs_f64()
}
