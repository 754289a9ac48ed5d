//! An endpoint that follows, with real daemons, their mesh and a mission: through another cloudlet, and back to a direct way.
//! On hypervisors without guests.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use real time and may panic")]

use std::net::SocketAddr;

use handheld::follow::{Mode, Settings, Status};
use handheld::{Access, Follow, Options, Session};
use mesh::trust::Trust;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

mod api_support;
use api_support::PATIENCE;
use api_support::fleet::{acquainted, sites};
use api_support::mission::{self, LAST_WORD, USE, address, client};

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
    let sites = sites(&authority, &["near", "far"], |_| {});
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    let near = client(sites[0].daemon(), &trust);
    acquainted(&near, 2).await;

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
        url: format!("https://{}", address(sites[1].daemon())),
        generation: 1,
    };
    assert_eq!(now, expected);
    echoes(&follow).await;
    follow.release().await.unwrap();
    assert_eq!(sites[1].world.hypervisor.clones(), 1);
    for site in sites {
        site.stop();
    }
}

/// A way to an address that ends when the task does.
async fn carry(listener: TcpListener, to: SocketAddr) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (mut local, _) = listener.accept().await.unwrap();
        connections.spawn(async move {
            let mut far = TcpStream::connect(to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut local, &mut far).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_ends_is_replaced_by_one_that_others_know() {
    let authority = mission::authority();
    let sites = sites(&authority, &["near", "far"], |_| {});
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    acquainted(&client(sites[0].daemon(), &trust), 2).await;
    acquainted(&client(sites[1].daemon(), &trust), 2).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = format!("https://{}", listener.local_addr().unwrap());
    let radio = tokio::spawn(carry(listener, address(sites[1].daemon())));
    let options = Options { cloudlet: Some(way.clone()), ..options(&trust) };
    let session = Session::open(&options, &|_| {}).await.unwrap();
    let follow = Follow::around(session, &options.search, false, settings()).await.unwrap();
    // Before the follower has had time for anything else.
    radio.abort();
    let _ = radio.await;
    // Nothing but this connection says that something is wrong.
    echoes(&follow).await;
    let status = follow.status().borrow().clone();
    assert!(
        matches!(&status, Status::Serving { node, url, generation: 1 } if *node == sites[1].node && *url != way),
        "{status:?}"
    );
    follow.release().await.unwrap();
    for site in sites {
        site.stop();
    }
}
