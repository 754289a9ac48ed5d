//! What a lab is made of: hosts, who reaches whom and how, and what happens when. [`file`](super::file) reads it from
//! TOML.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::medium::{self, Airtime, HostIx, MAX_HOSTS, Mac, Order, Settings};

/// Longest name of a lab or host, characters: a host's name must do as a DNS label too, and paths of Unix sockets are
/// short.
pub const MAX_NAME: usize = 40;
/// What the radio's MTU may be, bytes: IPv4's least, and what still fits a TAP device's frame.
const MTU: std::ops::RangeInclusive<u32> = 576..=9_000;

/// A host of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// Its name: lower-case letters, digits and `-`.
    pub name: String,
    /// Address of its radio.
    pub address: Ipv4Addr,
}

/// Hosts, links, and what happens when.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Name of the lab: lower-case letters, digits and `-`. Of each name, one lab can run at a time.
    pub name: String,
    /// Fixes what is lost, delayed and reordered.
    pub seed: u64,
    /// Length of the network's prefix, bits.
    pub prefix: u8,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Whether hosts have IPv6 link-local addresses, and send what comes with them.
    pub ipv6: bool,
    /// Who shares what airtime.
    pub airtime: Airtime,
    /// The hosts, in order of their numbers.
    pub hosts: Vec<HostSpec>,
    /// The ordered pairs in reach: from, to, how. Numbers of `hosts`. A later one for the same pair counts.
    pub links: Vec<(usize, usize, Settings)>,
    /// What happens how long after the start.
    pub schedule: Vec<(Duration, Order)>,
}

/// A topology that cannot be. Names the file and the line where there are some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", .file.as_ref().map(|file| format!("{}:", file.display())).unwrap_or_default(),
        .line.map(|line| format!("{line}: ")).unwrap_or_default())]
pub struct BadTopology {
    /// The file, if it came from one.
    pub file: Option<PathBuf>,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl BadTopology {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { file: None, line: None, message: message.into() }
    }
}

/// Whether a lab or host may be called this.
pub(super) fn check_name(name: &str) -> Result<(), BadTopology> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(good) || name.starts_with('-') {
        return Err(BadTopology::new(format!(
            "'{}' is no name: write 1 to {MAX_NAME} of a-z, 0-9 and -, not beginning with -",
            name.chars().take(80).collect::<String>()
        )));
    }
    Ok(())
}

/// Address number `index`, from 0, of the network `base`/`prefix`: `base` + 1 + `index`.
pub(super) fn nth_address(base: Ipv4Addr, prefix: u8, index: usize) -> Option<Ipv4Addr> {
    let size = 1_u64 << (32 - u32::from(prefix.min(32)));
    let offset = index as u64 + 1;
    // The last address is the broadcast address.
    (offset + 1 < size).then(|| Ipv4Addr::from(u32::from(base).wrapping_add(offset as u32)))
}

impl Topology {
    /// `hosts` hosts `n1`, `n2`, … at 10.77.0.1, 10.77.0.2, …, each of which reaches each other by `settings`. At most
    /// [`MAX_HOSTS`].
    pub fn full_mesh(name: &str, hosts: usize, settings: Settings) -> Self {
        let base = Ipv4Addr::new(10, 77, 0, 0);
        let hosts: Vec<HostSpec> = (0..hosts.min(MAX_HOSTS))
            .filter_map(|n| {
                Some(HostSpec { name: format!("n{}", n + 1), address: nth_address(base, 16, n)? })
            })
            .collect();
        let pairs = (0..hosts.len()).flat_map(|from| (0..hosts.len()).map(move |to| (from, to)));
        let links = pairs.filter(|(from, to)| from != to).map(|(from, to)| (from, to, settings)).collect();
        Self {
            name: name.to_owned(),
            seed: 1,
            prefix: 16,
            mtu: 1_500,
            ipv6: false,
            airtime: Airtime::PerPair,
            hosts,
            links,
            schedule: Vec::new(),
        }
    }

    /// Whether there can be such a lab.
    ///
    /// # Errors
    /// [`BadTopology`] says what is wrong first.
    pub fn check(&self) -> Result<(), BadTopology> {
        let bad = |message: String| Err(BadTopology::new(message));
        check_name(&self.name)?;
        if self.hosts.is_empty() || self.hosts.len() > MAX_HOSTS {
            return bad(format!("{} hosts: a lab has 1 to {MAX_HOSTS}", self.hosts.len()));
        }
        if !MTU.contains(&self.mtu) {
            return bad(format!("mtu {} is not from {} to {}", self.mtu, MTU.start(), MTU.end()));
        }
        if !(8..=30).contains(&self.prefix) {
            return bad(format!("a network of prefix length {} is not from 8 to 30", self.prefix));
        }
        let mask = u32::MAX << (32 - u32::from(self.prefix));
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for host in &self.hosts {
            check_name(&host.name)?;
            if !names.insert(&host.name) {
                return bad(format!("there are two hosts '{}'", host.name));
            }
            let number = u32::from(host.address);
            let (network, rest) = (number & mask, number & !mask);
            if network != u32::from(self.hosts[0].address) & mask || rest == 0 || rest == !mask {
                return bad(format!(
                    "address {} of host '{}' is not in the network",
                    host.address, host.name
                ));
            }
            if !addresses.insert(host.address) {
                return bad(format!("there are two hosts with address {}", host.address));
            }
        }
        for (from, to, settings) in &self.links {
            if from == to || *from.max(to) >= self.hosts.len() {
                return bad(format!("a link from host number {from} to host number {to}"));
            }
            settings.check().map_err(|error| {
                let (from, to) = (&self.hosts[*from].name, &self.hosts[*to].name);
                BadTopology::new(format!("link from '{from}' to '{to}': {error}"))
            })?;
        }
        Ok(())
    }

    /// The number of a host.
    pub fn host(&self, name: &str) -> Option<HostIx> {
        // check() keeps the number of hosts below 2^16.
        self.hosts.iter().position(|host| host.name == name).map(|place| HostIx(place as u16))
    }

    /// Addresses of the radios: locally administered, the lab's letters, the host's number.
    pub(super) fn macs(&self) -> Vec<Mac> {
        (1_u16..)
            .take(self.hosts.len())
            .map(|n| [0x02, b'l', b'a', b'b', (n >> 8) as u8, n as u8])
            .map(Mac)
            .collect()
    }

    /// The medium between the hosts.
    ///
    /// # Errors
    /// [`BadTopology`] as from [`Topology::check`].
    pub fn medium(&self) -> Result<medium::Medium, BadTopology> {
        self.check()?;
        let mut medium = medium::Medium::new(&self.macs(), self.airtime, self.seed);
        for (from, to, settings) in &self.links {
            let order = Order::Set(HostIx(*from as u16), HostIx(*to as u16), (*settings).into());
            medium.order(order).map_err(|error| BadTopology::new(error.to_string()))?;
        }
        for (at, order) in &self.schedule {
            medium.schedule(*at, *order);
        }
        Ok(medium)
    }

    /// The orders that cut every link between hosts of different `groups`, both ways.
    ///
    /// # Errors
    /// [`BadTopology`] if a host does not exist or is named twice.
    pub fn split<S: AsRef<str>>(&self, groups: &[Vec<S>]) -> Result<Vec<Order>, BadTopology> {
        let mut side = vec![None; self.hosts.len()];
        for (number, group) in groups.iter().enumerate() {
            for name in group {
                let name = name.as_ref();
                let host =
                    self.host(name).ok_or_else(|| BadTopology::new(format!("there is no host '{name}'")))?;
                if side[usize::from(host.0)].replace(number).is_some() {
                    return Err(BadTopology::new(format!("host '{name}' is named twice in one split")));
                }
            }
        }
        let sides: Vec<(HostIx, usize)> =
            (0_u16..).map(HostIx).zip(&side).filter_map(|(host, side)| Some((host, (*side)?))).collect();
        let pairs = sides.iter().flat_map(|one| sides.iter().map(move |two| (one, two)));
        Ok(pairs.filter(|(one, two)| one.1 != two.1).map(|(one, two)| Order::Cut(one.0, two.0)).collect())
    }
}

impl Default for Topology {
    /// Two hosts on a perfect wire.
    fn default() -> Self {
        Self::full_mesh("lab", 2, Settings::default())
    }
}
