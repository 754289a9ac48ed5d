//! An endpoint that follows, with real daemons, their mesh and a mission: through another cloudlet, and back to a direct way.
//! On hypervisors without guests.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use real time and may panic")]

use handheld::follow::{Mode, Settings, Status};
use handheld::{Access, Follow, Options, Session};
use mesh::trust::Trust;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
