//! `cloudlet up` as a child process.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use handheld::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::site::CLOUDLET;
use super::{Site, capabilities};

/// A daemon; killed when this is dropped.
pub struct Up {
    child: Child,
    log: PathBuf,
    /// Where its API answers.
    pub listen: SocketAddr,
}

impl Up {
    /// Starts it on a free port and waits until it says that it answers.
    #[track_caller]
    pub fn start(site: &Site, arguments: &[&str]) -> Self {
        let quiet = ["--set", "discovery.enabled=false"];
        Self::start_as(site, &[CLOUDLET], &[&quiet, arguments].concat())
    }

    /// The same with another way to start the program.
    #[track_caller]
    pub fn start_as(site: &Site, program: &[&str], arguments: &[&str]) -> Self {
        let log = site.path("log");
        let all = [&["up", "--json", "--listen", "127.0.0.1:0"], arguments].concat();
        let stderr = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = site.command(program, &all);
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed from here on, also if it never answers.
        let mut up = Self { child, log, listen: ([127, 0, 0, 1], 0).into() };
        let mut document = String::new();
        let ready: serde_json::Value = loop {
            match lines.next() {
                Some(line) => document += &line.unwrap(),
                None => panic!("the daemon ended: {}", up.log()),
            }
            if let Ok(ready) = serde_json::from_str(&document) {
                break ready;
            }
        };
        up.listen = ready["listen"].as_str().unwrap().parse().unwrap();
        capabilities::keep(&site.libvirt());
        up
    }

    pub fn client(&self) -> Client {
        Client::at(self.listen).unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// What it and its predecessors in this directory have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it with SIGTERM; gives its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
