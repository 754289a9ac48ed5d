//! A certificate that expires while its tunnel is open. On a hypervisor without guests.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use real time and may panic")]

use std::path::Path;
use std::time::{Duration, Instant};

use handheld::api::Event;
use mesh::trust::{Authority, CLOCK_TOLERANCE_S, Grant, Home, Request, Role, Trust, Window};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod api_support;
use api_support::PATIENCE;
use api_support::mission::{self, USE, client, ready};

/// How long the certificate is still good, with all the tolerance for wrong clocks.
const LEFT_S: u64 = 6;

/// A handheld whose certificate ends then.
fn until(authority: &Authority, not_after_unix_s: u64, dir: &Path) -> Trust {
    let home = Home::at(dir);
    let request = home.device().unwrap().request(Role::Handheld, "hand").unwrap();
    let grant = Grant { permissions: USE, may_enroll: None, not_after_unix_s: Some(not_after_unix_s) };
    home.join(&authority.enroll(&Request::from_der(&request).unwrap(), grant).unwrap()).unwrap()
}

#[tokio::test]
async fn an_open_tunnel_ends_when_the_certificate_does() {
    let window = Window { not_before_unix_s: mission::now() - 7200, not_after_unix_s: mission::now() + 3600 };
    let authority = Authority::create("test", window).unwrap();
    let world = mission::join(&authority, "truck");
    world.hypervisor.serve_at(mission::echo());
    let daemon = world.daemon();
    let dir = tempfile::tempdir().unwrap();
    let friend = client(&daemon, &mission::handheld(&authority, USE, &dir.path().join("friend")));
    let end = mission::now() + LEFT_S;
    let short = until(&authority, end - CLOCK_TOLERANCE_S, &dir.path().join("short"));
    let hand = client(&daemon, &short);
    let (mine, others) = (ready(&hand, "echo", "me").await, ready(&friend, "echo", "friend").await);
    let mut tunnel = hand.tunnel(mine.id, "me").await.unwrap();
    let mut kept = friend.tunnel(others.id, "friend").await.unwrap();
    let mut events = client(&daemon, &short).events().await.unwrap();

    let begin = Instant::now();
    let cut = loop {
        let round = async {
            tunnel.write_all(b"still?").await?;
            tunnel.read_exact(&mut [0; 6]).await
        };
        match tokio::time::timeout(PATIENCE, round).await.expect("neither cut nor answered") {
            Err(_) => break mission::now(),
            Ok(_) => assert!(begin.elapsed() < PATIENCE, "it is not cut"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(cut >= end, "{} s too early", end - cut);
    // Its stream of events ends by itself and says why; it hears of nothing that happens from then on, and gets nothing
    // new.
    let mut heard = Vec::new();
    while let Some(event) = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
        heard.push(event);
    }
    let Some(Event::NotAllowed { reason }) = heard.last() else { panic!("{heard:?}") };
    assert!(reason.contains("expired"), "{reason}");
    ready(&friend, "solo", "friend's own").await;
    assert!(hand.tunnel(mine.id, "me").await.is_err());
    assert!(client(&daemon, &short).cloudlet().await.is_err());
    // Nobody else is touched.
    kept.write_all(b"on").await.unwrap();
    kept.read_exact(&mut [0; 2]).await.unwrap();
    drop(kept);
    daemon.stop().unwrap();
}
