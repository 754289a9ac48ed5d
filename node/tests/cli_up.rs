//! `cloudlet up` with the real hypervisor, without VMs: from the start to the end by a signal.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli_support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use cli_support::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;

/// A daemon in the foreground of a child process; killed if the test fails.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Up {
    /// Starts it and waits until it says where it answers.
    fn start(world: &World, arguments: &[&str]) -> (Self, Json) {
        let mut command =
            world.command(&[&["up", "--json", "--set", "discovery.enabled=false"][..], arguments].concat());
        let log = std::fs::File::create(world.path("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let up = Self(child);
        let mut document = String::new();
        loop {
            match lines.next() {
                Some(line) => document += &line.unwrap(),
                None => panic!("it ended: {}", std::fs::read_to_string(world.path("log")).unwrap()),
            }
            if let Ok(ready) = serde_json::from_str(&document) {
                return (up, ready);
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn wait(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

#[test]
fn it_answers_is_alone_and_ends_in_order() {
    let world = World::new();
    let (mut up, ready) = Up::start(&world, &["--listen", "127.0.0.1:0", "--name", "truck"]);
    assert_eq!(ready["name"], "truck");
    let listen = ready["listen"].as_str().unwrap().to_owned();
    let url = format!("http://{listen}");
    let here = format!("api.listen={listen}");

    let listed = world.run(&["vm", "list", "--api", &url, "--json"]).succeeded().json();
    assert_eq!(listed["instances"], Json::Array(Vec::new()));
    let ran = world.run(&["vm", "start", "speech", "--api", &url]).failed_with(1);
    assert!(ran.stderr.contains("there is no service 'speech' here"), "{}", ran.stderr);
    let unknown = uuid::Uuid::new_v4().to_string();
    for action in ["show", "stop"] {
        let ran = world.run(&["vm", action, &unknown, "--api", &url, "--json"]).failed_with(1);
        assert!(ran.json_error()["error"].as_str().unwrap().contains(&unknown), "{}", ran.stderr);
    }

    // Images are removed only after this daemon was asked.
    world.run(&["image", "gc", "--set", &here]).succeeded();

    // A second one is refused, for its state directory and for its port.
    let second = world.run(&["up"]).failed_with(1);
    let pid = up.0.id();
    assert!(
        second.stderr.contains(&format!("another cloudlet (process {pid}) already runs")),
        "{}",
        second.stderr
    );
    let other = world.path("other");
    let taken =
        world.run(&["up", "--listen", &listen, "--state-dir", other.to_str().unwrap()]).failed_with(1);
    assert!(taken.stderr.contains(&format!("{listen} is in use by another program")), "{}", taken.stderr);

    let doctor = world.run(&["doctor", "--json", "--set", &here]);
    let port =
        doctor.json()["checks"].as_array().unwrap().iter().find(|check| check["name"] == "api port").cloned();
    let finding = port.unwrap()["finding"].as_str().unwrap().to_owned();
    assert_eq!(finding, format!("{listen} is used by the running cloudlet 'truck'"));

    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait(), Some(0));
    let mut log = String::new();
    std::fs::File::open(world.path("log")).unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("cloudlet shuts down"), "{log}");
    assert!(std::net::TcpStream::connect(&listen).is_err(), "it no longer listens");
}
