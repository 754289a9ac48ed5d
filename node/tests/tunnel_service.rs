//! Tunnels to Service VMs: what they carry, who gets one, what ends them. On a hypervisor without guests.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests use real time and may panic"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use handheld::api::{Code, MAX_TUNNELS, Revocations};
use handheld::{Access, Client, Endpoint, Options, Session, Way};
use mesh::trust::{Reason, Trust, revocation};
use reqwest::StatusCode;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

mod api_support;
use api_support::mission::{self, LAST_WORD, USE, client, code_of, ready};
use api_support::{Daemon, PATIENCE, World};

/// Longest that a cut may take. It is looked for every second; a busy machine fails no test.
const CUT_LIMIT: Duration = PATIENCE;

struct Site {
    authority: mesh::trust::Authority,
    world: World,
    daemon: Daemon,
    dir: TempDir,
}

impl Site {
    /// A cloudlet whose services echo.
    fn new() -> Self {
        let authority = mission::authority();
        let mut world = mission::join(&authority, "truck");
        // So that a forwarded port that followed the API's address would be seen.
        world.config.api.listen = ([0, 0, 0, 0], 0).into();
        world.hypervisor.serve_at(mission::echo());
        let daemon = world.daemon();
        Self { authority, world, daemon, dir: tempfile::tempdir().unwrap() }
    }

    fn hand(&self, name: &str) -> Trust {
        mission::handheld(&self.authority, USE, &self.dir.path().join(name))
    }

    fn client(&self, name: &str) -> Client {
        client(&self.daemon, &self.hand(name))
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from((n * 31 + n / 256) % 251).unwrap()).collect()
}

/// Sends all of it, says that that was all, and reads to the end.
async fn exchange(stream: impl AsyncRead + AsyncWrite, sent: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (read, ()) = tokio::join!(timeout(PATIENCE, reader.read_to_end(&mut heard)), send);
    read.unwrap().unwrap();
    heard
}

/// Waits until a stream is cut: an error, not the regular end.
async fn cut(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Error {
    let chunk = noise(4096);
    let begin = Instant::now();
    let mut echoed = vec![0; 4096];
    loop {
        let round = async {
            stream.write_all(&chunk).await?;
            stream.read_exact(&mut echoed).await
        };
        match timeout(CUT_LIMIT, round).await.expect("neither cut nor answered") {
            Err(error) => return error,
            Ok(_) => assert!(begin.elapsed() < CUT_LIMIT, "it is not cut"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_half_closes() {
    let site = Site::new();
    let hand = site.client("hand");
    let instance = ready(&hand, "echo", "me").await;
    let sent = noise(3_000_000);
    let tunnel = hand.tunnel(instance.id, "me").await.unwrap();
    let heard = exchange(tunnel, &sent).await;
    // The last word comes after the service saw the end of what was sent, so the half-close went through.
    assert!(heard == [&sent[..], LAST_WORD].concat(), "{} of {} bytes", heard.len(), sent.len());
    // The client goes on being heard after the service has said all.
    hand.release(instance.id, "me").await.unwrap();
    site.daemon.stop().unwrap();
}

#[tokio::test]
async fn strangers_find_no_port_of_a_service() {
    let authority = mission::authority();
    let mut world = mission::join(&authority, "truck");
    world.config.api.listen = ([0, 0, 0, 0], 0).into();
    let daemon = world.daemon();
    let dir = tempfile::tempdir().unwrap();
    let hand = client(&daemon, &mission::handheld(&authority, USE, dir.path()));
    let instance = ready(&hand, "echo", "me").await;
    assert_eq!(world.hypervisor.binds(), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let port = instance.address.unwrap().port();
    // The API is open on all addresses of this host, the service on one of them.
    for other in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 1, 2, 3)] {
        let api: SocketAddr = (other, mission::address(&daemon).port()).into();
        TcpStream::connect(api).await.unwrap();
        assert!(TcpStream::connect((other, port)).await.is_err(), "{other} serves strangers");
    }
    // Without a mission it goes on as before.
    daemon.stop().unwrap();
    let mut open = World::new();
    open.config.api.listen = ([0, 0, 0, 0], 0).into();
    let daemon = open.daemon();
    daemon.client.ready("echo", "me", "shared").await;
    assert_eq!(open.hypervisor.binds(), [IpAddr::V4(Ipv4Addr::UNSPECIFIED)]);
    daemon.stop().unwrap();
}

#[tokio::test]
async fn a_port_that_was_open_to_everybody_is_closed_when_the_cloudlet_has_a_mission() {
    let authority = mission::authority();
    let mut world = mission::join(&authority, "truck");
    world.config.api.listen = ([0, 0, 0, 0], 0).into();
    world.config.trust.insecure = true;
    let open = world.daemon();
    let instance = open.client.ready("echo", "me", "shared").await;
    open.kill();
    assert_eq!(world.hypervisor.running().len(), 1);
    world.config.trust.insecure = false;
    let daemon = world.daemon();
    let hypervisor = world.hypervisor.clone();
    api_support::eventually("its VM runs on", || hypervisor.running().is_empty()).await;
    let port = instance.address.unwrap();
    api_support::eventually("its port is open", || std::net::TcpStream::connect(port).is_err()).await;
    daemon.stop().unwrap();
}

#[tokio::test]
async fn a_member_revoked_in_mid_transfer_is_cut() {
    let mut site = Site::new();
    let (thief, friend) = (site.hand("thief"), site.client("friend"));
    let hand = client(&site.daemon, &thief);
    let instance = ready(&hand, "echo", "me").await;
    ready(&friend, "echo", "friend").await;
    let mut tunnel = hand.tunnel(instance.id, "me").await.unwrap();
    let mut friends = friend.tunnel(instance.id, "friend").await.unwrap();
    tunnel.write_all(b"before").await.unwrap();
    tunnel.read_exact(&mut [0; 6]).await.unwrap();
    let word = site.authority.revoke(thief.identity().member().serial, Reason::KeyCompromise, mission::now());
    let told = Revocations { encoded: hex::encode(revocation::encode([&word.unwrap()])) };
    friend.revoke(&told).await.unwrap();
    cut(&mut tunnel).await;
    assert!(hand.tunnel(instance.id, "me").await.is_err());
    // Nobody else is.
    friends.write_all(b"still").await.unwrap();
    friends.read_exact(&mut [0; 5]).await.unwrap();
    drop(friends);
    site.daemon.stop().unwrap();
}

#[tokio::test]
async fn the_token_of_somebody_else_opens_no_tunnel() {
    let site = Site::new();
    let (hand, other) = (site.client("hand"), site.client("other"));
    let instance = ready(&hand, "solo", "mine").await;
    let refused =
        async |client: &Client, id, token: &str| code_of(&client.tunnel(id, token).await.unwrap_err());
    assert_eq!(refused(&other, instance.id, "guess").await, Code::NotAllowed);
    assert_eq!(refused(&other, instance.id, "").await, Code::BadRequest);
    assert_eq!(refused(&other, uuid::Uuid::new_v4(), "mine").await, Code::UnknownInstance);
    hand.tunnel(instance.id, "mine").await.unwrap();
    // Nor does a certificate that does not allow the use of services.
    let guest =
        mission::handheld(&site.authority, mesh::trust::Permissions::NONE, &site.dir.path().join("guest"));
    assert_eq!(refused(&client(&site.daemon, &guest), instance.id, "mine").await, Code::NotAllowed);
    site.daemon.stop().unwrap();
}

#[tokio::test]
async fn what_does_not_ask_for_a_tunnel_gets_none() {
    let world = World::new();
    let daemon = world.daemon();
    let instance = daemon.client.ready("echo", "me", "shared").await;
    let path = format!("/instances/{}/tunnel?client_token=me", instance.id);
    let (status, body) = daemon.client.get(&path).await;
    assert_eq!((status, body["code"].as_str()), (StatusCode::UPGRADE_REQUIRED, Some("bad-request")));
    let other = daemon.client.http.get(daemon.client.url(&path));
    let answer = other.header("connection", "upgrade").header("upgrade", "websocket").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UPGRADE_REQUIRED);
    daemon.stop().unwrap();
}

#[tokio::test]
async fn a_member_has_so_many_tunnels_and_no_more() {
    let site = Site::new();
    let (hand, other) = (site.client("hand"), site.client("other"));
    let instance = ready(&hand, "echo", "me").await;
    ready(&other, "echo", "other").await;
    let mut tunnels = Vec::new();
    for _ in 0..MAX_TUNNELS {
        tunnels.push(hand.tunnel(instance.id, "me").await.unwrap());
    }
    let refused = hand.tunnel(instance.id, "me").await.unwrap_err();
    assert_eq!(code_of(&refused), Code::TooManyTunnels);
    other.tunnel(instance.id, "other").await.unwrap();
    drop(tunnels.pop());
    let begin = Instant::now();
    while let Err(error) = hand.tunnel(instance.id, "me").await {
        assert_eq!(code_of(&error), Code::TooManyTunnels);
        assert!(begin.elapsed() < PATIENCE, "a closed tunnel keeps its place");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(tunnels);
    site.daemon.stop().unwrap();
}

#[tokio::test]
async fn tunnels_end_with_the_use_of_the_instance_and_with_the_daemon() {
    let site = Site::new();
    let (hand, other) = (site.client("hand"), site.client("other"));
    let instance = ready(&hand, "echo", "me").await;
    ready(&other, "echo", "other").await;
    let mut mine = hand.tunnel(instance.id, "me").await.unwrap();
    let mut others = other.tunnel(instance.id, "other").await.unwrap();
    // Another one still uses it, so the instance runs on.
    hand.release(instance.id, "me").await.unwrap();
    cut(&mut mine).await;
    others.write_all(b"on").await.unwrap();
    others.read_exact(&mut [0; 2]).await.unwrap();
    // The last one stops it.
    other.release(instance.id, "other").await.unwrap();
    cut(&mut others).await;
    let next = ready(&hand, "echo", "me").await;
    let mut last = hand.tunnel(next.id, "me").await.unwrap();
    let begin = Instant::now();
    site.daemon.stop().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "the daemon waited for a tunnel");
    cut(&mut last).await;
}

#[tokio::test]
async fn a_session_has_a_local_address_for_any_program() {
    let site = Site::new();
    let options = Options {
        cloudlet: Some(format!("127.0.0.1:{}", mission::address(&site.daemon).port())),
        ..Options::new("echo".parse().unwrap())
    };
    let mut options = options;
    options.search.access = Access::Member(site.hand("hand"));
    let session = Session::open(&options, &|_| {}).await.unwrap();
    let address = session.address();
    assert!(address.ip().is_loopback() && Some(address) != session.instance().address, "{address}");
    let sent = noise(200_000);
    let one = TcpStream::connect(address).await.unwrap();
    let two = TcpStream::connect(address).await.unwrap();
    let (first, second) = tokio::join!(exchange(one, &sent), exchange(two, b"two"));
    assert!(first == [&sent[..], LAST_WORD].concat() && second == [b"two", LAST_WORD].concat());
    session.release().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the address outlives its session");
    site.daemon.stop().unwrap();
}

#[tokio::test]
async fn a_local_address_stays_when_the_way_changes_and_a_cut_is_no_end() {
    let site = Site::new();
    let second = {
        let world = mission::join(&site.authority, "tent");
        world.hypervisor.serve_at(mission::echo());
        world
    };
    let second_daemon = second.daemon();
    let trust = site.hand("hand");
    let (here, there) = (client(&site.daemon, &trust), client(&second_daemon, &trust));
    let way = async |client: &Client| {
        let instance = ready(client, "echo", "me").await.id;
        Way::Service { client: client.clone(), instance, client_token: "me".to_owned() }
    };
    let (first, next) = (way(&here).await, way(&there).await);
    let endpoint = Endpoint::open(first).unwrap();
    let mut open = TcpStream::connect(endpoint.address()).await.unwrap();
    open.write_all(b"a").await.unwrap();
    open.read_exact(&mut [0; 1]).await.unwrap();
    endpoint.lead(next);
    site.daemon.stop().unwrap();
    let error = cut(&mut open).await;
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionReset,
        "not an end that a program takes for the whole"
    );
    let again = TcpStream::connect(endpoint.address()).await.unwrap();
    assert_eq!(exchange(again, b"there").await, [b"there", LAST_WORD].concat());
    second_daemon.stop().unwrap();
    // With nobody behind it, a connection is reset.
    let mut nobody = TcpStream::connect(endpoint.address()).await.unwrap();
    let read = timeout(PATIENCE, nobody.read(&mut [0; 1])).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(site.world.instance_dirs().is_empty());
}
