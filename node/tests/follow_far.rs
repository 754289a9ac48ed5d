//! An endpoint that follows, with real daemons, their mesh and a mission: through another cloudlet, and back to a direct way.
//! On hypervisors without guests.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use real time and may panic")]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use handheld::follow::{Mode, Settings, Status};
use handheld::{Access, Client, Follow, Options, Session};
use mesh::NodeId;
use mesh::trust::{Authority, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod api_support;
use api_support::mission::{self, LAST_WORD, USE, address, client};
use api_support::{Daemon, PATIENCE, World};

struct Site {
    node: NodeId,
    world: World,
    daemon: Daemon,
}

/// A free port for the mesh. Somebody else may take it before the daemon does, and then the test fails to start.
fn free() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn sites(authority: &Authority, names: [&str; 2]) -> Vec<Site> {
    let listens = names.map(|_| free());
    let start = |(name, listen): (&str, &SocketAddr)| {
        let mut world = mission::join(authority, name);
        world.config.mesh.enabled = true;
        world.config.mesh.multicast = false;
        world.config.mesh.listen = Some(*listen);
        let others = listens.iter().filter(|other| *other != listen);
        world.config.mesh.peers = others.map(ToString::to_string).collect();
        world.hypervisor.serve_at(mission::echo());
        Site { node: mission::node(&world), daemon: world.daemon(), world }
    };
    names.into_iter().zip(&listens).map(start).collect()
}

async fn acquainted(client: &Client) {
    let begin = Instant::now();
    loop {
        let peers = client.peers().await.unwrap();
        let reached = |peer: &&handheld::api::Peer| peer.reach != handheld::api::PeerReach::Unreachable;
        if peers.iter().filter(reached).count() == 2 {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{peers:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn echoes(follow: &Follow) {
    let talk = async {
        let mut program = TcpStream::connect(follow.address()).await.unwrap();
        program.write_all(b"still there?").await.unwrap();
        program.shutdown().await.unwrap();
        let mut heard = Vec::new();
        program.read_to_end(&mut heard).await.unwrap();
        heard
    };
    let heard = tokio::time::timeout(PATIENCE, talk).await.unwrap();
    assert_eq!(heard, [b"still there?", LAST_WORD].concat());
}

fn options(trust: &Trust) -> Options {
    let mut options = Options::new("echo".parse().unwrap());
    options.search.access = Access::Member(trust.clone());
    options
}

fn settings() -> Settings {
    Settings { mode: Mode::Tcp, patience: PATIENCE, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_followed_through_another_cloudlet_and_to_a_direct_way_when_there_is_one() {
    let authority = mission::authority();
    let sites = sites(&authority, ["near", "far"]);
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    let near = client(&sites[0].daemon, &trust);
    acquainted(&near).await;

    let options = Options { via: Some(near.url().to_owned()), ..options(&trust) };
    let session = Session::open(&options, &|_| {}).await.unwrap();
    assert_eq!(session.cloudlet().node, sites[1].node);
    let follow = Follow::around(session, &options.search, false, settings()).await.unwrap();
    let mut status = follow.status();
    let begun = status.borrow_and_update().clone();
    assert!(matches!(&begun, Status::Serving { url, .. } if url.contains("/peers/")), "{begun:?}");
    echoes(&follow).await;
    // The near one tells where the far one's API is; it is in range after all.
    let direct = |status: &Status| matches!(status, Status::Serving { url, .. } if !url.contains("/peers/"));
    let now = tokio::time::timeout(PATIENCE, status.wait_for(direct)).await.unwrap().unwrap().clone();
    let expected = Status::Serving {
        node: sites[1].node,
        url: format!("https://{}", address(&sites[1].daemon)),
        generation: 1,
    };
    assert_eq!(now, expected);
    echoes(&follow).await;
    follow.release().await.unwrap();
    assert_eq!(sites[1].world.hypervisor.clones(), 1);
    for site in sites {
        site.daemon.stop().unwrap();
    }
}
