//! The choice in live use: two network namespaces, real multicast DNS, the built program, stand-ins for cloudlets.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]
#![allow(dead_code, reason = "the stand-in is shared with other tests, which use other parts of it")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use handheld::api::{Heading, Place, PowerSource, Standing};
use mesh::advert::Summary;
use mesh::dnssd::{Entry, Interfaces, Publisher};

mod stub;
#[path = "../../../mesh/tests/support/mod.rs"]
mod support;
use stub::{Behaviour, Said, Shared, Stub, wav};
use support::{Namespace, can_make_namespaces, linked_pair, summary};

const LIMIT: Duration = Duration::from_secs(60);

/// Stand-ins that are published and served from a namespace until this is dropped.
struct Served {
    stubs: Vec<Arc<Shared>>,
    _stop: mpsc::Sender<()>,
}

impl Served {
    /// Changes what the stand-in of this place says of itself.
    fn says(&self, place: usize, change: impl FnOnce(&mut Said)) {
        change(&mut self.stubs[place].said.lock().unwrap());
    }
}

/// A stand-in, what its TXT record says, and whether it is there at all.
struct Published {
    behaviour: Behaviour,
    record: Summary,
    alive: bool,
}

impl Published {
    fn honest(name: &str, id: u8) -> Self {
        let behaviour = Behaviour { name: name.to_owned(), id, unspecified: true, ..Behaviour::default() };
        Self { behaviour, record: summary(id, 0), alive: true }
    }
}

fn serve(namespace: &Namespace, all: Vec<Published>) -> Served {
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    namespace.spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (mut publishers, mut stubs) = (Vec::new(), Vec::new());
        for Published { behaviour, record, alive } in all {
            let name = behaviour.name.clone();
            let stub = runtime.block_on(Stub::start_on("0.0.0.0:0", behaviour));
            if !alive {
                stub.vanish();
            }
            let entry = Entry { name, listen: stub.address, summary: record };
            publishers.push(Publisher::publish(entry, &Interfaces::Auto).unwrap());
            stubs.push(Arc::clone(&stub.shared));
        }
        publishers.iter().for_each(|publisher| drop(publisher.wait_announced(LIMIT).unwrap()));
        ready.send(stubs).unwrap();
        let _ = stopped.recv();
    });
    Served { stubs: is_ready.recv_timeout(LIMIT).unwrap(), _stop: stop }
}

/// The program with a state directory of its own.
struct Handheld<'a> {
    namespace: &'a Namespace,
    state: &'a Path,
    config: &'a Path,
}

impl Handheld<'_> {
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let done = Command::new("ip")
            .args(["netns", "exec", &self.namespace.name, env!("CARGO_BIN_EXE_handheld")])
            .args(arguments)
            .env_remove("HANDHELD_CLOUDLET")
            .env("HANDHELD_INSECURE", "1")
            .env("HANDHELD_STATE_DIR", self.state)
            .env("HANDHELD_CONFIG", self.config)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    }

    /// The survey of all `count` cloudlets; on a busy machine one of them may answer too late for the first look.
    fn select(&self, count: usize) -> serde_json::Value {
        let mut last = String::new();
        for _ in 0..20 {
            let (_, out, err) = self.run(&["select", "speech", "--json"]);
            if let Ok(selected) = serde_json::from_str::<serde_json::Value>(&out)
                && selected["considered"].as_array().unwrap().len() == count
            {
                return selected;
            }
            last = out + &err;
        }
        panic!("never found {count} cloudlets; last: {last}");
    }

    /// Uses the service once; says which cloudlet served.
    fn use_speech(&self, file: &Path, count: usize) -> String {
        self.select(count);
        let (code, out, err) = self.run(&["run", "speech", file.to_str().unwrap(), "--json"]);
        assert_eq!(code, 0, "{err}");
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        report["cloudlet"].as_str().unwrap().to_owned()
    }
}

fn of<'a>(selected: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let all = selected["considered"].as_array().unwrap();
    all.iter().find(|one| one["cloudlet"] == name).unwrap_or_else(|| panic!("no {name} in {selected}"))
}

#[test]
fn a_handheld_stays_with_its_cloudlet_until_another_is_better_by_the_margin() {
    if !can_make_namespaces() {
        return;
    }
    let (a, b) = linked_pair("keep");
    let served = serve(&a, vec![Published::honest("one", 1), Published::honest("two", 2)]);
    let dir = tempfile::tempdir().unwrap();
    let (config, file) = (dir.path().join("handheld.toml"), dir.path().join("a.wav"));
    // Who served for a moment may be left at once: that rule has tests of its own.
    std::fs::write(&config, "[selection]\nhysteresis = { hold_ms = 0 }\n").unwrap();
    std::fs::write(&file, wav(160)).unwrap();
    let state = dir.path().join("state");
    let user = Handheld { namespace: &b, state: &state, config: &config };
    let busy = |said: &mut Said| said.cpu_used_millis = 2000;
    let idle = |said: &mut Said| said.cpu_used_millis = 0;
    for place in [0, 1] {
        served.says(place, |said| (said.joinable, said.ready_ms) = (Some(0), Some(800)));
    }

    served.says(1, busy);
    assert_eq!(user.use_speech(&file, 2), "one");
    // Now the other is a little better, by less than the margin.
    served.says(1, |said| (said.cpu_used_millis, said.ready_ms) = (0, Some(400)));
    let selected = user.select(2);
    let verdict = of(&selected, "one")["verdict"].as_str().unwrap();
    assert_eq!(selected["chosen"], "one", "{selected}");
    assert!(verdict.contains("no other is better by the margin"), "{verdict}");
    assert!(of(&selected, "two")["verdict"].as_str().unwrap().contains("not worth a change"), "{selected}");
    assert!(of(&selected, "two")["score"].as_f64() > of(&selected, "one")["score"].as_f64(), "{selected}");
    assert_eq!(user.use_speech(&file, 2), "one");
    // Who has no history takes the better one.
    let other_state = dir.path().join("other");
    let newcomer = Handheld { state: &other_state, ..user };
    assert_eq!(newcomer.select(2)["chosen"], "two");
    // Much better: worth a change. Then the same holds the other way round.
    served.says(0, busy);
    assert_eq!(user.use_speech(&file, 2), "two");
    served.says(0, |said| (said.cpu_used_millis, said.ready_ms) = (0, Some(400)));
    served.says(1, |said| said.ready_ms = Some(800));
    assert_eq!(user.use_speech(&file, 2), "two");
    // One that is being emptied is left, however well it served.
    served.says(1, idle);
    served.says(1, |said| said.standing.draining = true);
    let selected = user.select(2);
    assert_eq!(selected["chosen"], "one");
    assert!(of(&selected, "two")["verdict"].as_str().unwrap().contains("draining"), "{selected}");
}

#[test]
fn what_a_record_says_does_not_win_against_the_cloudlets_own_answer() {
    if !can_make_namespaces() {
        return;
    }
    let (a, b) = linked_pair("liar");
    let idle = |id| {
        let mut record = summary(id, 0);
        record.load.cpu_used_millis = 0;
        record
    };
    // It says that it has the service, idle, under the id of an honest one; asked, it has nothing.
    let mut liar = Published { record: idle(2), ..Published::honest("liar", 9) };
    liar.behaviour.services = Vec::new();
    let emptied = Published { record: idle(7), ..Published::honest("emptied", 7) };
    let gone = Published { record: idle(8), alive: false, ..Published::honest("gone", 8) };
    let served = serve(&a, vec![liar, emptied, gone, Published::honest("honest", 2)]);
    let draining = Standing { draining: true, ..Standing::default() };
    served.says(1, |said| said.standing = draining);
    let place = Place {
        latitude_deg: 48.5,
        longitude_deg: 11.25,
        motion: Some(Heading { heading_deg: 0.0, speed_m_s: 10.0 }),
    };
    let power = Some(PowerSource::Battery { percent: 30, remaining_s: None });
    served.says(3, |said| {
        said.cpu_used_millis = 2000;
        said.standing = Standing { place: Some(place), power, ..Standing::default() };
    });

    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("handheld.toml");
    std::fs::write(&config, "[radio]\nrange_m = 250\n").unwrap();
    let user = Handheld { namespace: &b, state: dir.path(), config: &config };
    let (code, out, err) = user.run(&["position", "48.5", "11.25"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "48.50000,11.25000\n", ""));
    let selected = user.select(3);
    assert_eq!(selected["chosen"], "honest", "{selected}");
    let known = &of(&selected, "honest")["known"];
    assert_eq!(known["power"], "battery at 30 %");
    assert_eq!(known["contact"], "24 to 27 s by place and motion of both", "about 250 m at 10 m/s");
    assert!(known["load"].as_str().unwrap().starts_with("2.0 of 2.0 cores in use"), "{known}");
    assert_eq!(of(&selected, "liar")["node_id"], "09".repeat(16), "its own answer, not the record");
    assert_eq!(of(&selected, "liar")["reasons"][0], "does not offer the service");
    assert_eq!(of(&selected, "emptied")["reasons"][0], "is draining and takes nobody new");
    let (code, text, _) = user.run(&["select", "speech", "--explain"]);
    println!("{text}");
    assert_eq!(code, 0);
    for words in
        ["done in", "completion", "draining      yes", "known of it", "cannot: does not offer the service"]
    {
        assert!(text.contains(words), "{words} in {text}");
    }
}
