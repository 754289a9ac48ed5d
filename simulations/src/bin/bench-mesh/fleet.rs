//! A lab with one process in each host, and what the processes have said.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use simulations::lab::{Lab, Topology};

use crate::clock::now;
use crate::system::{Radio, Said, System, serf_event};

/// What a node has said so far.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// What the others call it.
    pub called: Option<String>,
    /// Whom it sees, and by what name; itself not always.
    pub here: BTreeMap<String, Option<String>>,
    /// When it first heard of each change.
    pub heard: BTreeMap<String, Instant>,
    /// When it last said that a node had gone.
    pub gone: BTreeMap<String, Instant>,
    /// When it last said that a link had gone.
    pub parted: BTreeMap<String, Instant>,
    /// When it last began to spread something.
    pub began: Option<Instant>,
    /// How many links it last said to have.
    pub links: Option<usize>,
    /// How often it said that somebody had gone.
    pub alarms: usize,
    /// How often it gave up a link because it heard nothing.
    pub silences: usize,
    /// When its output ended.
    pub ended: Option<Instant>,
}

impl Node {
    fn note(&mut self, at: Instant, said: Said) {
        match said {
            Said::Iam(called) => self.called = Some(called),
            Said::Began => self.began = Some(at),
            Said::Here { node, name } => {
                if let Some(name) = &name {
                    self.heard.entry(name.clone()).or_insert(at);
                }
                self.here.insert(node, name);
            }
            Said::Heard(tag) => {
                self.heard.entry(tag).or_insert(at);
            }
            Said::Gone(node) => {
                self.here.remove(&node);
                self.gone.insert(node, at);
                self.alarms += 1;
            }
            Said::Parted { node, is_silent } => {
                self.silences += usize::from(is_silent);
                self.parted.insert(node, at);
            }
            Said::Links(links) => self.links = Some(links),
        }
    }

    /// How many nodes it sees, itself included.
    pub fn sees(&self) -> usize {
        let sees_itself = self.called.as_ref().is_some_and(|called| self.here.contains_key(called));
        self.here.len() + usize::from(!sees_itself)
    }
}

#[derive(Default)]
struct Journal {
    nodes: Mutex<Vec<Node>>,
    changed: Condvar,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Vec<Node>> {
        // A panic elsewhere ends the program anyway.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, index: usize, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.lock().get_mut(index) {
            change(node);
        }
        self.changed.notify_all();
    }
}

/// A running lab of one system.
pub struct Fleet {
    pub system: System,
    pub lab: Lab,
    processes: Vec<Option<Child>>,
    journal: Arc<Journal>,
    directory: PathBuf,
}

impl Fleet {
    /// Starts a lab with `count` hosts and a node in each.
    pub fn start(
        system: System,
        radio: Radio,
        count: usize,
        program: &Path,
        name: &str,
    ) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("bench-mesh-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        system.prepare(program, &directory, count)?;
        let topology = Topology::full_mesh(name, count, radio.settings()?);
        let lab = Lab::start(&topology)?;
        let mut fleet = Self { system, lab, processes: Vec::new(), journal: Arc::default(), directory };
        *fleet.journal.lock() = vec![Node::default(); count];
        for index in 0..count {
            let child = fleet.spawn(program, index)?;
            fleet.processes.push(Some(child));
        }
        Ok(fleet)
    }

    fn spawn(&self, program: &Path, index: usize) -> anyhow::Result<Child> {
        let host = self.host_name(index);
        let log = self.directory.join(format!("{host}.log"));
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let host = self.lab.host(&host)?;
        let first = self.lab.host(&self.host_name(0))?;
        let mut child = self
            .system
            .command(program, &self.directory, host, index, first)
            .stdin(if self.system.listens() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {} in host {}", self.system.title(), host.name()))?;
        if !self.system.listens() {
            self.journal.note(index, |node| node.called = Some(host.name().to_owned()));
        }
        let Some(output) = child.stdout.take() else { bail!("a node has no output") };
        let (journal, system) = (Arc::clone(&self.journal), self.system);
        let read = move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let at = now();
                if let Some(said) = system.understand(&line) {
                    journal.note(index, |node| node.note(at, said));
                }
            }
            journal.note(index, |node| node.ended = Some(now()));
        };
        std::thread::Builder::new().name("reader".to_owned()).spawn(read).context("cannot start a thread")?;
        Ok(child)
    }

    pub fn host_name(&self, index: usize) -> String {
        format!("n{}", index + 1)
    }

    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// What was said until now.
    pub fn nodes(&self) -> Vec<Node> {
        self.journal.lock().clone()
    }

    /// Nodes that were not killed.
    pub fn alive(&self) -> Vec<usize> {
        (0..self.len()).filter(|index| self.processes[*index].is_some()).collect()
    }

    /// Waits until what nodes said fulfils `condition`, at most `limit`; whether it did.
    pub fn wait(&self, limit: Duration, condition: impl Fn(&[Node]) -> bool) -> bool {
        let unmet = |nodes: &mut Vec<Node>| !condition(nodes);
        let result = self.journal.changed.wait_timeout_while(self.journal.lock(), limit, unmet);
        !result.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Fails if a node ended that nobody killed.
    pub fn check(&self) -> anyhow::Result<()> {
        let nodes = self.journal.lock();
        if let Some(index) = self.alive().into_iter().find(|index| nodes[*index].ended.is_some()) {
            let host = self.host_name(index);
            let log = self.directory.join(format!("{host}.log"));
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("{} in host {host} ended by itself; it said: {}", self.system.title(), text.trim());
        }
        Ok(())
    }

    /// Tells a node something. Ours only.
    pub fn tell(&mut self, index: usize, words: &str) -> anyhow::Result<()> {
        let stdin = self.processes[index].as_mut().and_then(|child| child.stdin.as_mut());
        let Some(stdin) = stdin else { bail!("{} cannot be told '{words}'", self.system.title()) };
        writeln!(stdin, "{words}").and_then(|()| stdin.flush()).context("a node does not listen")
    }

    /// Has a node change what it says of itself, and waits until it has begun; when that was.
    pub fn change(&mut self, index: usize, tag: &str, holds_back: bool) -> anyhow::Result<Instant> {
        let before = now();
        if self.system.listens() {
            self.tell(index, &format!("event {tag}"))?;
        } else {
            let host = self.host_name(index);
            let status = serf_event(self.lab.host(&host)?, tag, holds_back).stdout(Stdio::null()).status();
            if !status.context("cannot run serf event")?.success() {
                bail!("serf event failed in host {host}");
            }
        }
        let limit = Duration::from_secs(5);
        let has_begun = |nodes: &[Node]| nodes[index].began.is_some_and(|began| began >= before);
        if !self.wait(limit, has_begun) {
            bail!(
                "{} in host {} did not begin to spread a change",
                self.system.title(),
                self.host_name(index)
            );
        }
        Ok(self.nodes()[index].began.unwrap_or(before))
    }

    /// Kills a node without warning (SIGKILL); when that was.
    pub fn kill(&mut self, index: usize) -> anyhow::Result<Instant> {
        let Some(mut child) = self.processes[index].take() else { bail!("it is dead already") };
        let at = now();
        child.kill().context("cannot kill a node")?;
        child.wait().context("cannot wait for a node")?;
        Ok(at)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.processes.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_sees_itself_once() {
        let mut node = Node { called: Some("a".to_owned()), ..Node::default() };
        assert_eq!(node.sees(), 1);
        let here = |node: &str| Said::Here { node: node.to_owned(), name: None };
        node.note(now(), here("b"));
        assert_eq!(node.sees(), 2);
        node.note(now(), here("a"));
        assert_eq!(node.sees(), 2);
        node.note(now(), Said::Gone("b".to_owned()));
        assert_eq!((node.sees(), node.alarms), (1, 1));
    }
}
