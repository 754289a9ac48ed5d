//! Calling out on the local network.
//!
//! A hail is one UDP packet of [`LENGTH`] bytes to a multicast group with a hop limit of 1: a magic, the mission's
//! tag, the caller's public key, a digest of what it knows, its ports. Anybody can send one; it says only whom to
//! dial, and who does not hold the key fails there.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Hail;

const MAGIC: [u8; 4] = *b"CLh1";
/// Bytes of a hail.
pub(super) const LENGTH: usize = 52;

/// What somebody called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) key: [u8; 32],
    pub(super) digest: u32,
    pub(super) quic_port: u16,
    pub(super) tcp_port: u16,
}

impl Call {
    fn encode(&self, tag: [u8; 8]) -> Vec<u8> {
        [
            &MAGIC[..],
            &tag,
            &self.key,
            &self.digest.to_be_bytes(),
            &self.quic_port.to_be_bytes(),
            &self.tcp_port.to_be_bytes(),
        ]
        .concat()
    }

    fn decode(bytes: &[u8], tag: [u8; 8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?.strip_prefix(&tag)?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        let (digest, rest) = rest.split_first_chunk::<4>()?;
        let (quic_port, rest) = rest.split_first_chunk::<2>()?;
        let tcp_port = <[u8; 2]>::try_from(rest).ok()?;
        Some(Self {
            key: *key,
            digest: u32::from_be_bytes(*digest),
            quic_port: u16::from_be_bytes(*quic_port),
            tcp_port: u16::from_be_bytes(tcp_port),
        })
    }

    /// Where the caller can be dialled, if the packet came from `ip`.
    pub(super) fn addresses(&self, ip: IpAddr) -> Vec<String> {
        let kind = if ip.is_ipv4() { "ip4" } else { "ip6" };
        let quic = format!("/{kind}/{ip}/udp/{}/quic-v1", self.quic_port);
        let tcp = format!("/{kind}/{ip}/tcp/{}", self.tcp_port);
        let known = [(self.quic_port, quic), (self.tcp_port, tcp)];
        known.into_iter().filter(|(port, _)| *port != 0).map(|(_, address)| address).collect()
    }
}

/// The sockets: one that hears, and one for each interface that calls.
pub(super) struct Sockets {
    hail: Hail,
    hears: UdpSocket,
    calls: BTreeMap<Interface, UdpSocket>,
}

/// Number and address: an interface that is made anew has another number, though it may have the same address, and what
/// was joined on the old one is gone.
type Interface = (u32, Ipv4Addr);

impl Sockets {
    pub(super) fn open(hail: Hail) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Several nodes on one machine hear the same group.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((*hail.group.ip(), hail.group.port())).into())?;
        Ok(Self { hail, hears: UdpSocket::from_std(socket.into())?, calls: BTreeMap::new() })
    }

    /// Takes up interfaces that appeared and drops those that went; `true` if there was a change.
    pub(super) fn follow_interfaces(&mut self) -> bool {
        let now = interfaces();
        let before = self.calls.len();
        self.calls.retain(|interface, _| now.contains(interface));
        let mut changed = self.calls.len() != before;
        for (number, address) in now {
            if self.calls.contains_key(&(number, address)) {
                continue;
            }
            match self.join(address) {
                Ok(socket) => {
                    self.calls.insert((number, address), socket);
                    changed = true;
                }
                Err(error) => tracing::debug!(%address, %error, "cannot call out on an interface"),
            }
        }
        changed
    }

    fn join(&self, address: Ipv4Addr) -> io::Result<UdpSocket> {
        match self.hears.join_multicast_v4(*self.hail.group.ip(), address) {
            // Still a member from before the interface's address changed.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => other?,
        }
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((address, 0)).into())?;
        socket.set_multicast_if_v4(&address)?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(true)?;
        UdpSocket::from_std(socket.into())
    }

    /// Calls out on every interface. A call that cannot be sent is lost like one that is not heard.
    pub(super) fn call(&self, call: &Call) {
        let bytes = call.encode(self.hail.tag);
        for ((_, address), socket) in &self.calls {
            if let Err(error) = socket.try_send_to(&bytes, self.hail.group.into()) {
                tracing::debug!(%address, %error, "cannot call out");
            }
        }
    }

    /// The next call of this mission.
    pub(super) async fn hear(&self) -> io::Result<(Call, IpAddr)> {
        let mut bytes = [0; LENGTH + 1];
        loop {
            let (length, from) = self.hears.recv_from(&mut bytes).await?;
            let call = bytes.get(..length).and_then(|bytes| Call::decode(bytes, self.hail.tag));
            if let Some(call) = call {
                return Ok((call, from.ip()));
            }
        }
    }
}

/// Interfaces that are up and carry multicast, with their IPv4 addresses.
fn interfaces() -> Vec<Interface> {
    use nix::net::if_::InterfaceFlags as Flags;
    let Ok(list) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let carries = Flags::IFF_UP | Flags::IFF_MULTICAST;
    list.filter(|interface| {
        interface.flags.contains(carries) && !interface.flags.contains(Flags::IFF_LOOPBACK)
    })
    .filter_map(|interface| {
        let number = nix::net::if_::if_nametoindex(interface.interface_name.as_str()).ok()?;
        Some((number, interface.address?.as_sockaddr_in()?.ip()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_52_bytes_and_another_missions_is_not_heard() {
        let call = Call { key: [9; 32], digest: 0x0102_0304, quic_port: 4750, tcp_port: 0 };
        let bytes = call.encode(*b"missionA");
        assert_eq!(bytes.len(), LENGTH);
        assert_eq!(
            hex::encode(&bytes),
            format!("434c6831{}{}01020304128e0000", hex::encode("missionA"), "09".repeat(32))
        );
        assert_eq!(Call::decode(&bytes, *b"missionA"), Some(call.clone()));
        assert_eq!(Call::decode(&bytes, *b"missionB"), None);
        for cut in 0..bytes.len() {
            assert_eq!(Call::decode(&bytes[..cut], *b"missionA"), None, "{cut}");
        }
        let addresses = call.addresses(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(addresses, ["/ip4/10.0.0.1/udp/4750/quic-v1"]);
    }

    proptest::proptest! {
        #[test]
        fn what_strangers_call_never_panics(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80),
            at in 0..LENGTH,
            bit in 0..8_u8,
        ) {
            let _ = Call::decode(&bytes, *b"missionA");
            let call = Call { key: [9; 32], digest: 7, quic_port: 1, tcp_port: 2 };
            let mut flipped = call.encode(*b"missionA");
            flipped[at] ^= 1 << bit;
            match Call::decode(&flipped, *b"missionA") {
                None => proptest::prop_assert!(at < 12),
                Some(other) => {
                    proptest::prop_assert!(at >= 12 && other != call);
                    other.addresses(IpAddr::from([10, 0, 0, 1]));
                }
            }
            let long = [call.encode(*b"missionA"), bytes.clone()].concat();
            proptest::prop_assert_eq!(Call::decode(&long, *b"missionA").is_some(), bytes.is_empty());
        }
    }
}
