//! An outside client sees what we publish: avahi's daemon and browser in a network namespace of their own.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]
#![cfg(feature = "net")]

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mesh::dnssd::{Entry, Found, Interfaces, Publisher, discover, query};

mod support;
use support::{Namespace, can_make_namespaces, linked_pair, now, summary};

const LIMIT: Duration = Duration::from_secs(20);

/// A private D-Bus and avahi-daemon in a network namespace; both are ended on drop.
struct Avahi<'a> {
    namespace: &'a Namespace,
    bus: String,
    children: Vec<Child>,
    _dir: tempfile::TempDir,
}

impl<'a> Avahi<'a> {
    fn start(namespace: &'a Namespace) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let bus = format!("unix:path={}", socket.display());
        let bus_config = dir.path().join("bus.conf");
        fs::write(
            &bus_config,
            format!(
                "<busconfig><type>system</type><listen>{bus}</listen><auth>EXTERNAL</auth><policy context='default'>\
                 <allow user='*'/><allow own='*'/><allow send_type='method_call'/><allow send_type='signal'/>\
                 <allow send_type='method_return'/><allow send_type='error'/><allow receive_type='method_call'/>\
                 <allow receive_type='signal'/><allow receive_type='method_return'/><allow receive_type='error'/>\
                 </policy></busconfig>"
            ),
        )
        .unwrap();
        let avahi_config = dir.path().join("avahi.conf");
        fs::write(
            &avahi_config,
            "[server]\nhost-name=outside\nuse-ipv4=yes\nuse-ipv6=yes\nenable-dbus=yes\n",
        )
        .unwrap();
        let mut avahi = Self { namespace, bus, children: Vec::new(), _dir: dir };
        avahi.add(
            Command::new("dbus-daemon")
                .arg("--nofork")
                .arg("--nopidfile")
                .arg("--config-file")
                .arg(&bus_config),
        );
        wait_for("the private D-Bus", LIMIT, || socket.exists().then_some(()));
        // avahi-daemon insists on its directory in /run, so it gets one of its own in a mount namespace.
        let script = "mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && \
                      exec avahi-daemon --no-chroot --no-drop-root --no-rlimits -f \"$0\"";
        avahi.add(
            Command::new("ip")
                .args(["netns", "exec", &namespace.name, "unshare", "--mount", "--propagation", "private"])
                .args(["sh", "-c", script])
                .arg(&avahi_config)
                .env("DBUS_SYSTEM_BUS_ADDRESS", &avahi.bus),
        );
        avahi
    }

    fn add(&mut self, command: &mut Command) {
        self.children.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Whether the daemon is up.
    fn answers(&self) -> bool {
        let done = Command::new("ip")
            .args(["netns", "exec", &self.namespace.name, "avahi-browse", "-t", "_cloudlet._tcp"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus)
            .output();
        done.unwrap().status.success()
    }

    /// The resolved lines of `avahi-browse -rtp _cloudlet._tcp`; none while the daemon is not up yet.
    fn browse(&self) -> Vec<String> {
        let done = Command::new("ip")
            .args(["netns", "exec", &self.namespace.name, "avahi-browse", "-rtp", "_cloudlet._tcp"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus)
            .output()
            .unwrap();
        String::from_utf8_lossy(&done.stdout)
            .lines()
            .filter(|line| line.starts_with('='))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Avahi<'_> {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn has_avahi() -> bool {
    let tools =
        ["/usr/sbin/avahi-daemon", "/usr/bin/avahi-browse", "/usr/bin/avahi-publish", "/usr/bin/dbus-daemon"];
    let there = tools.iter().all(|tool| Path::new(tool).exists());
    if !there {
        println!("skipped: needs the packages avahi-daemon, avahi-utils and dbus");
    }
    there
}

#[test]
fn avahi_browse_sees_name_port_address_and_txt_and_then_that_it_is_gone() {
    if !can_make_namespaces() || !has_avahi() {
        return;
    }
    let (a, b) = linked_pair("ava");
    let avahi = Avahi::start(&b);
    let entry = Entry {
        name: "Truck 3".to_owned(),
        listen: "0.0.0.0:8477".parse().unwrap(),
        summary: summary(0xa1, 2),
    };
    let publisher = a.run(|| Publisher::publish(entry, &Interfaces::Auto).unwrap());
    publisher.wait_announced(LIMIT).unwrap();

    let line = wait_for("avahi-browse to see the cloudlet", LIMIT, || {
        avahi.browse().into_iter().find(|line| line.split(';').nth(2) == Some("IPv4"))
    });
    println!("{line}");
    let fields: Vec<&str> = line.splitn(10, ';').collect();
    assert_eq!(fields[1], "vb");
    assert_eq!(fields[3], "Truck\\0323", "the name, with avahi's escape for a space");
    assert_eq!(&fields[4..6], ["_cloudlet._tcp", "local"]);
    assert_eq!(&fields[6..9], ["cloudlet-a1a1a1a1.local", "10.77.0.1", "8477"]);
    for string in ["v=1", "api=1", "cpu=1500/2000", "mem=3072/4096", "ins=2", "svc=speech"] {
        assert!(fields[9].contains(&format!("\"{string}\"")), "{string} in {}", fields[9]);
    }
    assert!(fields[9].contains(&format!("\"id={}\"", "a1".repeat(16))), "{}", fields[9]);

    publisher.unpublish().unwrap();
    wait_for("avahi to forget the cloudlet", LIMIT, || avahi.browse().is_empty().then_some(()));
}

#[test]
fn what_avahi_publishes_is_found_by_browsing_and_by_one_question() {
    if !can_make_namespaces() || !has_avahi() {
        return;
    }
    let (a, b) = linked_pair("avp");
    let mut avahi = Avahi::start(&b);
    wait_for("the private avahi-daemon", LIMIT, || avahi.answers().then_some(()));
    let id = "id=".to_owned() + &"b2".repeat(16);
    avahi.add(
        Command::new("ip")
            .args(["netns", "exec", &b.name, "avahi-publish", "-s", "Other maker", "_cloudlet._tcp", "9000"])
            .args(["v=1", "api=1", &id, "cpu=500/1000", "svc=speech,maps"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &avahi.bus),
    );
    let check = |found: &Found| {
        assert_eq!(
            (found.name.as_str(), found.addresses[0].to_string().as_str()),
            ("Other maker", "10.77.0.2:9000")
        );
        let hints = found.hints.as_ref().unwrap();
        assert_eq!(hints.node.to_string(), "b2".repeat(16));
        assert_eq!((hints.load.cpu_free_millis(), hints.services.len()), (500, 2));
    };
    check(&a.run(|| discover(&Interfaces::Auto, LIMIT, Some(1)).unwrap())[0]);

    let answer = a.run(|| {
        let from: SocketAddr = "10.77.0.1:0".parse().unwrap();
        assert!(Interfaces::Auto.addresses().unwrap().contains(&from));
        let socket = UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.send_to(&query::question(), query::group_seen_from(from)).unwrap();
        let mut buffer = [0; query::MAX_ANSWER_BYTES];
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        query::answers(&buffer[..length], 0).unwrap()
    });
    check(&answer[0]);
}

/// Asks until the answer is there, for at most `limit`.
fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
