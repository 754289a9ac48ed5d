//! `cloudlet-lab` as a person calls it.

#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use simulations::lab::Topology;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cloudlet-lab");

fn lab(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

#[track_caller]
fn good(arguments: &[&str]) -> String {
    let output = lab(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether this is root; the lab needs it.
fn root() -> bool {
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("SKIPPED: the lab needs root");
    }
    root
}

/// A topology file and a lab name that no other test has.
fn topology(name: &str) -> (PathBuf, String) {
    let lab = format!("c{}-{name}", std::process::id());
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{lab}.toml"));
    let hosts = ["a", "b", "c"].map(|name| format!("[[hosts]]\nname = \"{name}\"\n")).concat();
    std::fs::write(&file, format!("name = \"{lab}\"\n[link]\ndelay = \"1ms\"\n{hosts}")).unwrap();
    (file, lab)
}

/// `up` in the foreground, and its first line: it is up by then.
fn up(file: &Path) -> Child {
    let mut child = Command::new(PROGRAM).arg("up").arg(file).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("is up: 3 hosts"), "{line}");
    child
}

fn namespace(pid: u32) -> Option<u64> {
    Some(std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino())
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} did not come true in 10 s");
}

/// A program that runs in a host until somebody ends it.
fn sleeper(lab: &str, host: &str) -> Child {
    let child = Command::new(PROGRAM).args(["exec", lab, host, "--", "sleep", "1000"]).spawn().unwrap();
    let own = namespace(std::process::id());
    wait_until("the sleeper", || namespace(child.id()).is_some_and(|it| Some(it) != own));
    child
}

/// Nothing of a lab is there but what may be: files under /run, and namespaces with its mark.
fn nothing_left(lab: &str) {
    for ending in ["lock", "control", "log"] {
        let file = format!("/run/cloudlet-lab/{lab}.{ending}");
        assert!(!Path::new(&file).exists(), "{file}");
    }
    let output = lab_down(lab);
    assert!(output.contains("was not running") && !output.contains("left in it"), "{output}");
}

fn lab_down(lab: &str) -> String {
    good(&["down", lab])
}

#[test]
fn commands_change_the_lab_and_status_shows_it() {
    if !root() {
        return;
    }
    let (file, name) = topology("commands");
    let path = file.to_str().unwrap();
    let text = good(&["up", "--detach", path]);
    assert!(text.contains("10.77.0.3"), "{text}");
    let status = |what: &str| -> serde_json::Value {
        let status: serde_json::Value = serde_json::from_str(&good(&["status", path, "--json"])).unwrap();
        status[what].clone()
    };
    good(&["set", path, "a", "b", "--rate", "10M", "--loss", "2%", "--one-way"]);
    good(&["cut", &name, "a", "c"]);
    let links = status("links");
    let link = |from: &str, to: &str| {
        links.as_array().unwrap().iter().find(|it| it["from"] == from && it["to"] == to).unwrap().clone()
    };
    assert_eq!(
        (&link("a", "b")["settings"]["rate"], &link("a", "b")["settings"]["delay"]),
        (&"10M".into(), &"1ms".into())
    );
    assert_eq!(link("b", "a")["settings"]["rate"], "unlimited");
    assert_eq!((&link("a", "c")["up"], &link("c", "a")["up"]), (&false.into(), &false.into()));
    assert!(good(&["status", &name]).contains("CUT"));
    good(&["heal", path]);
    good(&["split", path, "a,b", "c"]);
    let links = status("links");
    let cut = links.as_array().unwrap().iter().filter(|link| link["up"] == false).count();
    assert_eq!(cut, 4);

    assert_eq!(lab(&["exec", path, "a", "--", "sh", "-c", "exit 9"]).status.code(), Some(9));
    assert!(good(&["exec", path, "b", "--", "ip", "-brief", "address"]).contains("10.77.0.2/24"));
    for (arguments, says) in [
        (vec!["cut", path, "a", "nobody"], "no host 'nobody'"),
        (vec!["set", path, "a", "b", "--jitter", "1s"], "jitter 1s is more than delay 1ms"),
        (vec!["exec", path, "x", "--", "true"], "no host 'x', but a, b, c"),
        (vec!["exec", path, "a", "--", "/no/such/program"], "/no/such/program"),
        (vec!["up", path], "running already"),
        (vec!["up", "--detach", path], "running already"),
    ] {
        let output = lab(&arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains(says), "{arguments:?}: {error}");
    }
    assert!(lab_down(&name).contains("has ended"));
    nothing_left(&name);
    assert_eq!(lab(&["status", &name]).status.code(), Some(1));
}

#[test]
fn ctrl_c_ends_the_lab_and_what_runs_in_it() {
    if !root() {
        return;
    }
    let (file, name) = topology("interrupt");
    let mut up = up(&file);
    let mut sleeper = sleeper(&name, "a");
    let interrupt = Command::new("kill").args(["-INT", &up.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    assert!(up.wait().unwrap().success());
    assert!(!sleeper.wait().unwrap().success());
    nothing_left(&name);
}

#[test]
fn after_kill_9_down_or_the_next_start_removes_what_is_left() {
    if !root() {
        return;
    }
    let (file, name) = topology("killed");
    for by_down in [true, false] {
        let mut first = up(&file);
        let mut left = sleeper(&name, "b");
        let there = namespace(left.id()).unwrap();
        first.kill().unwrap();
        first.wait().unwrap();
        // It lives on, without a radio: the device went with the lab.
        assert_eq!((left.try_wait().unwrap(), namespace(left.id())), (None, Some(there)));
        let devices = || std::fs::read_to_string(format!("/proc/{}/net/dev", left.id())).unwrap();
        wait_until("a host without a radio", || !devices().contains("radio0"));
        if by_down {
            assert!(lab_down(&name).contains("ended 1 programs"));
        } else {
            let mut second = up(&file);
            assert!(!left.wait().unwrap().success());
            assert!(lab_down(&name).contains("has ended"));
            assert!(second.wait().unwrap().success());
        }
        assert!(!left.wait().unwrap().success());
        nothing_left(&name);
    }
}

#[test]
fn a_bad_topology_is_named_with_its_line() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bad-topology.toml");
    let path = file.to_str().unwrap();
    let hosts = "name = \"x\"\n[[hosts]]\nname = \"a\"\n[[hosts]]\nname = \"b\"\n";
    for (text, line, says) in [
        (format!("{hosts}[[links]]\nbetween = [\"a\", \"c\"]\n"), 6, "no host 'c'"),
        (format!("{hosts}[link]\ndelai = \"5ms\"\n"), 7, "delai"),
        (format!("{hosts}[link]\nrate = \"fast\"\n"), 7, "'fast' is not a rate"),
        (format!("{hosts}[[links]]\nbetween = [\"a\", \"b\"]\njitter = \"1s\"\n"), 6, "jitter 1s"),
        (format!("{hosts}[[cuts]]\nat = \"1s\"\nsplit = [[\"a\"], [\"a\"]]\n"), 6, "named twice"),
        (format!("{hosts}[[hosts]]\nname = \"a\"\n"), 7, "two hosts 'a'"),
        (format!("{hosts}[[hosts]]\nname = \"Ä\"\n"), 7, "is no name"),
        (format!("{hosts}[["), 6, ""),
        (
            "name = \"x\"\nnetwork = \"10.77.0.1/24\"\nhosts = [{name = \"a\"}]\n".to_owned(),
            2,
            "is not a network",
        ),
    ] {
        std::fs::write(&file, &text).unwrap();
        for arguments in [["up", path], ["down", path]] {
            let output = lab(&arguments);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{error}");
            assert!(
                error.starts_with(&format!("cloudlet-lab: {path}:{line}: ")) && error.contains(says),
                "{text}\n{error}"
            );
        }
    }
    let missing = lab(&["up", "no-such.toml"]);
    assert!(String::from_utf8(missing.stderr).unwrap().contains("no-such.toml"));
    assert_eq!((missing.status.code(), lab(&["cut"]).status.code()), (Some(2), Some(2)));
}

#[test]
fn the_examples_are_topologies() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs");
    let files: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let topology = Topology::load(&file).unwrap();
        let state = topology.medium().unwrap();
        assert_eq!(
            state.links().count(),
            topology.hosts.len() * (topology.hosts.len() - 1),
            "{}",
            file.display()
        );
    }
}
