//! A cloudlet that was found, however it was.

use std::net::{IpAddr, SocketAddr};

use super::txt;
use crate::advert::Summary;

/// Most addresses kept of one cloudlet.
const MAX_ADDRESSES: usize = 16;

/// A cloudlet that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name on the link; unique there.
    pub name: String,
    /// The host name that its records give.
    pub host: String,
    /// Where its API may answer, at least one; best first: IPv4, IPv6, then IPv6 link-local with its scope.
    pub addresses: Vec<SocketAddr>,
    /// What its TXT record says. Anybody can send such a record.
    pub hints: Hints,
}

/// The hints of a TXT record, or why it has none.
pub type Hints = Result<Summary, txt::DecodeError>;

impl Found {
    /// `None` if there is no address at which it can be reached.
    pub(super) fn new(
        name: String,
        host: &str,
        mut addresses: Vec<SocketAddr>,
        hints: Hints,
    ) -> Option<Self> {
        addresses.retain(|address| {
            address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
        });
        addresses.sort_by_key(|address| (rank(address), *address));
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        (!addresses.is_empty()).then(|| Self { name, host: host.to_owned(), addresses, hints })
    }
}

/// Lower is tried first.
fn rank(address: &SocketAddr) -> u8 {
    match address.ip() {
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => 2,
        IpAddr::V6(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str]) -> Option<Vec<String>> {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let found = Found::new("a".to_owned(), "a.local", addresses, Err(txt::DecodeError::Lacks("v")));
        found.map(|found| found.addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_that_need_no_scope_come_first() {
        let sorted = found(&["[fe80::1]:1", "[2001:db8::1]:1", "192.0.2.1:1", "192.0.2.1:1"]).unwrap();
        assert_eq!(sorted, ["192.0.2.1:1", "[2001:db8::1]:1", "[fe80::1]:1"]);
    }

    #[test]
    fn what_cannot_be_reached_was_not_found() {
        assert_eq!(found(&["0.0.0.0:1", "224.0.0.1:1", "192.0.2.1:0", "[::]:1"]), None);
    }
}
