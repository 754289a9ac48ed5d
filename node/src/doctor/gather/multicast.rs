//! Can this machine do multicast? Only a datagram that came back can tell.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use crate::doctor::Interface;

/// The groups of multicast DNS. The port is a free one, so no responder hears of the probe.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// The kernel hands a copy to local members at once; this is for a host that is busy (guess).
const PATIENCE: Duration = Duration::from_millis(500);
/// Datagrams of others that are read before giving up (guess).
const MAX_STRANGERS: usize = 16;

/// Every interface that is up, and whether multicast works on it.
pub(super) fn interfaces() -> Result<Vec<Interface>, String> {
    let mut seen: BTreeMap<String, (InterfaceFlags, Vec<SocketAddr>)> = BTreeMap::new();
    for entry in getifaddrs().map_err(|error| error.to_string())? {
        let (_, addresses) = seen.entry(entry.interface_name).or_insert((entry.flags, Vec::new()));
        addresses.extend(entry.address.as_ref().and_then(socket_address));
    }
    let up = seen.into_iter().filter(|(_, (flags, _))| flags.contains(InterfaceFlags::IFF_UP));
    Ok(up
        .map(|(name, (flags, addresses))| Interface {
            name,
            loopback: flags.contains(InterfaceFlags::IFF_LOOPBACK),
            multicast: try_all(&addresses),
        })
        .collect())
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), 0)));
    v4.or_else(|| {
        let v6 = address.as_sockaddr_in6()?;
        Some(SocketAddrV6::new(v6.ip(), 0, 0, v6.scope_id()).into())
    })
}

/// One address that works is enough.
fn try_all(addresses: &[SocketAddr]) -> Result<(), String> {
    let mut trouble = "it has no address".to_owned();
    for &address in addresses {
        // IPv6 multicast goes by scope, which only link-local addresses have.
        if matches!(address, SocketAddr::V6(v6) if v6.scope_id() == 0) {
            continue;
        }
        match send_and_receive(address) {
            Ok(()) => return Ok(()),
            Err(error) => trouble = error.to_string(),
        }
    }
    Err(trouble)
}

fn send_and_receive(from: SocketAddr) -> io::Result<()> {
    let (receiver, group) = match from {
        SocketAddr::V4(v4) => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.join_multicast_v4(&GROUP_V4, v4.ip())?;
            (socket, SocketAddr::from((GROUP_V4, 0)))
        }
        SocketAddr::V6(v6) => {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.join_multicast_v6(&GROUP_V6, v6.scope_id())?;
            (socket, SocketAddrV6::new(GROUP_V6, 0, 0, v6.scope_id()).into())
        }
    };
    receiver.set_read_timeout(Some(PATIENCE))?;
    let mut to = group;
    to.set_port(receiver.local_addr()?.port());
    // Linux sends from the interface that has the address to which the sender is bound.
    let sender = UdpSocket::bind(from)?;
    let token = uuid::Uuid::new_v4();
    sender.send_to(token.as_bytes(), to)?;
    let mut buffer = [0; 64];
    for _ in 0..MAX_STRANGERS {
        let length = receiver.recv(&mut buffer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::other("a datagram to a multicast group was sent, but did not come back")
            }
            _ => error,
        })?;
        if buffer[..length] == *token.as_bytes() {
            return Ok(());
        }
    }
    Err(io::Error::other("only datagrams of others came back"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_does_multicast() {
        assert_eq!(try_all(&["127.0.0.1:0".parse().unwrap()]), Ok(()));
        let lo = interfaces().unwrap().into_iter().find(|interface| interface.loopback).unwrap();
        assert_eq!(lo.multicast, Ok(()), "{lo:?}");
    }

    #[test]
    fn an_address_of_no_interface_and_no_address_at_all_fail() {
        // 192.0.2.0/24 is reserved for documentation.
        assert!(try_all(&["192.0.2.1:0".parse().unwrap()]).is_err());
        assert_eq!(try_all(&[]), Err("it has no address".to_owned()));
    }
}
