//! Talking to a lab that another process runs: one JSON line each way over a Unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Core, Error, error::system, runtime, topology};
use crate::medium::counters;
use crate::medium::{Change, Order};

/// Counts up with every change of the messages that an older program would misunderstand.
const VERSION: u32 = 1;
/// Longest request, bytes: a split of a thousand hosts.
const MAX_REQUEST: u64 = 256 * 1024;
/// Longest answer, bytes: a status with the million ordered pairs of a thousand hosts.
const MAX_ANSWER: u64 = 1024 * 1024 * 1024;
/// How long either side may take for its line.
const PATIENCE: Duration = Duration::from_secs(30);

/// A change by name, as people give it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Nothing passes from one to the other any more.
    Cut {
        /// Sender.
        from: String,
        /// Receiver.
        to: String,
    },
    /// Frames pass again.
    Heal {
        /// Sender.
        from: String,
        /// Receiver.
        to: String,
    },
    /// All cut links pass frames again.
    HealAll,
    /// Cuts all links between hosts of different groups. Hosts in no group keep theirs.
    Split {
        /// Names of the hosts.
        groups: Vec<Vec<String>>,
    },
    /// Changes a link.
    Set {
        /// Sender.
        from: String,
        /// Receiver.
        to: String,
        /// What changes.
        change: Change,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ask {
    Status,
    Commands(Vec<Command>),
}

#[derive(Serialize, Deserialize)]
struct Request {
    version: u32,
    ask: Ask,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Status(Box<Status>),
    Done,
    Failed(String),
}

/// A host in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Address of its radio.
    pub address: Ipv4Addr,
    /// Its network namespace, for `nsenter --net=`.
    pub namespace: PathBuf,
    /// What it sent and received.
    pub counters: counters::Host,
    /// Frames that the kernel dropped before the medium saw them, because the medium was too slow to take them.
    pub overrun_frames: u64,
}

/// An ordered pair in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Sender.
    pub from: String,
    /// Receiver.
    pub to: String,
    /// Not cut.
    pub up: bool,
    /// How it carries frames; all fields are there.
    pub settings: Change,
    /// What it carried.
    pub counters: counters::Pair,
}

/// A running lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The process that runs it.
    pub pid: u32,
    /// Time since its start.
    pub uptime_ms: u64,
    /// Frames dropped because too many were on their way in the whole lab.
    pub overload_frames: u64,
    /// The most that a frame came too late since the last status or snapshot.
    pub worst_lateness_us: u64,
    /// Hosts, in order of the topology.
    pub hosts: Vec<HostStatus>,
    /// Ordered pairs in reach.
    pub links: Vec<LinkStatus>,
}

impl Core {
    pub(super) fn commands(&self, commands: &[Command]) -> Result<(), Error> {
        let mut orders = Vec::new();
        for command in commands {
            match command {
                Command::Cut { from, to } => orders.push(Order::Cut(self.host_ix(from)?, self.host_ix(to)?)),
                Command::Heal { from, to } => {
                    orders.push(Order::Heal(self.host_ix(from)?, self.host_ix(to)?))
                }
                Command::HealAll => orders.push(Order::HealAll),
                Command::Split { groups } => orders.extend(self.topology.split(groups)?),
                Command::Set { from, to, change } => {
                    orders.push(Order::Set(self.host_ix(from)?, self.host_ix(to)?, *change));
                }
            }
        }
        self.driver.order(orders)
    }

    pub(super) fn status(&self) -> Result<Status, Error> {
        let snapshot = self.driver.snapshot()?;
        let mut hosts = Vec::with_capacity(snapshot.hosts.len());
        for ((number, spec), counters) in self.topology.hosts.iter().enumerate().zip(&snapshot.hosts) {
            hosts.push(HostStatus {
                name: spec.name.clone(),
                address: spec.address,
                namespace: self.namespace_path(number),
                counters: *counters,
                overrun_frames: self.overruns(number)?,
            });
        }
        let name = |host: crate::medium::HostIx| self.topology.hosts[usize::from(host.0)].name.clone();
        let links = snapshot.links.iter().map(|link| LinkStatus {
            from: name(link.from),
            to: name(link.to),
            up: link.up,
            settings: link.settings.into(),
            counters: link.counters,
        });
        Ok(Status {
            name: self.topology.name.clone(),
            pid: std::process::id(),
            uptime_ms: snapshot.at.as_millis() as u64,
            overload_frames: snapshot.overload_frames,
            worst_lateness_us: snapshot.worst_lateness.as_micros() as u64,
            hosts,
            links: links.collect(),
        })
    }
}

/// Listens for other processes. Ends when dropped.
pub(super) struct Server {
    name: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(core: Arc<Core>) -> Result<Self, Error> {
        let name = core.topology.name.clone();
        let listener =
            UnixListener::bind(runtime::socket(&name)).map_err(system("make the control socket"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("lab-control".to_owned())
            .spawn(move || {
                for stream in listener.incoming() {
                    if stopped.load(Ordering::Acquire) {
                        return;
                    }
                    // A client that breaks off, or says nothing for long, harms only itself.
                    let _ = stream.and_then(|stream| serve(&core, stream));
                }
            })
            .map_err(system("start the control thread"))?;
        Ok(Self { name, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread; if that is impossible, it is left to the end of the process.
        let woken = UnixStream::connect(runtime::socket(&self.name)).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

fn serve(core: &Core, stream: UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&stream).take(MAX_REQUEST)).read_line(&mut line)?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(Request { version, .. }) if version != VERSION => Answer::Failed(format!(
            "this lab speaks version {VERSION} of the control messages, not {version}"
        )),
        Ok(Request { ask: Ask::Status, .. }) => match core.status() {
            Ok(status) => Answer::Status(Box::new(status)),
            Err(error) => Answer::Failed(error.to_string()),
        },
        Ok(Request { ask: Ask::Commands(commands), .. }) => match core.commands(&commands) {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Failed(error.to_string()),
        },
        Err(error) => Answer::Failed(format!("not a request: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    (&stream).write_all(&text)
}

fn ask(lab: &str, ask: Ask) -> Result<Answer, Error> {
    topology::check_name(lab)?;
    let stream =
        UnixStream::connect(runtime::socket(lab)).map_err(|_| Error::NotRunning { name: lab.to_owned() })?;
    let talk = || -> std::io::Result<Answer> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut text = serde_json::to_vec(&Request { version: VERSION, ask })?;
        text.push(b'\n');
        (&stream).write_all(&text)?;
        let mut line = String::new();
        BufReader::new((&stream).take(MAX_ANSWER)).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    match talk() {
        Ok(Answer::Failed(message)) => Err(Error::Control { lab: lab.to_owned(), message }),
        Ok(answer) => Ok(answer),
        Err(error) => Err(Error::Control { lab: lab.to_owned(), message: error.to_string() }),
    }
}

/// The state of the lab called `lab`, which another process may run.
///
/// # Errors
/// [`Error::NotRunning`], or [`Error::Control`] with what the lab said.
pub fn status(lab: &str) -> Result<Status, Error> {
    match ask(lab, Ask::Status)? {
        Answer::Status(status) => Ok(*status),
        _ => Err(Error::Control { lab: lab.to_owned(), message: "answered something else".to_owned() }),
    }
}

/// Has the lab called `lab` do `commands`, all at once: if a name is unknown, none is done.
///
/// # Errors
/// [`Error::NotRunning`], or [`Error::Control`] with what the lab said.
pub fn command(lab: &str, commands: Vec<Command>) -> Result<(), Error> {
    ask(lab, Ask::Commands(commands)).map(drop)
}
