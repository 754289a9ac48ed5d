//! Ports of the host that lead into a guest: QEMU's user-mode network, told through the monitor.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use virt::domain::Domain;

use super::xml::NETDEV;
use super::{Error, monitor};

/// What QEMU's refusal of a rule begins with, in whichever case; QEMU 10 writes a capital letter.
const REFUSED: &str = "could not set up host forwarding rule";

/// Lets `bind:port` reach the guest's `guest_port`; port 0 takes a free one, and the answer says which.
pub(super) fn add(domain: &Domain, bind: IpAddr, port: u16, guest_port: u16) -> Result<SocketAddr, Error> {
    let bind = ipv4(bind)?;
    let doing = "cannot forward a port";
    let before = list(domain)?;
    let answer =
        monitor::human(domain, doing, &format!("hostfwd_add {NETDEV} tcp:{bind}:{port}-:{guest_port}"))?;
    let answer = answer.trim();
    if answer.to_ascii_lowercase().starts_with(REFUSED) {
        return Err(refusal(doing, SocketAddr::new(bind.into(), port), answer));
    }
    if !answer.is_empty() {
        return Err(Error::Hypervisor { doing, message: answer.to_owned() });
    }
    if port != 0 {
        return Ok(SocketAddr::new(bind.into(), port));
    }
    // QEMU took a free port; it is the rule that was not there before.
    list(domain)?
        .into_iter()
        .find(|rule| rule.1 == guest_port && !before.contains(rule))
        .map(|(address, _)| address)
        .ok_or_else(|| Error::Hypervisor { doing, message: "QEMU does not list the new rule".to_owned() })
}

/// QEMU does not say why it could not listen there; trying the same does.
fn refusal(doing: &'static str, address: SocketAddr, answer: &str) -> Error {
    match TcpListener::bind(address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => Error::PortTaken(address),
        Err(error) => Error::Hypervisor { doing, message: format!("cannot listen on {address}: {error}") },
        Ok(_) => Error::Hypervisor { doing, message: answer.to_owned() },
    }
}

/// Every forwarded port: host address, guest port.
pub(super) fn list(domain: &Domain) -> Result<Vec<(SocketAddr, u16)>, Error> {
    let table = monitor::human(domain, "cannot list forwarded ports", "info usernet")?;
    Ok(parse(&table))
}

/// QEMU's forwards are IPv4 only; an unspecified IPv6 address means every address of the host just the same.
fn ipv4(bind: IpAddr) -> Result<Ipv4Addr, Error> {
    match bind {
        IpAddr::V4(bind) => Ok(bind),
        IpAddr::V6(bind) if bind.is_unspecified() => Ok(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(bind) if bind.is_loopback() => Ok(Ipv4Addr::LOCALHOST),
        IpAddr::V6(bind) => Err(Error::Hypervisor {
            doing: "cannot forward a port",
            message: format!("QEMU forwards IPv4 ports only; listen on an IPv4 address instead of {bind}"),
        }),
    }
}

/// `info usernet` prints a table; the rows of forwards begin with `TCP[HOST_FORWARD]`:
/// protocol, file descriptor, source address, port, destination address, port, ….
fn parse(table: &str) -> Vec<(SocketAddr, u16)> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "TCP[HOST_FORWARD]").then_some(())?;
        let mut words = words.skip(1);
        // QEMU writes an unspecified address as an asterisk.
        let host = match words.next()? {
            "*" => Ipv4Addr::UNSPECIFIED,
            address => address.parse().ok()?,
        };
        let port = words.next()?.parse().ok()?;
        let guest_port = words.nth(1)?.parse().ok()?;
        Some((SocketAddr::new(host.into(), port), guest_port))
    };
    table.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_qemu_10_is_understood() {
        let table = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                     TCP[HOST_FORWARD]  14       127.0.0.1 42193       10.0.2.15    80     0     0\r\n  \
                     TCP[HOST_FORWARD]  15               *  8080       10.0.2.15    81     0     0\r\n  \
                     TCP[ESTABLISHED]   16       127.0.0.1 42193       127.0.0.1 50000     0     0\r\n";
        assert_eq!(
            parse(table),
            [("127.0.0.1:42193".parse().unwrap(), 80), ("0.0.0.0:8080".parse().unwrap(), 81)]
        );
    }

    #[test]
    fn a_refusal_is_told_by_its_reason() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert!(matches!(refusal("", address, "no"), Error::PortTaken(named) if named == address));
        let elsewhere = refusal("", "192.0.2.1:80".parse().unwrap(), "no").to_string();
        assert!(elsewhere.contains("cannot listen on 192.0.2.1:80: "), "{elsewhere}");
        drop(taken);
        assert!(refusal("", address, "no").to_string().ends_with("no"));
    }

    #[test]
    fn an_ipv6_address_that_qemu_cannot_forward_is_refused_with_what_to_do() {
        let message = ipv4("2001:db8::1".parse().unwrap()).unwrap_err().to_string();
        assert!(message.contains("listen on an IPv4 address"), "{message}");
    }
}
