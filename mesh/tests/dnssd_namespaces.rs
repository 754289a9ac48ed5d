//! Publisher and browser on real links: network namespaces of their own, so nothing leaves this machine.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]
#![cfg(feature = "net")]

use std::net::SocketAddr;
use std::time::Duration;

use mesh::dnssd::{Browser, Entry, Error, Event, Interfaces, Publisher, discover};

mod support;
use support::{Namespace, can_make_namespaces, linked_pair, now, summary};

const LIMIT: Duration = Duration::from_secs(10);

fn entry(name: &str, id: u8, listen: &str) -> Entry {
    Entry { name: name.to_owned(), listen: listen.parse().unwrap(), summary: summary(id, 0) }
}

#[test]
fn a_browser_sees_a_cloudlet_come_change_and_go() {
    if !can_make_namespaces() {
        return;
    }
    let (a, b) = linked_pair("life");
    let publisher =
        a.run(|| Publisher::publish(entry("Alpha", 1, "0.0.0.0:8477"), &Interfaces::Auto).unwrap());
    assert_eq!(publisher.wait_announced(LIMIT).unwrap(), "Alpha");

    let started = now();
    let mut browser = b.run(|| Browser::start(&Interfaces::Auto).unwrap());
    let Some(Event::Found(found)) = browser.next_within(LIMIT) else { panic!("nothing found") };
    println!("found after {} ms", started.elapsed().as_millis());
    assert_eq!(found.name, "Alpha");
    assert_eq!(
        found.addresses,
        ["10.77.0.1:8477".parse::<SocketAddr>().unwrap()],
        "IPv4 only, as it listens"
    );
    assert_eq!(found.hints, Ok(summary(1, 0)));

    publisher.update(summary(1, 1));
    publisher.update(summary(1, 2));
    let Some(Event::Updated(found)) = browser.next_within(LIMIT) else { panic!("no update") };
    assert_eq!(found.hints, Ok(summary(1, 2)), "only the last of two quick updates is sent");
    assert_eq!(
        (found.name.as_str(), publisher.name().as_str()),
        ("Alpha", "Alpha"),
        "an update is no conflict"
    );

    publisher.unpublish().unwrap();
    let gone = browser.next_within(LIMIT);
    assert_eq!(gone, Some(Event::Removed { name: "Alpha".to_owned() }));
    assert_eq!(browser.known().count(), 0);
}

#[test]
fn of_two_cloudlets_with_one_name_the_second_gets_a_suffix() {
    if !can_make_namespaces() {
        return;
    }
    let (a, b) = linked_pair("conf");
    let first = a.run(|| Publisher::publish(entry("alpha", 1, "0.0.0.0:1000"), &Interfaces::Auto).unwrap());
    assert_eq!(first.wait_announced(LIMIT).unwrap(), "alpha");
    let second = b.run(|| Publisher::publish(entry("alpha", 2, "0.0.0.0:2000"), &Interfaces::Auto).unwrap());
    assert_eq!(second.wait_announced(LIMIT).unwrap(), "alpha (2)");

    let found = b.run(|| discover(&Interfaces::Auto, LIMIT, Some(2)).unwrap());
    let list: Vec<(String, u16)> =
        found.iter().map(|one| (one.name.clone(), one.addresses[0].port())).collect();
    assert_eq!(list, [("alpha".to_owned(), 1000), ("alpha (2)".to_owned(), 2000)]);
    second.unpublish().unwrap();
    first.unpublish().unwrap();
}

#[test]
fn a_machine_with_nothing_but_loopback_finds_itself() {
    if !can_make_namespaces() {
        return;
    }
    let alone = Namespace::new("lo");
    alone.ip(&["link", "set", "lo", "up"]);
    alone.run(|| {
        for interfaces in [Interfaces::Auto, Interfaces::Named(vec!["lo".to_owned()])] {
            let publisher = Publisher::publish(entry("solo", 3, "127.0.0.1:3000"), &interfaces).unwrap();
            publisher.wait_announced(LIMIT).unwrap();
            let found = discover(&interfaces, LIMIT, Some(1)).unwrap();
            assert_eq!(found[0].addresses, ["127.0.0.1:3000".parse::<SocketAddr>().unwrap()]);
            publisher.unpublish().unwrap();
        }
    });
}

#[test]
fn loopback_is_left_out_where_there_is_a_network_unless_the_api_listens_only_there() {
    if !can_make_namespaces() {
        return;
    }
    let (a, b) = linked_pair("mix");
    let local = a.run(|| Publisher::publish(entry("local", 4, "127.0.0.1:4000"), &Interfaces::Auto).unwrap());
    local.wait_announced(LIMIT).unwrap();
    let outside = b.run(|| discover(&Interfaces::Auto, Duration::from_secs(2), Some(1)).unwrap());
    assert_eq!(outside, [], "what listens on loopback is of no use to others");
    let inside = a.run(|| discover(&Interfaces::Loopback, LIMIT, Some(1)).unwrap());
    assert_eq!(inside[0].name, "local");

    let both = a.run(|| Publisher::publish(entry("both", 5, "[::]:5000"), &Interfaces::Auto).unwrap());
    both.wait_announced(LIMIT).unwrap();
    let found = b.run(|| discover(&Interfaces::Auto, LIMIT, Some(1)).unwrap());
    let addresses: Vec<String> = found[0].addresses.iter().map(ToString::to_string).collect();
    assert!(addresses.contains(&"10.77.0.1:5000".to_owned()), "{addresses:?}");
    assert!(addresses.contains(&"[fd77::1]:5000".to_owned()), "{addresses:?}");
    assert!(!addresses.iter().any(|address| address.starts_with("127.") || address.starts_with("[::1]")));
    let on_loopback = a.run(|| discover(&Interfaces::Loopback, Duration::from_secs(2), Some(2)).unwrap());
    assert_eq!(on_loopback.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["local"]);
    both.unpublish().unwrap();
    local.unpublish().unwrap();
}

#[test]
fn no_multicast_is_an_error_at_once_and_not_a_wait() {
    if !can_make_namespaces() {
        return;
    }
    let dead = Namespace::new("dead");
    let started = now();
    let error = dead.run(|| Publisher::publish(entry("x", 6, "0.0.0.0:1"), &Interfaces::Auto).unwrap_err());
    assert!(matches!(error, Error::NoMulticast(_)), "{error}");
    let error = dead.run(|| discover(&Interfaces::Auto, LIMIT, None).unwrap_err());
    assert!(matches!(error, Error::NoMulticast(_)), "{error}");

    dead.ip(&["link", "add", "mute0", "type", "veth", "peer", "name", "mute1"]);
    dead.ip(&["link", "set", "mute1", "up"]);
    dead.ip(&["addr", "add", "10.9.0.1/24", "dev", "mute0"]);
    dead.ip(&["link", "set", "mute0", "up", "multicast", "off"]);
    let named = Interfaces::Named(vec!["mute0".to_owned()]);
    let error = dead.run(move || Publisher::publish(entry("x", 6, "0.0.0.0:1"), &named).unwrap_err());
    assert!(error.to_string().contains("mute0: has no multicast"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_held_port_is_reported_and_not_waited_for_without_end() {
    if !can_make_namespaces() {
        return;
    }
    let (a, _b) = linked_pair("held");
    a.run(|| {
        // One socket for both IP versions, without the option that lets responders share the port.
        let holder = std::net::UdpSocket::bind("[::]:5353").unwrap();
        let publisher = Publisher::publish(entry("late", 7, "0.0.0.0:1"), &Interfaces::Auto).unwrap();
        let error = publisher.wait_announced(Duration::from_secs(2)).unwrap_err();
        assert!(error.to_string().contains("5353"), "{error}");
        drop(holder);
    });
}
