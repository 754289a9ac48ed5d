//! The TOML form of a [`Topology`]. `labs/` holds examples.
//!
//! ```toml
//! name = "patrol"
//! seed = 7                        # default 1
//! network = "10.77.0.0/24"        # the default
//! mtu = 1500                      # the default
//! airtime = "per-pair"            # the default; or "shared": one channel for all
//! reach = "all"                   # the default; or "listed": only pairs in [[links]] reach each other
//!
//! [link]                          # what holds for every link; all optional
//! rate = "6M"
//! delay = "10ms"
//! jitter = "2ms"
//! loss = "1%"                     # or "1% burst 8", or "gilbert TO_BAD TO_GOOD IN_GOOD IN_BAD"
//! reorder = "0.1%"
//! queue = "64KiB"
//!
//! [[hosts]]
//! name = "hq"
//! address = "10.77.0.100"         # default: the network's next address
//!
//! [[hosts]]
//! name = "v"
//! count = 5                       # v1 to v5
//!
//! [[links]]                       # what is special about some pairs, over [link]
//! between = ["hq", "v1"]          # both ways; or from = "hq" and to = "v1"
//! rate = "64k"
//!
//! [[cuts]]
//! at = "30s"                      # after the start
//! for = "10s"                     # default: until healed by hand
//! split = [["hq"], ["v1", "v2"]]  # or between, or from and to
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::topology::{BadTopology, HostSpec, Topology, nth_address};
use crate::medium::units::Span;
use crate::medium::{Airtime, Change, MAX_HOSTS, Order, Settings};

/// Longest topology file that is read, bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    name: Spanned<String>,
    #[serde(default = "one")]
    seed: u64,
    network: Option<Spanned<String>>,
    mtu: Option<u32>,
    #[serde(default)]
    ipv6: bool,
    #[serde(default)]
    airtime: AirtimeForm,
    #[serde(default)]
    reach: Reach,
    #[serde(default)]
    link: Change,
    hosts: Vec<HostForm>,
    #[serde(default)]
    links: Vec<Spanned<LinkForm>>,
    #[serde(default)]
    cuts: Vec<Spanned<CutForm>>,
}

const fn one() -> u64 {
    1
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum AirtimeForm {
    #[default]
    PerPair,
    Shared,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Reach {
    #[default]
    All,
    Listed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostForm {
    name: Spanned<String>,
    address: Option<Ipv4Addr>,
    count: Option<usize>,
}

/// [`Change`] with whom it is about; `flatten` would lose which fields are unknown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkForm {
    between: Option<[String; 2]>,
    from: Option<String>,
    to: Option<String>,
    rate: Option<crate::medium::units::Rate>,
    delay: Option<Span>,
    jitter: Option<Span>,
    loss: Option<crate::medium::Loss>,
    reorder: Option<crate::medium::units::Share>,
    queue: Option<crate::medium::units::Queue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CutForm {
    at: Span,
    #[serde(rename = "for")]
    lasts: Option<Span>,
    between: Option<[String; 2]>,
    from: Option<String>,
    to: Option<String>,
    split: Option<Vec<Vec<String>>>,
}

impl Topology {
    /// Reads a topology file.
    ///
    /// # Errors
    /// [`BadTopology`] with the file's name, and the line where it is known.
    pub fn load(file: &Path) -> Result<Self, BadTopology> {
        let in_file = |error: BadTopology| BadTopology { file: Some(file.to_owned()), ..error };
        let mut text = String::new();
        std::fs::File::open(file)
            .and_then(|open| {
                std::io::Read::read_to_string(&mut std::io::Read::take(open, MAX_BYTES as u64 + 1), &mut text)
            })
            .map_err(|error| in_file(BadTopology::new(format!("cannot be read: {error}"))))?;
        Self::from_toml(&text).map_err(in_file)
    }

    /// Reads a topology from the text of a file.
    ///
    /// # Errors
    /// [`BadTopology`], with the line where it is known.
    pub fn from_toml(text: &str) -> Result<Self, BadTopology> {
        if text.len() > MAX_BYTES {
            return Err(BadTopology::new(format!("longer than {MAX_BYTES} bytes")));
        }
        let line = |place: usize| text.bytes().take(place).filter(|byte| *byte == b'\n').count() + 1;
        let form: Form = toml::from_str(text).map_err(|error| BadTopology {
            line: error.span().map(|span| line(span.start)),
            ..BadTopology::new(error.message())
        })?;
        let at = |span: Range<usize>| {
            move |error: BadTopology| BadTopology { line: error.line.or(Some(line(span.start))), ..error }
        };
        let mut topology = form.bare(&at)?;
        form.add_links(&mut topology, &at)?;
        form.add_cuts(&mut topology, &at)?;
        topology.check()?;
        Ok(topology)
    }
}

impl Form {
    /// The topology without links and cuts.
    fn bare<E: FnOnce(BadTopology) -> BadTopology>(
        &self,
        at: &impl Fn(Range<usize>) -> E,
    ) -> Result<Topology, BadTopology> {
        super::topology::check_name(self.name.get_ref()).map_err(at(self.name.span()))?;
        let (base, prefix) = match &self.network {
            None => (Ipv4Addr::new(10, 77, 0, 0), 24),
            Some(text) => network(text.get_ref()).map_err(at(text.span()))?,
        };
        let mut hosts: Vec<HostSpec> = Vec::new();
        for form in &self.hosts {
            let at = at(form.name.span());
            match add_hosts(form, base, prefix, &mut hosts) {
                Ok(()) => {}
                Err(message) => return Err(at(BadTopology::new(message))),
            }
        }
        Ok(Topology {
            name: self.name.get_ref().clone(),
            seed: self.seed,
            prefix,
            mtu: self.mtu.unwrap_or(1_500),
            ipv6: self.ipv6,
            airtime: match self.airtime {
                AirtimeForm::PerPair => Airtime::PerPair,
                AirtimeForm::Shared => Airtime::Shared,
            },
            hosts,
            links: Vec::new(),
            schedule: Vec::new(),
        })
    }

    fn add_links<E: FnOnce(BadTopology) -> BadTopology>(
        &self,
        topology: &mut Topology,
        at: &impl Fn(Range<usize>) -> E,
    ) -> Result<(), BadTopology> {
        let base = self.link.apply(&Settings::default());
        base.check().map_err(|error| BadTopology::new(format!("[link]: {error}")))?;
        let count = topology.hosts.len();
        let mut links: BTreeMap<(usize, usize), Settings> = BTreeMap::new();
        if self.reach == Reach::All {
            let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
            links.extend(pairs.filter(|(from, to)| from != to).map(|pair| (pair, base)));
        }
        for form in &self.links {
            let link = form.get_ref();
            let change = Change {
                rate: link.rate,
                delay: link.delay,
                jitter: link.jitter,
                loss: link.loss,
                reorder: link.reorder,
                queue: link.queue,
            };
            let pairs = pairs(topology, &link.between, &link.from, &link.to).map_err(at(form.span()))?;
            for pair in pairs {
                let settings = change.apply(links.get(&pair).unwrap_or(&base));
                settings.check().map_err(|error| at(form.span())(BadTopology::new(error.to_string())))?;
                links.insert(pair, settings);
            }
        }
        topology.links = links.into_iter().map(|((from, to), settings)| (from, to, settings)).collect();
        Ok(())
    }

    fn add_cuts<E: FnOnce(BadTopology) -> BadTopology>(
        &self,
        topology: &mut Topology,
        at: &impl Fn(Range<usize>) -> E,
    ) -> Result<(), BadTopology> {
        for form in &self.cuts {
            let cut = form.get_ref();
            let orders = match &cut.split {
                Some(groups) if cut.between.is_none() && cut.from.is_none() && cut.to.is_none() => {
                    topology.split(groups)
                }
                Some(_) => Err(BadTopology::new("a cut has either split, or between, or from and to")),
                None => pairs(topology, &cut.between, &cut.from, &cut.to).map(|pairs| {
                    let host = |place| crate::medium::HostIx(place as u16);
                    pairs.into_iter().map(|(from, to)| Order::Cut(host(from), host(to))).collect()
                }),
            };
            for order in orders.map_err(at(form.span()))? {
                topology.schedule.push((cut.at.0, order));
                if let (Some(lasts), Order::Cut(from, to)) = (cut.lasts, order) {
                    topology.schedule.push((cut.at.0 + lasts.0, Order::Heal(from, to)));
                }
            }
        }
        Ok(())
    }
}

/// `10.77.0.0/24`.
fn network(text: &str) -> Result<(Ipv4Addr, u8), BadTopology> {
    let parts =
        text.split_once('/').and_then(|(base, prefix)| Some((base.parse().ok()?, prefix.parse().ok()?)));
    match parts {
        Some((base, prefix)) if (8..=30).contains(&prefix) && u32::from(base) << prefix == 0 => {
            Ok((base, prefix))
        }
        _ => Err(BadTopology::new(format!(
            "'{}' is not a network: write its first address and a prefix length from 8 to 30, such as 10.77.0.0/24",
            text.chars().take(80).collect::<String>()
        ))),
    }
}

fn add_hosts(form: &HostForm, base: Ipv4Addr, prefix: u8, hosts: &mut Vec<HostSpec>) -> Result<(), String> {
    let name = form.name.get_ref();
    if form.count.is_some() && form.address.is_some() {
        return Err(format!("hosts '{name}' have both count and address"));
    }
    let names: Vec<String> = match form.count {
        None => vec![name.clone()],
        Some(count) if (1..=MAX_HOSTS).contains(&count) => {
            (1..=count).map(|n| format!("{name}{n}")).collect()
        }
        Some(count) => return Err(format!("{count} hosts '{name}': a lab has 1 to {MAX_HOSTS}")),
    };
    for name in names {
        super::topology::check_name(&name).map_err(|error| error.message)?;
        if hosts.iter().any(|host| host.name == name) {
            return Err(format!("there are two hosts '{name}'"));
        }
        let address = form.address.or_else(|| nth_address(base, prefix, hosts.len()));
        let address = address.ok_or_else(|| format!("the network has no address left for host '{name}'"))?;
        hosts.push(HostSpec { name, address });
    }
    Ok(())
}

/// The ordered pairs that an entry is about.
fn pairs(
    topology: &Topology,
    between: &Option<[String; 2]>,
    from: &Option<String>,
    to: &Option<String>,
) -> Result<Vec<(usize, usize)>, BadTopology> {
    let host = |name: &String| {
        let found = topology.host(name).map(|host| usize::from(host.0));
        found.ok_or_else(|| BadTopology::new(format!("there is no host '{name}'")))
    };
    let pairs = match (between, from, to) {
        (Some([a, b]), None, None) => vec![(host(a)?, host(b)?), (host(b)?, host(a)?)],
        (None, Some(from), Some(to)) => vec![(host(from)?, host(to)?)],
        _ => return Err(BadTopology::new("an entry has either between, or from and to")),
    };
    match pairs.iter().find(|(from, to)| from == to) {
        Some((host, _)) => {
            Err(BadTopology::new(format!("host '{}' has no link to itself", topology.hosts[*host].name)))
        }
        None => Ok(pairs),
    }
}
