//! Which network interfaces take part, and whether they can do multicast at all.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use mdns_sd::{IfKind, ServiceDaemon};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::error::{Error, NoMulticast, doing};
use super::query;

/// A DNS response without records: every responder ignores it.
const EMPTY_RESPONSE: [u8; 12] = [0, 0, 0x84, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The interfaces to publish or browse on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// All that can do multicast, also those that come up later; the loopback interface only if there is no other.
    #[default]
    Auto,
    /// The loopback interface, for programs on one machine.
    Loopback,
    /// These and no others.
    Named(Vec<String>),
}

impl Interfaces {
    /// From configuration: an empty list means [`Interfaces::Auto`].
    pub fn from_names(names: &[String]) -> Self {
        if names.is_empty() { Self::Auto } else { Self::Named(names.to_vec()) }
    }

    /// The addresses that this machine has on these interfaces now, with port 0, to send a query from each.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        let all = list().map_err(Error::Interfaces)?;
        let chosen = self.resolve()?;
        let taken = |name: &String, one: &Interface| match &chosen {
            Chosen::All => true,
            Chosen::AllButLoopback => !one.is_loopback(),
            Chosen::Only(names) => names.contains(name),
        };
        let taken = all.iter().filter(|(name, one)| taken(name, one));
        Ok(taken.flat_map(|(_, one)| one.addresses.iter().copied()).collect())
    }

    /// What these mean on this machine now, or why they cannot be used.
    pub(super) fn resolve(&self) -> Result<Chosen, Error> {
        let all = list().map_err(Error::Interfaces)?;
        match self {
            Self::Auto => auto(&all),
            Self::Loopback => {
                let names =
                    all.iter().filter(|(_, one)| one.is_loopback()).map(|(name, _)| name.clone()).collect();
                usable(&all, names).map(Chosen::Only)
            }
            Self::Named(names) => {
                for name in names {
                    if !all.contains_key(name) {
                        let available = all.keys().cloned().collect::<Vec<_>>().join(", ");
                        return Err(Error::UnknownInterface { name: name.clone(), available });
                    }
                }
                usable(&all, names.clone()).map(Chosen::Only)
            }
        }
    }
}

/// Interfaces that were found to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chosen {
    /// Every one but loopback, also those that come later.
    AllButLoopback,
    /// Every one, because only loopback works now and others may come later.
    All,
    /// Only these.
    Only(Vec<String>),
}

impl Chosen {
    /// Tells the engine. It sends nothing before the first service or query, so no other interface is ever used.
    pub(super) fn apply(&self, engine: &ServiceDaemon) -> Result<(), Error> {
        match self {
            Self::All => Ok(()),
            Self::AllButLoopback => engine
                .disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])
                .map_err(doing("leave out the loopback interface")),
            Self::Only(names) => {
                engine.disable_interface(IfKind::All).map_err(doing("leave out interfaces"))?;
                let kinds: Vec<IfKind> = names.iter().map(IfKind::from).collect();
                engine.enable_interface(kinds).map_err(doing("choose interfaces"))
            }
        }
    }
}

/// An interface that has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    flags: InterfaceFlags,
    addresses: Vec<SocketAddr>,
}

impl Interface {
    fn is_loopback(&self) -> bool {
        self.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    }

    /// Why it cannot do multicast, by what the kernel says and by trying to send.
    fn trouble(&self) -> Option<String> {
        // The loopback interface does not call itself capable of multicast, but IPv4 multicast works on it.
        let capable = self.flags.contains(InterfaceFlags::IFF_MULTICAST) || self.is_loopback();
        if !self.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING) {
            return Some("is down".to_owned());
        }
        if !capable || self.flags.contains(InterfaceFlags::IFF_POINTOPOINT) {
            return Some("has no multicast".to_owned());
        }
        let mut trouble = None;
        for address in &self.addresses {
            match try_sending(*address) {
                Ok(()) => return None,
                Err(error) => trouble = Some(format!("cannot send multicast from {}: {error}", address.ip())),
            }
        }
        trouble
    }
}

/// Sends an empty message to the group from this address; the kernel takes the interface that has it.
fn try_sending(from: SocketAddr) -> io::Result<()> {
    UdpSocket::bind(from)?.send_to(&EMPTY_RESPONSE, query::group_seen_from(from)).map(drop)
}

fn list() -> io::Result<BTreeMap<String, Interface>> {
    let mut all: BTreeMap<String, Interface> = BTreeMap::new();
    for one in getifaddrs()? {
        let Some(address) = one.address.as_ref().and_then(socket_address) else { continue };
        let entry = all
            .entry(one.interface_name)
            .or_insert_with(|| Interface { flags: one.flags, addresses: Vec::new() });
        entry.addresses.push(address);
    }
    for one in all.values_mut() {
        // IPv4 first: it works on loopback too.
        one.addresses.sort();
    }
    Ok(all)
}

fn socket_address(storage: &nix::sys::socket::SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), 0));
    }
    storage
        .as_sockaddr_in6()
        .map(|v6| SocketAddr::V6(std::net::SocketAddrV6::new(v6.ip(), 0, 0, v6.scope_id())))
}

fn auto(all: &BTreeMap<String, Interface>) -> Result<Chosen, Error> {
    let (loopback, others): (Vec<_>, Vec<_>) = all.iter().partition(|(_, one)| one.is_loopback());
    let names = |some: Vec<(&String, &Interface)>| some.into_iter().map(|(name, _)| name.clone()).collect();
    match usable(all, names(others)) {
        Ok(_) => Ok(Chosen::AllButLoopback),
        Err(Error::NoMulticast(mut no)) => match usable(all, names(loopback)) {
            Ok(_) => Ok(Chosen::All),
            Err(Error::NoMulticast(more)) => {
                no.tried.extend(more.tried);
                Err(Error::NoMulticast(no))
            }
            Err(other) => Err(other),
        },
        Err(other) => Err(other),
    }
}

/// Those of `names` that work; an error if none does.
fn usable(all: &BTreeMap<String, Interface>, names: Vec<String>) -> Result<Vec<String>, Error> {
    let (mut good, mut tried) = (Vec::new(), Vec::new());
    for name in names {
        match all.get(&name).map(Interface::trouble) {
            Some(None) => good.push(name),
            Some(Some(reason)) => tried.push((name, reason)),
            None => tried.push((name, "has no address".to_owned())),
        }
    }
    if good.is_empty() { Err(Error::NoMulticast(NoMulticast { tried })) } else { Ok(good) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_names_mean_automatic() {
        assert_eq!(Interfaces::from_names(&[]), Interfaces::Auto);
        let named = Interfaces::from_names(&["wlan0".to_owned()]);
        assert_eq!(named, Interfaces::Named(vec!["wlan0".to_owned()]));
    }

    #[test]
    fn an_interface_that_is_not_there_is_named_with_those_that_are() {
        let error = Interfaces::Named(vec!["no-such-if".to_owned()]).resolve().unwrap_err();
        assert!(matches!(&error, Error::UnknownInterface { name, .. } if name == "no-such-if"), "{error}");
    }

    #[test]
    fn an_interface_that_is_down_or_cannot_multicast_says_so() {
        let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        let cases = [
            (InterfaceFlags::IFF_MULTICAST, "is down"),
            (up, "has no multicast"),
            (up | InterfaceFlags::IFF_MULTICAST | InterfaceFlags::IFF_POINTOPOINT, "has no multicast"),
        ];
        for (flags, reason) in cases {
            let all = BTreeMap::from([("if0".to_owned(), Interface { flags, addresses: Vec::new() })]);
            let Err(Error::NoMulticast(no)) = auto(&all) else { panic!("{flags:?} was taken") };
            assert_eq!(no.tried, [("if0".to_owned(), reason.to_owned())]);
        }
    }
}
