//! The lab: real programs on emulated radio.
//!
//! Every host is a network namespace with a TAP device `radio0` in it; one thread is the air between them. It reads the
//! frames of all hosts, asks the [`Medium`](crate::medium::Medium) what becomes of each, and writes them out when they
//! are due. Multicast and broadcast go to every host in reach, so ARP, mDNS and whatever else programs say works as on
//! a real network. The machine's own network is never touched.
//!
//! ```text
//!  namespace a            the lab's process                    namespace b
//!  programs - radio0 ===> lab-medium: Medium, epoll  ===> radio0 - programs
//!                         lab-control: Unix socket <--- cloudlet-lab cut, set, status, …
//! ```
//!
//! ```no_run
//! use simulations::lab::{Lab, Topology};
//! use simulations::medium::{Change, Settings};
//!
//! let lab = Lab::start(&Topology::full_mesh("example", 3, Settings::default()))?;
//! let mut program = lab.host("n1")?.command("cat").arg("/proc/net/arp").spawn().unwrap();
//! let socket = lab.host("n2")?.run(|| std::net::UdpSocket::bind("10.77.0.2:9"))?;
//! lab.cut("n1", "n2")?;
//! lab.set("n1", "n3", Change { rate: Some("64k".parse().unwrap()), ..Change::default() })?;
//! println!("{} bytes", lab.counters()?.host("n1").unwrap().sent.ip_bytes);
//! # program.wait().unwrap();
//! # Ok::<(), simulations::lab::Error>(())
//! ```
//!
//! **Invariant:** what the lab makes lives no longer than its process, however it ends: devices and namespaces are held
//! by file descriptors. Only programs that run in a host can stay behind; dropping the [`Lab`] ends them, and after a
//! crash the next start does, or [`down`].

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

mod arp;
pub mod check;
pub mod control;
mod counted;
mod driver;
mod error;
pub mod file;
mod leftovers;
mod namespace;
mod pool;
mod runtime;
mod tap;
pub mod topology;

pub use counted::Counters;
pub use driver::Snapshot;
pub use error::Error;
pub use runtime::{Ended, down, log};
pub use topology::{BadTopology, HostSpec, Topology};

use crate::medium::{Change, HostIx, Mac};
use driver::Driver;
use error::system;
use namespace::{Namespace, inside};

/// What every host calls its radio.
pub const RADIO: &str = "radio0";

/// What the control thread needs too.
struct Core {
    topology: Topology,
    macs: Vec<Mac>,
    namespaces: Vec<File>,
    inodes: Vec<u64>,
    driver: Driver,
}

impl Core {
    fn host_ix(&self, name: &str) -> Result<HostIx, Error> {
        let unknown = || Error::UnknownHost { lab: self.topology.name.clone(), host: name.to_owned() };
        self.topology.host(name).ok_or_else(unknown)
    }

    fn namespace_path(&self, number: usize) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.namespaces[number].as_raw_fd()))
    }

    /// Frames that host `number` sent but that the kernel dropped before the medium took them.
    fn overruns(&self, number: usize) -> Result<u64, Error> {
        inside(Some(&self.namespaces[number]), || {
            let table =
                std::fs::read_to_string("/proc/thread-self/net/dev").map_err(system("read /proc/net/dev"))?;
            let line = table.lines().find_map(|line| line.trim().strip_prefix(RADIO)?.strip_prefix(':'));
            // After the name: eight numbers of receiving, then bytes, packets, errors, drops of sending.
            Ok(line.and_then(|line| line.split_whitespace().nth(11)?.parse().ok()).unwrap_or(0))
        })
    }
}

/// A running lab. Dropping it ends all programs in its hosts (SIGTERM, after a second SIGKILL) and removes everything.
pub struct Lab {
    core: Arc<Core>,
    server: Option<control::Server>,
    // In this order: whoever sees the name free finds the limits put back.
    _room: arp::Room,
    _claim: runtime::Claim,
}

impl Lab {
    /// Starts a lab; first ends what a crashed one of the same name left.
    ///
    /// # Errors
    /// See [`Error`]. Nothing is left behind.
    pub fn start(topology: &Topology) -> Result<Self, Error> {
        let medium = topology.medium()?;
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        tap::open_control()?;
        let claim = runtime::Claim::take(&topology.name)?;
        leftovers::sweep(&topology.name)?;
        let room = arp::Room::make(&topology.name, topology.hosts.len())?;
        let macs = topology.macs();
        let (mut namespaces, mut inodes, mut taps) = (Vec::new(), Vec::new(), Vec::new());
        for (host, mac) in topology.hosts.iter().zip(&macs) {
            let Namespace { file, inode, tap } = Namespace::create(topology, host, *mac)?;
            namespaces.push(file);
            inodes.push(inode);
            taps.push(tap);
        }
        let driver = Driver::start(medium, taps, topology.mtu)?;
        let core = Arc::new(Core { topology: topology.clone(), macs, namespaces, inodes, driver });
        let server = control::Server::start(Arc::clone(&core))?;
        Ok(Self { core, server: Some(server), _room: room, _claim: claim })
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.core.topology.name
    }

    /// A host.
    ///
    /// # Errors
    /// [`Error::UnknownHost`].
    pub fn host(&self, name: &str) -> Result<Host<'_>, Error> {
        Ok(Host { core: &self.core, number: usize::from(self.core.host_ix(name)?.0) })
    }

    /// All hosts, in order of the topology.
    pub fn hosts(&self) -> impl Iterator<Item = Host<'_>> {
        (0..self.core.topology.hosts.len()).map(|number| Host { core: &self.core, number })
    }

    /// Cuts the link between `a` and `b`, both ways. What is on its way is lost.
    ///
    /// # Errors
    /// [`Error::UnknownHost`].
    pub fn cut(&self, a: &str, b: &str) -> Result<(), Error> {
        let way = |from: &str, to: &str| control::Command::Cut { from: from.to_owned(), to: to.to_owned() };
        self.core.commands(&[way(a, b), way(b, a)])
    }

    /// Lets frames pass again between `a` and `b`, both ways.
    ///
    /// # Errors
    /// [`Error::UnknownHost`].
    pub fn heal(&self, a: &str, b: &str) -> Result<(), Error> {
        let way = |from: &str, to: &str| control::Command::Heal { from: from.to_owned(), to: to.to_owned() };
        self.core.commands(&[way(a, b), way(b, a)])
    }

    /// Lets frames pass again over all links that were cut.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub fn heal_all(&self) -> Result<(), Error> {
        self.core.commands(&[control::Command::HealAll])
    }

    /// Cuts all links between hosts of different groups. Hosts in no group keep theirs.
    ///
    /// # Errors
    /// [`Error::Topology`] if a host does not exist or is named twice.
    pub fn split<G: AsRef<[S]>, S: AsRef<str>>(&self, groups: &[G]) -> Result<(), Error> {
        let names = |group: &G| group.as_ref().iter().map(|name| name.as_ref().to_owned()).collect();
        self.core.commands(&[control::Command::Split { groups: groups.iter().map(names).collect() }])
    }

    /// Changes the link between `a` and `b`, both ways, for frames that are sent from now on. A pair that was out of
    /// reach comes into reach.
    ///
    /// # Errors
    /// [`Error::UnknownHost`], or [`Error::Settings`] if a link cannot be so.
    pub fn set(&self, a: &str, b: &str, change: Change) -> Result<(), Error> {
        self.set_one_way(a, b, change)?;
        self.set_one_way(b, a, change)
    }

    /// As [`Lab::set`], only from `from` to `to`.
    ///
    /// # Errors
    /// As [`Lab::set`].
    pub fn set_one_way(&self, from: &str, to: &str, change: Change) -> Result<(), Error> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.core.commands(&[control::Command::Set { from, to, change }])
    }

    /// Everything that was counted since the start.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub fn counters(&self) -> Result<Counters, Error> {
        Ok(Counters::new(&self.core.topology, self.snapshot()?))
    }

    /// The medium at this moment, by numbers of hosts.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        self.core.driver.snapshot()
    }

    /// The state as `cloudlet-lab status` shows it.
    ///
    /// # Errors
    /// [`Error::Ended`], or [`Error::System`].
    pub fn status(&self) -> Result<control::Status, Error> {
        self.core.status()
    }

    /// How many hosts have lost their radio, as by `ip link del`.
    pub fn dead_radios(&self) -> u64 {
        self.core.driver.dead_devices()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.server.take();
        if let Err(error) = leftovers::end_inside(&self.core.inodes) {
            let source = std::error::Error::source(&error).map(|it| format!(": {it}")).unwrap_or_default();
            eprintln!("cloudlet-lab: {error}{source}");
        }
    }
}

/// A host of a running lab.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    core: &'a Core,
    number: usize,
}

impl Host<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.topology.hosts[self.number].name
    }

    /// Address of its radio.
    pub fn address(&self) -> Ipv4Addr {
        self.core.topology.hosts[self.number].address
    }

    /// Ethernet address of its radio.
    pub fn mac(&self) -> [u8; 6] {
        self.core.macs[self.number].0
    }

    /// Its network namespace, for `nsenter --net=` and the like, as long as the lab lives.
    pub fn namespace(&self) -> PathBuf {
        self.core.namespace_path(self.number)
    }

    /// A command that will run in the host: `program`, found in `PATH`, to which arguments and the rest may be added.
    /// The child is the program itself (`nsenter` becomes it), so its number, signals and exit status are the
    /// program's. `/sys` stays the machine's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut net = std::ffi::OsString::from("--net=");
        net.push(self.namespace());
        let mut command = Command::new("nsenter");
        command.arg(net).arg("--").arg(program);
        command
    }

    /// Runs `work` in a thread of its own inside the host, and waits for it. Sockets that it makes belong to the host,
    /// also after they were handed out.
    ///
    /// # Errors
    /// [`Error::System`] if there is no thread, or `work` failed with this [`std::io::Error`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T, Error> {
        let name = self.name().to_owned();
        inside(Some(&self.core.namespaces[self.number]), || {
            work().map_err(system(format!("do what was asked in host '{name}'")))
        })
    }

    /// Frames that the kernel dropped before the medium took them. Not 0 means that the lab was too slow.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn overrun_frames(&self) -> Result<u64, Error> {
        self.core.overruns(self.number)
    }
}

/// Waits until `condition`, at most `limit`; whether it came true.
fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    const STEP: Duration = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    while !condition() {
        if waited >= limit {
            return false;
        }
        std::thread::sleep(STEP);
        waited += STEP;
    }
    true
}
