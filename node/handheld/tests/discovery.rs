//! Discovery over real multicast DNS between two network namespaces, with the built program as a user starts it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]
#![allow(dead_code, reason = "the stand-in is shared with other tests, which use other parts of it")]

use std::process::{Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use handheld::api::Missing;
use mesh::dnssd::{Entry, Interfaces, Publisher};

mod stub;
#[path = "../../../mesh/tests/support/mod.rs"]
mod support;
use stub::{Behaviour, Stub, wav};
use support::{Namespace, can_make_namespaces, linked_pair, summary};

const LIMIT: Duration = Duration::from_secs(60);

/// Stand-ins that are published and served from a namespace until this is dropped.
struct Served {
    _stop: mpsc::Sender<()>,
}

fn serve(namespace: &Namespace, behaviours: Vec<Behaviour>) -> Served {
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    namespace.spawn(move || {
        // All on this thread: a thread of its own would be in the namespace too, but this is simpler to end.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut publishers = Vec::new();
        for behaviour in behaviours {
            let (name, id) = (behaviour.name.clone(), behaviour.id);
            let stub =
                runtime.block_on(Stub::start_on("0.0.0.0:0", Behaviour { unspecified: true, ..behaviour }));
            let listen = stub.address;
            if name == "dead" {
                stub.vanish();
            }
            let entry = Entry { name, listen, summary: summary(id, 0) };
            publishers.push(Publisher::publish(entry, &Interfaces::Auto).unwrap());
        }
        publishers.iter().for_each(|publisher| drop(publisher.wait_announced(LIMIT).unwrap()));
        ready.send(()).unwrap();
        let _ = stopped.recv();
    });
    is_ready.recv_timeout(LIMIT).unwrap();
    Served { _stop: stop }
}

static STATE: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fn handheld(namespace: &Namespace, arguments: &[&str]) -> (i32, String, String) {
    let done = Command::new("ip")
        .args(["netns", "exec", &namespace.name, env!("CARGO_BIN_EXE_handheld")])
        .args(arguments)
        .env_remove("HANDHELD_CLOUDLET")
        // The stand-ins speak plain HTTP.
        .env("HANDHELD_INSECURE", "1")
        .env("HANDHELD_STATE_DIR", STATE.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

/// Discovers until exactly these are found; on a busy machine the first announcements may take longer than one look.
fn until_found(namespace: &Namespace, wanted: &[&str]) -> serde_json::Value {
    let mut last = String::new();
    for _ in 0..20 {
        let (code, out, err) = handheld(namespace, &["discover", "--json"]);
        if code == 0 {
            let found: serde_json::Value = serde_json::from_str(&out).unwrap();
            let cloudlets = found["cloudlets"].as_array().unwrap();
            let names: Vec<&str> = cloudlets.iter().map(|one| one["name"].as_str().unwrap()).collect();
            if names == wanted {
                return found;
            }
        }
        last = out + &err;
    }
    panic!("{wanted:?} were never found; last: {last}");
}

#[test]
fn cloudlets_are_found_and_one_that_refuses_is_passed_over() {
    if !can_make_namespaces() {
        return;
    }
    let (a, b) = linked_pair("disc");
    let full = Some(Missing { memory_bytes: 1 << 30, cpu_millis: 0 });
    let named = |name: &str, id| Behaviour { name: name.to_owned(), id, ..Behaviour::default() };
    let _served =
        serve(&a, vec![Behaviour { missing: full, ..named("full", 1) }, named("good", 2), named("dead", 3)]);

    let found = until_found(&b, &["full", "good"]);
    println!("discovery took {} ms", found["discovery_ms"]);

    let (code, here, _) = handheld(&a, &["discover", "--json"]);
    let here: serde_json::Value = serde_json::from_str(&here).unwrap();
    let same_machine = here["cloudlets"].as_array().unwrap().len();
    assert_eq!((code, same_machine), (0, 2), "a handheld on the cloudlet's own machine: {here}");
    println!("on the same machine {} ms", here["discovery_ms"]);

    let (code, out, _) = handheld(&b, &["select", "speech", "--explain"]);
    assert_eq!(code, 0);
    println!("{out}");
    assert!(out.contains("full") && out.contains("good") && out.contains("lost by"), "{out}");
    let (code, out, _) = handheld(&b, &["discover", "--for", "1s"]);
    println!("{out}");
    assert_eq!((code, out.lines().count()), (0, 3), "{out}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.wav");
    std::fs::write(&file, wav(160)).unwrap();
    let (code, out, err) = handheld(&b, &["run", "speech", file.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    println!("{out}");
    println!("{}", report["timing"]);
    assert_eq!(report["cloudlet"], "good");
    assert_eq!(report["results"][0]["text"], "heard 160 samples");
    assert!(report["address"].as_str().unwrap().starts_with("10.77.0.1:"), "{out}");
}

#[test]
fn nobody_there_and_no_network_are_different_errors() {
    if !can_make_namespaces() {
        return;
    }
    let (_a, b) = linked_pair("none");
    let (code, out, err) = handheld(&b, &["discover", "--for", "600ms"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("no cloudlet was found within 0.6 s"), "{err}");
    assert!(err.contains("multicast") && err.contains("--cloudlet"), "{err}");

    let dead = Namespace::new("hdead");
    let (code, _, err) = handheld(&dead, &["discover"]);
    assert_eq!(code, 1);
    assert!(err.contains("no network interface can do multicast"), "{err}");
    let (code, _, err) = handheld(&b, &["discover", "--interface", "wlan9"]);
    assert_eq!(code, 1);
    assert!(err.contains("there is no network interface 'wlan9'") && err.contains("vb"), "{err}");
}
