//! Network interfaces that come, change their address and go, in namespaces of their own.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first thing that goes wrong, and real nodes run on the real clock"
)]

mod support;
mod swarm_support;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use mesh::membership::Reach;
use mesh::swarm::{Hail, Handle};
use mesh::trust::Trust;
use support::{Namespace, can_make_namespaces};
use swarm_support::{Mission, config, is_there, start};

/// A node on all addresses of the namespace. It ends with the channel that comes with it.
fn node(namespace: &Namespace, trust: Trust) -> (Handle, mpsc::Sender<()>) {
    let (to_test, handle) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    namespace.spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let mut config = config(&trust, "/ip4/0.0.0.0/udp/0/quic-v1");
        config.hail = Some(Hail::of(&trust));
        let (handle, running) = start(&trust, config);
        to_test.send(handle).unwrap();
        // Disconnected: the test is over.
        let _ = ended.recv();
        running.abort();
    });
    (handle.recv().unwrap(), end)
}

fn within(limit: Duration, what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{what}: after {:.1} s", started.elapsed().as_secs_f64());
}

fn link(a: &Namespace, b: &Namespace) {
    a.ip(&["link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", &b.name]);
    for (namespace, interface, address) in [(a, "va", "10.77.0.1/24"), (b, "vb", "10.77.0.2/24")] {
        namespace.ip(&["addr", "add", address, "dev", interface]);
        namespace.ip(&["link", "set", interface, "up"]);
    }
}

#[test]
fn interfaces_that_come_change_and_go_are_followed() {
    if !can_make_namespaces() {
        return;
    }
    let (a, b, c) = (Namespace::new("ifa"), Namespace::new("ifb"), Namespace::new("ifc"));
    for namespace in [&a, &b, &c] {
        namespace.ip(&["link", "set", "lo", "up"]);
    }
    let mission = Mission::new();
    let ((one, _end_one), (two, _end_two)) = (node(&a, mission.enroll()), node(&b, mission.enroll()));
    let (three, _end_three) = node(&c, mission.enroll());
    let see = |one: &Handle, two: &Handle| is_there(one, two.node()) && is_there(two, one.node());
    let soon = Duration::from_secs(15);

    link(&a, &b);
    within(soon, "an interface appears", || see(&one, &two));

    a.ip(&["addr", "del", "10.77.0.1/24", "dev", "va"]);
    a.ip(&["addr", "add", "10.77.0.9/24", "dev", "va"]);
    let told = || {
        let members = two.members();
        let members = members.borrow();
        members.get(&one.node()).is_some_and(|member| {
            let told = &member.advert.addresses;
            let is_near = matches!(member.reach, Reach::Neighbour { .. });
            is_near
                && told.iter().any(|it| it.contains("/10.77.0.9/"))
                && !told.iter().any(|it| it.contains("/10.77.0.1/"))
        })
    };
    within(2 * soon, "an address changes", || told() && see(&one, &two));

    // Nobody is missing for those two, and yet the third one is found where it appears.
    a.ip(&["link", "add", "vac", "type", "veth", "peer", "name", "vca", "netns", &c.name]);
    a.ip(&["addr", "add", "10.78.0.1/24", "dev", "vac"]);
    a.ip(&["link", "set", "vac", "up"]);
    c.ip(&["addr", "add", "10.78.0.3/24", "dev", "vca"]);
    c.ip(&["link", "set", "vca", "up"]);
    within(soon, "a second interface appears", || see(&one, &three) && see(&two, &three));

    a.ip(&["link", "del", "va"]);
    within(soon, "an interface goes", || !see(&one, &two));
    link(&a, &b);
    within(soon, "an interface of the same name and address comes back", || see(&one, &two));
}
