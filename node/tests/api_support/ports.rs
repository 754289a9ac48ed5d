//! Addresses for daemons that have to know of each other before any of them listens.
//!
//! A port that the kernel gives out can be given to a connection of another test before the daemon takes it, or while the
//! daemon is being started again. These are from below those that Linux gives out, and claimed against other tests: whoever
//! listens at a port of [`CLAIMS`] has the same port of the loopback address.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below 32768, where Linux's `ip_local_port_range` begins unless somebody changed it, and above most services.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
const CLAIMS: Ipv4Addr = Ipv4Addr::new(127, 67, 76, 84);

/// Held until the process ends, so that the kernel lets go of them however it ends.
static CLAIMED: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());

/// A loopback address with a port, free for TCP and for UDP, that no other test is given while this process lives.
pub fn free() -> SocketAddr {
    let count = u32::from(PORTS.end - PORTS.start);
    // Processes that run side by side have numbers side by side.
    let first = std::process::id().wrapping_mul(97) % count;
    let mut all = (0..count).map(|step| PORTS.start + ((first + step) % count) as u16);
    all.find_map(claim).unwrap()
}

fn claim(port: u16) -> Option<SocketAddr> {
    let claim = TcpListener::bind((CLAIMS, port)).ok()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).ok()?;
    UdpSocket::bind(address).ok()?;
    CLAIMED.lock().unwrap().push(claim);
    Some(address)
}
