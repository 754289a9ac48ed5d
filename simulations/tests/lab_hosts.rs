//! The lab with real frames: namespaces, TAP devices, sockets.

#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use simulations::lab::{Error, Host, Lab, Topology};
use simulations::medium::units::{Rate, Span};
use simulations::medium::{Change, Settings};

/// The group of multicast DNS.
const MDNS: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);
/// Longer than anything here takes, so that only a hang fails on it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lab whose name no other test has. `None`, loudly, without root.
fn start(name: &str, hosts: usize, settings: Settings) -> Option<Lab> {
    let name = format!("t{}-{name}", std::process::id());
    match Lab::start(&Topology::full_mesh(&name, hosts, settings)) {
        Ok(lab) => Some(lab),
        Err(Error::NotRoot) => {
            eprintln!("SKIPPED: the lab needs root");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[expect(clippy::disallowed_methods, reason = "these tests measure real time")]
fn now() -> Instant {
    Instant::now()
}

fn socket(host: Host<'_>, port: u16) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_000];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// Whether nothing comes for a while.
fn silent(socket: &UdpSocket, time: Duration) -> bool {
    socket.set_read_timeout(Some(time)).unwrap();
    let result = socket.recv(&mut [0; 2_000]);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    matches!(result, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn a_ping_takes_twice_the_delay() {
    let Some(lab) = start("ping", 3, Settings { delay: ms(25), ..Settings::default() }) else { return };
    let (one, two) = (socket(lab.host("n1").unwrap(), 7), socket(lab.host("n2").unwrap(), 7));
    let address = (lab.host("n2").unwrap().address(), 7);
    let ping = || {
        let before = now();
        one.send_to(b"ping", address).unwrap();
        let (length, from) = two.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(length, 4);
        two.send_to(b"pong", from).unwrap();
        assert_eq!(receive(&one), b"pong");
        before.elapsed()
    };
    let first = ping();
    assert!(first >= ms(100), "{first:?}: the first one also waits for two ARP frames");
    let best = (0..10).map(|_| ping()).min().unwrap();
    assert!((ms(50)..ms(52)).contains(&best), "{best:?}");
    let counters = lab.counters().unwrap();
    let pair = counters.pair("n1", "n2").unwrap();
    // ARP twice at most (asking, and answering), 11 pings of 4 + 8 + 20 bytes.
    assert_eq!(pair.delivered.ip_bytes, 11 * 32);
    assert_eq!(counters.host("n1").unwrap().sent.ip_bytes, 11 * 32);
    assert!((12..=13).contains(&pair.delivered.frames), "{pair:?}");
    assert_eq!(counters.pair("n1", "n3").unwrap().delivered.ip_bytes, 0, "unicast is not heard by others");
}

#[test]
fn multicast_reaches_all_but_those_who_are_cut_off() {
    let Some(lab) = start("multicast", 3, Settings { delay: ms(2), ..Settings::default() }) else { return };
    let listen = |name: &str| {
        let host = lab.host(name).unwrap();
        let socket = socket(host, MDNS.1);
        host.run(|| socket.join_multicast_v4(&MDNS.0, &host.address())).unwrap();
        socket
    };
    let (sender, b, c) = (socket(lab.host("n1").unwrap(), 0), listen("n2"), listen("n3"));
    sender.send_to(b"one", MDNS).unwrap();
    assert_eq!((receive(&b), receive(&c)), (b"one".to_vec(), b"one".to_vec()));
    let before = lab.counters().unwrap();

    lab.cut("n1", "n3").unwrap();
    sender.send_to(b"two", MDNS).unwrap();
    assert_eq!(receive(&b), b"two");
    assert!(silent(&c, ms(200)));
    let counted = lab.counters().unwrap().since(&before);
    assert_eq!(counted.pair("n1", "n3").unwrap().dropped.cut, 1);
    let sent = counted.host("n1").unwrap().sent;
    assert_eq!((sent.frames, sent.ip_bytes), (1, 31), "on the air once");

    lab.heal_all().unwrap();
    sender.send_to(b"three", MDNS).unwrap();
    assert_eq!((receive(&b), receive(&c)), (b"three".to_vec(), b"three".to_vec()));

    lab.split(&[&["n1", "n2"][..], &["n3"]]).unwrap();
    sender.send_to(b"four", MDNS).unwrap();
    assert_eq!(receive(&b), b"four");
    assert!(silent(&c, ms(200)));
    assert!(matches!(lab.cut("n1", "n9"), Err(Error::UnknownHost { host, .. }) if host == "n9"));
}

#[test]
fn a_transfer_keeps_to_the_rate_and_arrives_whole() {
    let settings = Settings { rate: Rate::bits_per_second(40_000_000), delay: ms(3), ..Settings::default() };
    let Some(lab) = start("transfer", 2, settings) else { return };
    let (one, two) = (lab.host("n1").unwrap(), lab.host("n2").unwrap());
    let listener = two.run(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    let mut sender = one.run(|| TcpStream::connect((two.address(), 80))).unwrap();
    let mut receiver = listener.accept().unwrap().0;
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let mut received = Vec::new();
    let took = std::thread::scope(|scope| {
        let before = now();
        let sending = scope.spawn(|| {
            sender.write_all(&sent).unwrap();
            sender.shutdown(std::net::Shutdown::Write).unwrap();
        });
        receiver.read_to_end(&mut received).unwrap();
        sending.join().unwrap();
        before.elapsed()
    });
    assert!(sent == received, "{} bytes of {} arrived, or changed", received.len(), sent.len());
    // 4 MB at 40 Mbit/s take 0.8 s without headers; not much longer, or the queue works badly.
    assert!((ms(800)..ms(3_000)).contains(&took), "{took:?}");

    // A link that loses a third still carries all of it, only later: TCP sees real loss.
    lab.set("n1", "n2", Change { loss: Some("30%".parse().unwrap()), ..Change::default() }).unwrap();
    let mut sender = one.run(|| TcpStream::connect((two.address(), 80))).unwrap();
    let mut receiver = listener.accept().unwrap().0;
    sender.write_all(&sent[..20_000]).unwrap();
    sender.shutdown(std::net::Shutdown::Write).unwrap();
    received.clear();
    receiver.set_read_timeout(Some(PATIENCE * 3)).unwrap();
    receiver.read_to_end(&mut received).unwrap();
    assert!(sent[..20_000] == received);
    assert!(lab.counters().unwrap().pair("n1", "n2").unwrap().dropped.loss > 0);
}

/// Numbers of the processes whose network namespace is this.
fn inside(namespace: u64) -> BTreeSet<u32> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|it| it.ino() == namespace)
    })
    .collect()
}

#[test]
fn programs_run_in_their_host_and_end_with_the_lab() {
    let Some(lab) = start("programs", 2, Settings::default()) else { return };
    let host = lab.host("n2").unwrap();
    let output = host.command("ip").args(["-brief", "address", "show", "radio0"]).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("10.77.0.2/16"));
    assert_eq!(host.command("sh").args(["-c", "exit 7"]).status().unwrap().code(), Some(7));

    // One that ends when it is asked, with a child, and one that does not listen.
    let mut polite = host.command("sh").args(["-c", "sleep 1000 & wait"]).spawn().unwrap();
    let mut stubborn = host
        .command("sh")
        .args(["-c", "trap '' TERM; echo up; while :; do sleep 1; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    stubborn.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let namespace = std::fs::metadata(host.namespace()).unwrap().ino();
    // A program is there before it has entered.
    let both = BTreeSet::from([polite.id(), stubborn.id()]);
    let begun = now();
    while !inside(namespace).is_superset(&both) {
        assert!(begun.elapsed() < PATIENCE, "not inside");
        std::thread::sleep(ms(5));
    }
    // One that has nothing to do with the lab.
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    drop(lab);
    assert_eq!(inside(namespace), BTreeSet::new());
    assert_eq!(other.try_wait().unwrap(), None);
    other.kill().unwrap();
    for child in [&mut polite, &mut stubborn, &mut other] {
        assert!(!child.wait().unwrap().success());
    }
}

#[test]
fn labs_of_different_names_do_not_hear_each_other_and_names_are_unique() {
    let Some(one) = start("twin-1", 2, Settings::default()) else { return };
    let two = start("twin-2", 2, Settings::default()).unwrap();
    let again = Lab::start(&Topology::full_mesh(one.name(), 2, Settings::default()));
    assert!(matches!(again, Err(Error::Running { name }) if name == one.name()));
    // The same addresses in both.
    let pair = |lab: &Lab| (socket(lab.host("n1").unwrap(), 7), socket(lab.host("n2").unwrap(), 7));
    let ((a, b), (_c, d)) = (pair(&one), pair(&two));
    a.send_to(b"mine", ("10.77.0.2".parse::<Ipv4Addr>().unwrap(), 7)).unwrap();
    assert_eq!(receive(&b), b"mine");
    assert!(silent(&d, ms(100)));
    // The name is free again as soon as its lab is gone.
    let name = one.name().to_owned();
    drop(one);
    drop(Lab::start(&Topology::full_mesh(&name, 2, Settings::default())).unwrap());
}

#[test]
fn settings_that_cannot_be_change_nothing() {
    let Some(lab) = start("settings", 2, Settings { delay: ms(5), ..Settings::default() }) else { return };
    let bad = Change { jitter: Some(Span(ms(6))), ..Change::default() };
    assert!(matches!(lab.set("n1", "n2", bad), Err(Error::Settings(_))));
    assert!(lab.snapshot().unwrap().links.iter().all(|link| link.settings.jitter.is_zero()));
    lab.set_one_way("n1", "n2", Change { delay: Some(Span(ms(9))), ..Change::default() }).unwrap();
    let delays: Vec<Duration> =
        lab.snapshot().unwrap().links.iter().map(|link| link.settings.delay).collect();
    assert_eq!(delays, [ms(9), ms(5)]);
}

#[test]
fn a_host_that_loses_its_radio_does_not_stop_the_others() {
    let Some(lab) = start("radio", 3, Settings::default()) else { return };
    let gone = lab.host("n3").unwrap().command("ip").args(["link", "del", "radio0"]).status().unwrap();
    assert!(gone.success());
    let (one, two) = (socket(lab.host("n1").unwrap(), 7), socket(lab.host("n2").unwrap(), 7));
    one.set_broadcast(true).unwrap();
    one.send_to(b"hello", ("10.77.255.255".parse::<Ipv4Addr>().unwrap(), 7)).unwrap();
    assert_eq!(receive(&two), b"hello");
    assert_eq!(lab.dead_radios(), 1);
}

#[test]
fn fifty_hosts_come_up_in_seconds() {
    let before = now();
    let Some(lab) = start("fifty", 50, Settings::default()) else { return };
    let up = before.elapsed();
    let sockets: Vec<UdpSocket> = lab.hosts().map(|host| socket(host, 9)).collect();
    sockets[0].set_broadcast(true).unwrap();
    sockets[0].send_to(b"all", ("10.77.255.255".parse::<Ipv4Addr>().unwrap(), 9)).unwrap();
    for socket in &sockets[1..] {
        assert_eq!(receive(socket), b"all");
    }
    let before = now();
    drop(lab);
    eprintln!("50 hosts came up in {up:?} and went in {:?}", before.elapsed());
    assert!(up < Duration::from_secs(20), "{up:?}");
}
