//! Who may stand at the door: connections whose other end has not proved itself yet. Pure.
//!
//! A stranger can open connections for nothing, with a new key each time; his address is what he has few of. So there
//! is room for so many in all, for so many of one address, and for so many of one network. Whoever has proved itself
//! leaves the crowd and takes up no room in it.
//!
//! What it means for those who share one address behind NAT: a place is held for two or three round trips. With the
//! default of 64 places for one address, 640 newcomers a second get in at a round trip of 50 ms, and 16 a second at
//! 2 s (a satellite); a fleet of 100 vehicles behind one such address that all start at once is in after 7 s.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// How many places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all. Guess: what 256 handshakes take, 20 MB at most, any cloudlet has.
    pub total: usize,
    /// For one address: an IPv4 address, or 64 bits of an IPv6 address, which one host chooses freely below. Guess: a
    /// quarter of all; see the module for what that means for a fleet behind NAT.
    pub per_address: usize,
    /// For one network: 24 bits of an IPv4 address, 48 of an IPv6 address. Guess: three quarters of all, since on a radio
    /// net everybody is in one network.
    pub per_network: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total: 256, per_address: 64, per_network: 192 }
    }
}

/// An address or network, by its first bits.
type Prefix = (u128, bool);

/// Who is there, by a key for each connection. The later it came, the larger its key.
#[derive(Debug)]
pub struct Crowd<K> {
    limits: Limits,
    present: BTreeMap<K, IpAddr>,
    addresses: BTreeMap<Prefix, usize>,
    networks: BTreeMap<Prefix, usize>,
}

impl<K: Ord + Copy> Crowd<K> {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self { limits, present: BTreeMap::new(), addresses: BTreeMap::new(), networks: BTreeMap::new() }
    }

    /// How many are there.
    pub fn len(&self) -> usize {
        self.present.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// One more, if there is room: `false` if it must go.
    pub fn enter(&mut self, key: K, ip: IpAddr) -> bool {
        if self.is_full_for(ip) {
            return false;
        }
        self.leave(key);
        *self.addresses.entry(address(ip)).or_default() += 1;
        *self.networks.entry(network(ip)).or_default() += 1;
        self.present.insert(key, ip);
        true
    }

    /// One more, and who has to go for it: the first of those of the same address, or network, or of the address that
    /// has most. So somebody who opens connections and says nothing pushes out his own, while an honest neighbour behind
    /// the same address needs its place only for the moment of its handshake.
    pub fn push(&mut self, key: K, ip: IpAddr) -> Option<K> {
        let gone = self.is_full_for(ip).then(|| self.first_to_go(ip)).flatten();
        if let Some(gone) = gone {
            self.leave(gone);
        }
        self.enter(key, ip);
        gone
    }

    /// One is gone, or has proved itself.
    pub fn leave(&mut self, key: K) {
        let Some(ip) = self.present.remove(&key) else { return };
        count_down(&mut self.addresses, address(ip));
        count_down(&mut self.networks, network(ip));
    }

    fn is_full_for(&self, ip: IpAddr) -> bool {
        let of = |counts: &BTreeMap<Prefix, usize>, prefix| counts.get(&prefix).copied().unwrap_or(0);
        self.present.len() >= self.limits.total
            || of(&self.addresses, address(ip)) >= self.limits.per_address
            || of(&self.networks, network(ip)) >= self.limits.per_network
    }

    fn first_to_go(&self, ip: IpAddr) -> Option<K> {
        let of = |counts: &BTreeMap<Prefix, usize>, prefix| counts.get(&prefix).copied().unwrap_or(0);
        let first = |among: &dyn Fn(IpAddr) -> bool| {
            self.present.iter().find(|(_, other)| among(**other)).map(|(key, _)| *key)
        };
        if of(&self.addresses, address(ip)) >= self.limits.per_address {
            return first(&|other| address(other) == address(ip));
        }
        let is_network_full = of(&self.networks, network(ip)) >= self.limits.per_network;
        let candidates =
            self.present.values().filter(|other| !is_network_full || network(**other) == network(ip));
        let most = candidates.map(|other| (of(&self.addresses, address(*other)), address(*other))).max();
        let (_, crowded) = most?;
        first(&|other| address(other) == crowded)
    }
}

fn count_down(counts: &mut BTreeMap<Prefix, usize>, prefix: Prefix) {
    if let Some(count) = counts.get_mut(&prefix) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&prefix);
        }
    }
}

fn address(ip: IpAddr) -> Prefix {
    prefix(ip, 32, 64)
}

fn network(ip: IpAddr) -> Prefix {
    prefix(ip, 24, 48)
}

fn prefix(ip: IpAddr, v4_bits: u32, v6_bits: u32) -> Prefix {
    // An IPv4 client of an IPv6 socket is the same client.
    match ip.to_canonical() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits() >> (32 - v4_bits)), true),
        IpAddr::V6(v6) => (v6.to_bits() >> (128 - v6_bits), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { total: 8, per_address: 3, per_network: 5 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_and_one_network_leave_room_for_others() {
        let mut crowd = Crowd::new(LIMITS);
        let entered = |crowd: &mut Crowd<u32>, from: u32, text: &str| {
            (from..from + 10).filter(|key| crowd.enter(*key, ip(text))).count()
        };
        assert_eq!(entered(&mut crowd, 0, "10.0.0.1"), 3);
        assert_eq!(entered(&mut crowd, 10, "10.0.0.2"), 2, "the network is full");
        assert_eq!(entered(&mut crowd, 20, "10.0.1.1"), 3);
        assert_eq!(entered(&mut crowd, 30, "10.0.2.1"), 0, "everything is full");
        crowd.leave(0);
        crowd.leave(0);
        assert_eq!((entered(&mut crowd, 40, "10.0.2.1"), crowd.len()), (1, 8));
        for key in 0..50 {
            crowd.leave(key);
        }
        assert!(crowd.is_empty() && crowd.addresses.is_empty() && crowd.networks.is_empty());
    }

    #[test]
    fn a_host_does_not_become_many_by_ipv6_or_by_mapped_addresses() {
        let mut crowd = Crowd::new(LIMITS);
        let hosts = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:3"];
        assert!((0..).zip(hosts).all(|(key, host)| crowd.enter(key, ip(host))));
        assert!(!crowd.enter(9, ip("2001:db8::4")), "the same 64 bits");
        assert!(crowd.enter(10, ip("2001:db8:0:1::4")));
        let mut crowd = Crowd::new(LIMITS);
        assert!((0..3).all(|key| crowd.enter(key, ip("::ffff:10.0.0.1"))));
        assert!(!crowd.enter(9, ip("10.0.0.1")));
    }

    #[test]
    fn who_crowds_pushes_out_his_own() {
        let mut crowd = Crowd::new(LIMITS);
        assert_eq!(crowd.push(0, ip("10.0.1.1")), None);
        assert_eq!((1..=3).filter_map(|key| crowd.push(key, ip("10.0.0.1"))).count(), 0);
        assert_eq!(crowd.push(4, ip("10.0.0.1")), Some(1), "the oldest of the same address");
        assert_eq!((5..=6).filter_map(|key| crowd.push(key, ip("10.0.0.2"))).count(), 0);
        assert_eq!(crowd.push(7, ip("10.0.0.3")), Some(2), "the fullest address of the network");
        assert_eq!((8..=9).filter_map(|key| crowd.push(key, ip("10.0.2.1"))).count(), 0);
        assert_eq!(crowd.len(), 8);
        let gone = crowd.push(10, ip("10.0.3.1")).unwrap();
        assert!([4, 5, 8, 3, 6].contains(&gone) && gone != 0, "one of those who have two: {gone}");
        assert_eq!(crowd.len(), 8);
    }

    proptest::proptest! {
        #[test]
        fn the_limits_hold_and_nothing_is_miscounted(
            steps in proptest::collection::vec((0..4_u8, 0..3_u8, 0..3_u8, 0..30_u32), 0..200)
        ) {
            let mut crowd = Crowd::new(LIMITS);
            for (next, (what, c, d, key)) in (100..).zip(steps) {
                let from = IpAddr::from([10, 0, c, d]);
                match what {
                    0 => { crowd.enter(next, from); }
                    1 | 2 => { crowd.push(next, from); }
                    _ => crowd.leave(100 + key),
                }
                let count = |prefix: fn(IpAddr) -> Prefix| {
                    let mut counts = BTreeMap::<Prefix, usize>::new();
                    crowd.present.values().for_each(|ip| *counts.entry(prefix(*ip)).or_default() += 1);
                    counts
                };
                assert_eq!(crowd.addresses, count(address));
                assert_eq!(crowd.networks, count(network));
                assert!(crowd.len() <= LIMITS.total);
                assert!(crowd.addresses.values().all(|count| *count <= LIMITS.per_address));
                assert!(crowd.networks.values().all(|count| *count <= LIMITS.per_network));
            }
        }
    }
}
