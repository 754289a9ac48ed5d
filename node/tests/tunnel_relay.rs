//! Cloudlets by way of others: two or three daemons with their mesh, and a handheld. On hypervisors without guests.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use real time and may panic")]

use std::time::Instant;

use handheld::api::{Code, MAX_TUNNELS, Revocations};
use handheld::{Access, Client, Error, MAX_RELAYS, Options, Session, beyond, reach};
use mesh::trust::{Reason, Trust, revocation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod api_support;
use api_support::PATIENCE;
use api_support::fleet::{acquainted, sites};
use api_support::mission::{self, LAST_WORD, USE, client, code_of, ready};

fn access(trust: &Trust) -> Access {
    Access::Member(trust.clone())
}

#[tokio::test]
async fn a_service_on_one_cloudlet_is_used_through_another() {
    let authority = mission::authority();
    let sites = sites(&authority, &["near", "far"], |_| {});
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    let near = client(sites[0].daemon(), &trust);
    acquainted(&near, 2).await;
    let direct = reach(near.clone()).await.unwrap();

    let behind = beyond(&access(&trust), std::slice::from_ref(&direct)).await;
    let [far] = behind.as_slice() else { panic!("{behind:?}") };
    assert_eq!((far.node, far.label().as_str()), (sites[1].node, "far via near"));
    assert!(far.rtt >= direct.rtt && far.cloudlet.services.len() == 2, "{far:?}");
    // It answers itself, and by URL it is the same.
    assert_eq!(far.client.cloudlet().await.unwrap().name, "far");
    let again = Client::with(&access(&trust), far.client.url()).unwrap();
    assert_eq!(again.cloudlet().await.unwrap().node_id, sites[1].node.to_string());

    let mut options = Options::new("echo".parse().unwrap());
    options.search.access = access(&trust);
    options.via = Some(near.url().to_owned());
    let session = Session::open(&options, &|_| {}).await.unwrap();
    assert_eq!(session.cloudlet().cloudlet.name, "far");
    assert_eq!(sites[1].world.hypervisor.clones(), 1);
    assert_eq!(sites[0].world.hypervisor.clones(), 0);
    let mut program = TcpStream::connect(session.address()).await.unwrap();
    let sent = vec![7; 1_000_000];
    let (mut reader, mut writer) = program.split();
    let mut heard = Vec::new();
    let send = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let (read, ()) = tokio::join!(tokio::time::timeout(PATIENCE, reader.read_to_end(&mut heard)), send);
    read.unwrap().unwrap();
    assert!(heard == [&sent[..], LAST_WORD].concat(), "{} bytes", heard.len());
    session.release().await.unwrap();
    for site in sites {
        site.stop();
    }
}

#[tokio::test]
async fn the_far_cloudlet_decides_and_the_near_one_cannot_play_it() {
    let mut authority = mission::authority();
    let sites = sites(&authority, &["near", "far", "other"], |_| {});
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, &dir.path().join("hand"));
    let near = client(sites[0].daemon(), &trust);
    acquainted(&near, 3).await;
    let far = Client::through(&access(&trust), &near, sites[1].node).unwrap();
    far.cloudlet().await.unwrap();

    // A handheld that asks for one node and is led to another hears nothing: here the way leads to 'other'.
    let way = handheld::Way::Cloudlet { client: near.clone(), node: sites[2].node };
    let led_astray = handheld::Endpoint::open(way).unwrap();
    let config = mesh::trust::tls::client(&trust, Some(sites[1].node)).unwrap();
    let pinned = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config).build().unwrap();
    let asked = pinned.get(format!("https://{}/api/v1/cloudlet", led_astray.address())).send().await;
    assert!(format!("{:?}", asked.unwrap_err()).contains("another cloudlet"));

    // Known to be revoked at the far one only: the near one still carries, the far one refuses.
    let word = authority.revoke(trust.identity().member().serial, Reason::KeyCompromise, mission::now());
    let told = Revocations { encoded: hex::encode(revocation::encode([&word.unwrap()])) };
    let operator = sites[1].world.config.trust_home().load().unwrap().unwrap();
    client(sites[1].daemon(), &operator).revoke(&told).await.unwrap();
    let refused = far.cloudlet().await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. } | Error::Vanished { .. }), "{refused:?}");

    // Nobody at all is let through who is not a member: the near one's own door.
    let spy = mission::handheld(&mission::authority(), USE, &dir.path().join("spy"));
    let spied = client(sites[0].daemon(), &spy);
    let spied = Client::through(&access(&spy), &spied, sites[1].node).unwrap();
    assert!(matches!(spied.cloudlet().await, Err(Error::Vanished { .. })));
    for site in sites {
        site.stop();
    }
}

#[tokio::test]
async fn ways_over_two_cloudlets_work_and_over_more_are_refused() {
    let authority = mission::authority();
    let sites = sites(&authority, &["one", "two", "three"], |_| {});
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    let one = client(sites[0].daemon(), &trust);
    acquainted(&one, 3).await;
    acquainted(&client(sites[1].daemon(), &trust), 3).await;
    let two = Client::through(&access(&trust), &one, sites[1].node).unwrap();
    let three = Client::through(&access(&trust), &two, sites[2].node).unwrap();
    assert_eq!(three.relays(), MAX_RELAYS);
    assert_eq!(three.cloudlet().await.unwrap().name, "three");
    let instance = ready(&three, "echo", "me").await;
    let mut tunnel = three.tunnel(instance.id, "me").await.unwrap();
    tunnel.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    tunnel.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    assert!(matches!(Client::through(&access(&trust), &three, sites[0].node), Err(Error::NoRelay { .. })));
    let insecure = Client::through(&Access::Insecure, &one, sites[1].node);
    assert!(matches!(insecure, Err(Error::NoRelay { .. })));
    drop(tunnel);
    for site in sites {
        site.stop();
    }
}

#[tokio::test]
async fn the_near_cloudlet_says_why_there_is_no_way() {
    let authority = mission::authority();
    let mut sites = sites(&authority, &["near", "far"], |_| {});
    let dir = tempfile::tempdir().unwrap();
    let trust = mission::handheld(&authority, USE, dir.path());
    let near = client(sites[0].daemon(), &trust);
    acquainted(&near, 2).await;
    let ask = async |node: &str| {
        let access = access(&trust);
        let config = match &access {
            Access::Member(trust) => mesh::trust::tls::client(trust, None).unwrap(),
            Access::Insecure => unreachable!(),
        };
        let http = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config).build().unwrap();
        let asked = http.get(format!("{}/api/v1/peers/{node}/tunnel", near.url()));
        let answer =
            asked.header("connection", "upgrade").header("upgrade", "cloudlet-tcp").send().await.unwrap();
        // The answer to a tunnel that was opened is none of this.
        answer.json::<handheld::api::Problem>().await.ok().map(|problem| problem.code)
    };
    assert_eq!(ask(&"ab".repeat(16)).await, Some(Code::UnknownPeer));
    assert_eq!(ask("nobody").await, Some(Code::UnknownPeer));
    assert_eq!(ask(&sites[0].node.to_string()).await, Some(Code::BadRequest));
    // One member does not take all the places.
    let far = sites[1].node;
    let way = |node| handheld::Way::Cloudlet { client: near.clone(), node };
    let endpoint = handheld::Endpoint::open(way(far)).unwrap();
    let mut open = Vec::new();
    for _ in 0..MAX_TUNNELS {
        open.push(TcpStream::connect(endpoint.address()).await.unwrap());
    }
    let begin = Instant::now();
    while ask(&far.to_string()).await != Some(Code::TooManyTunnels) {
        // The question itself may have taken the place of one of them.
        open.push(TcpStream::connect(endpoint.address()).await.unwrap());
        assert!(begin.elapsed() < PATIENCE, "more than {MAX_TUNNELS} tunnels");
    }
    drop(open);
    drop(endpoint);
    // A cloudlet that has gone is out of reach.
    sites.pop().unwrap().kill();
    let begin = Instant::now();
    loop {
        match Client::through(&access(&trust), &near, far).unwrap().cloudlet().await {
            Err(_) => break,
            Ok(_) => assert!(begin.elapsed() < PATIENCE, "a dead cloudlet answers"),
        }
    }
    // A cloudlet without a mesh knows nobody.
    let alone = mission::join(&authority, "alone");
    let daemon = alone.daemon();
    let through = Client::through(&access(&trust), &client(&daemon, &trust), far).unwrap();
    assert!(through.cloudlet().await.is_err());
    assert!(beyond(&access(&trust), &[reach(client(&daemon, &trust)).await.unwrap()]).await.is_empty());
    assert_eq!(
        code_of(&client(&daemon, &trust).stop(uuid::Uuid::new_v4()).await.unwrap_err()),
        Code::NotAllowed
    );
    daemon.stop().unwrap();
}
