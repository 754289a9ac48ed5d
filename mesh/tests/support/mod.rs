//! Two network namespaces joined by a veth pair, and threads that live in one of them.
//!
//! Everything has a name with this process's id in it and is removed on drop, also after a panic.

#![allow(dead_code, reason = "no test uses all of it")]

use std::fs::File;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Instant;

use mesh::NodeId;
use mesh::advert::{Load, Summary};
use nix::sched::{CloneFlags, setns};

/// Whether the test can make namespaces; says why not.
pub fn can_make_namespaces() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: network namespaces need root");
    }
    root
}

/// A network namespace, removed on drop.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// A new one with nothing but a loopback interface that is down.
    pub fn new(tag: &str) -> Self {
        let name = format!("clt-{}-{tag}", std::process::id());
        ip(&["netns", "add", &name]);
        Self { name }
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    /// Runs `work` on a thread of its own inside; threads that it starts are inside too.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Runs `work` inside and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.spawn(work).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Two namespaces on one link: 10.77.0.1 and 10.77.0.2.
pub fn linked_pair(tag: &str) -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new(&format!("{tag}a")), Namespace::new(&format!("{tag}b")));
    a.ip(&["link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", &b.name]);
    for (namespace, interface, address) in [(&a, "va", "10.77.0.1/24"), (&b, "vb", "10.77.0.2/24")] {
        namespace.ip(&["addr", "add", address, "dev", interface]);
        namespace.ip(&["addr", "add", &format!("fd77::{}/64", &address[8..9]), "dev", interface, "nodad"]);
        namespace.ip(&["link", "set", interface, "up"]);
        namespace.ip(&["link", "set", "lo", "up"]);
    }
    (a, b)
}

/// Hints of a cloudlet with this id byte.
pub fn summary(id: u8, instances: u32) -> Summary {
    Summary {
        api_version: 1,
        node: NodeId::from_bytes([id; 16]),
        load: Load {
            cpu_used_millis: 500,
            cpu_total_millis: 2000,
            memory_free_bytes: 3 << 30,
            memory_total_bytes: 4 << 30,
            instances,
            queue_length: 0,
        },
        tls: false,
        accelerator: None,
        services: ["speech".parse().unwrap()].into(),
        services_left_out: 0,
    }
}

#[expect(clippy::disallowed_methods, reason = "real time limits of a test")]
pub fn now() -> Instant {
    Instant::now()
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}
