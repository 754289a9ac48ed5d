//! A single question by unicast, for a client that cannot wait for the multicast conversation.
//!
//! A responder must not multicast a record twice within a second (RFC 6762 section 6), so a browser that asks just after
//! a cloudlet was announced, or just after somebody else asked, hears nothing for a second. A question that comes from
//! another port than 5353 must be answered at once and by unicast (section 6.7); the answer has every record in one
//! packet. This module is the message format, pure; the caller has the socket: bind it to an address of each interface,
//! send [`question`] to [`group_seen_from`] that address, and give what arrives to [`answers`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::{Found, SERVICE_TYPE, txt};

/// Longest answer that is worth receiving, bytes (RFC 6762 section 17).
pub const MAX_ANSWER_BYTES: usize = 9000;
/// Most records of one answer that are read. Guess: 50 cloudlets in one packet.
const MAX_RECORDS: usize = 256;
/// Longest name, bytes (RFC 1035 section 3.1).
const MAX_NAME_BYTES: usize = 255;
const MDNS_PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// Marks our question; the answer repeats it.
const ID: u16 = 0xC1D7;
const RESPONSE_FLAG: u16 = 0x8000;
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_TXT: u16 = 16;
const TYPE_AAAA: u16 = 28;
const TYPE_SRV: u16 = 33;

/// Bytes that are not an answer to [`question`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an answer to our question")]
pub struct NotAnAnswer;

/// Where to send the question from a socket with this address.
pub fn group_seen_from(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V4(_) => SocketAddr::from((GROUP_V4, MDNS_PORT)),
        SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(GROUP_V6, MDNS_PORT, 0, v6.scope_id())),
    }
}

/// "Which cloudlets are there?"
pub fn question() -> Vec<u8> {
    let mut message = Vec::new();
    for word in [ID, 0, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in type_labels() {
        // Labels of our own constant, all shorter than 63 bytes.
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(TYPE_PTR.to_be_bytes());
    message.extend(1_u16.to_be_bytes());
    message
}

fn type_labels() -> impl Iterator<Item = &'static str> {
    SERVICE_TYPE.trim_end_matches('.').split('.')
}

/// The cloudlets that an answer describes completely. `scope` is the index of the interface on which it arrived, for
/// IPv6 link-local addresses; 0 leaves these out.
pub fn answers(message: &[u8], scope: u32) -> Result<Vec<Found>, NotAnAnswer> {
    let records = records(message).ok_or(NotAnAnswer)?;
    let mut found = BTreeMap::new();
    for record in &records {
        if let Data::Ptr(instance) = &record.data
            && record.owner.is_our_type()
            && let Some(one) = describe(instance, &records, scope)
        {
            found.insert(one.name.clone(), one);
        }
    }
    Ok(found.into_values().collect())
}

/// Puts together what the records say about an instance.
fn describe(instance: &Name, records: &[Record], scope: u32) -> Option<Found> {
    let name = instance.instance()?;
    let (port, host) = about(records, instance).find_map(|data| match data {
        Data::Srv(port, host) => Some((*port, host.clone())),
        _ => None,
    })?;
    let strings = about(records, instance).find_map(|data| match data {
        Data::Txt(strings) => Some(strings.as_slice()),
        _ => None,
    })?;
    let addresses = about(records, &host).filter_map(|data| match data {
        Data::Address(ip) => socket_address(*ip, port, scope),
        _ => None,
    });
    let pairs = strings.iter().filter_map(|string| {
        let (key, value) = string.split_at(string.iter().position(|byte| *byte == b'=')?);
        Some((std::str::from_utf8(key).ok()?, &value[1..]))
    });
    Found::new(name, &host.text(), addresses.collect(), txt::decode(pairs))
}

/// What the records say about a name.
fn about<'a>(records: &'a [Record], name: &'a Name) -> impl Iterator<Item = &'a Data> {
    records.iter().filter(|record| record.owner.same(name)).map(|record| &record.data)
}

fn socket_address(ip: IpAddr, port: u16, scope: u32) -> Option<SocketAddr> {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            (scope != 0).then(|| SocketAddr::V6(SocketAddrV6::new(v6, port, 0, scope)))
        }
        other => Some(SocketAddr::new(other, port)),
    }
}

#[derive(Debug)]
struct Record {
    owner: Name,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Ptr(Name),
    Srv(u16, Name),
    Txt(Vec<Vec<u8>>),
    Address(IpAddr),
}

/// The labels of a domain name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name(Vec<Vec<u8>>);

impl Name {
    fn same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(one, two)| one.eq_ignore_ascii_case(two))
    }

    fn is_our_type(&self) -> bool {
        let ours = Self(type_labels().map(|label| label.as_bytes().to_vec()).collect());
        self.same(&ours)
    }

    /// The first label, if the rest is our type.
    fn instance(&self) -> Option<String> {
        let (first, rest) = self.0.split_first()?;
        Self(rest.to_vec()).is_our_type().then(|| String::from_utf8(first.clone()).ok())?
    }

    fn text(&self) -> String {
        self.0.iter().map(|label| format!("{}.", String::from_utf8_lossy(label))).collect()
    }
}

/// Every record that is of use; `None` if the message is malformed or does not answer us.
fn records(message: &[u8]) -> Option<Vec<Record>> {
    let mut reader = Reader { message, at: 0 };
    let (id, flags) = (reader.word()?, reader.word()?);
    let questions = reader.word()?;
    let count = usize::from(reader.word()?) + usize::from(reader.word()?) + usize::from(reader.word()?);
    if id != ID || flags & RESPONSE_FLAG == 0 || questions > 1 || count > MAX_RECORDS {
        return None;
    }
    for _ in 0..questions {
        reader.name()?;
        reader.take(4)?;
    }
    let mut records = Vec::new();
    for _ in 0..count {
        let owner = reader.name()?;
        let kind = reader.word()?;
        reader.take(6)?;
        let length = usize::from(reader.word()?);
        let end = reader.at.checked_add(length).filter(|end| *end <= message.len())?;
        let mut inside = Reader { message: &message[..end], at: reader.at };
        if let Some(data) = inside.data(kind, length)? {
            records.push(Record { owner, data });
        }
        reader.at = end;
    }
    Some(records)
}

/// Reads a message from front to back; `None` at its end.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let bytes = self.message.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn word(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A name, with its compression. Every pointer must lead further to the front, so it ends.
    fn name(&mut self) -> Option<Name> {
        let (mut labels, mut bytes) = (Vec::new(), 0);
        let (mut at, mut front, mut jumped) = (self.at, self.at, false);
        loop {
            let length = usize::from(*self.message.get(at)?);
            match length {
                0 => {
                    if !jumped {
                        self.at = at + 1;
                    }
                    return Some(Name(labels));
                }
                1..=63 => {
                    let label = self.message.get(at + 1..at + 1 + length)?;
                    bytes += length + 1;
                    if bytes > MAX_NAME_BYTES {
                        return None;
                    }
                    labels.push(label.to_vec());
                    at += 1 + length;
                }
                192.. => {
                    let target = (length & 63) << 8 | usize::from(*self.message.get(at + 1)?);
                    if target >= front {
                        return None;
                    }
                    if !jumped {
                        self.at = at + 2;
                    }
                    (at, front, jumped) = (target, target, true);
                }
                _ => return None,
            }
        }
    }

    /// The data of a record of this kind; `Some(None)` for kinds that are of no use here.
    fn data(&mut self, kind: u16, length: usize) -> Option<Option<Data>> {
        let data = match kind {
            TYPE_PTR => Data::Ptr(self.name()?),
            TYPE_SRV => {
                self.take(4)?;
                Data::Srv(self.word()?, self.name()?)
            }
            TYPE_TXT => {
                let (mut strings, end) = (Vec::new(), self.at + length);
                while self.at < end {
                    let count = usize::from(self.take(1)?[0]);
                    strings.push(self.take(count)?.to_vec());
                }
                Data::Txt(strings)
            }
            TYPE_A => Data::Address(IpAddr::from(<[u8; 4]>::try_from(self.take(length)?).ok()?)),
            TYPE_AAAA => Data::Address(IpAddr::from(<[u8; 16]>::try_from(self.take(length)?).ok()?)),
            _ => return Some(None),
        };
        Some(Some(data))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer as a responder sends it: question, PTR; then SRV, TXT, A, AAAA, with compression.
    fn answer() -> Vec<u8> {
        let mut message = question();
        message[2] = 0x84;
        message[7] = 1;
        message[11] = 5;
        let pointer_to_type: [u8; 2] = [0xc0, 12];
        let record = |message: &mut Vec<u8>, owner: &[u8], kind: u16, data: &[u8]| {
            message.extend(owner);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 10]);
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(data);
        };
        let mut instance = b"\x07Truck 3".to_vec();
        instance.extend(pointer_to_type);
        let at = u8::try_from(message.len() + 12).unwrap();
        record(&mut message, &pointer_to_type, TYPE_PTR, &instance);
        let pointer_to_instance = [0xc0, at];
        let host = b"\x05alpha\x05local\x00";
        let id = "8c".repeat(16);
        let strings = [b"\x03v=1\x05api=1\x23id=".as_slice(), id.as_bytes(), b"\x05ins=2\x04flag"].concat();
        record(
            &mut message,
            &pointer_to_instance,
            TYPE_SRV,
            &[&[0, 0, 0, 0, 0x21, 0x1d], host.as_slice()].concat(),
        );
        record(&mut message, &pointer_to_instance, TYPE_TXT, &strings);
        record(&mut message, b"\x05ALPHA\x05local\x00", TYPE_A, &[192, 0, 2, 7]);
        record(&mut message, host, TYPE_AAAA, &"fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        record(&mut message, host, 47, b"NSEC, which is of no use here");
        message
    }

    #[test]
    fn the_question_is_what_the_rfc_says() {
        assert_eq!(
            hex::encode(question()),
            "c1d700000001000000000000095f636c6f75646c6574045f746370056c6f63616c00000c0001"
        );
    }

    #[test]
    fn an_answer_describes_a_cloudlet() {
        let found = answers(&answer(), 3).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].host.as_str()), ("Truck 3", "alpha.local."));
        let addresses: Vec<String> = found[0].addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.7:8477", "[fe80::1%3]:8477"]);
        assert_eq!(found[0].hints.as_ref().unwrap().load.instances, 2);
        assert_eq!(answers(&answer(), 0).unwrap()[0].addresses.len(), 1, "no scope, no link-local address");
    }

    #[test]
    fn what_is_not_an_answer_or_not_whole_gives_nothing() {
        let whole = answer();
        for end in 0..whole.len() {
            assert_eq!(answers(&whole[..end], 1), Err(NotAnAnswer), "{end}");
        }
        assert_eq!(answers(&question(), 1), Err(NotAnAnswer), "a question");
        let mut other = whole.clone();
        other[0] ^= 1;
        assert_eq!(answers(&other, 1), Err(NotAnAnswer), "an answer to somebody else");
    }

    #[test]
    fn names_that_point_in_circles_end() {
        let mut circle = vec![0xc1, 0xd7, 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        circle.extend([0xc0, 12, 0, 12, 0, 1]);
        assert_eq!(answers(&circle, 1), Err(NotAnAnswer));
        let mut long = vec![0xc1, 0xd7, 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        (0..6).for_each(|_| long.extend([&[63_u8][..], &[b'x'; 63]].concat()));
        long.extend([0, 0, 12, 0, 1]);
        assert_eq!(answers(&long, 1), Err(NotAnAnswer));
    }

    proptest! {
        #[test]
        fn flipped_bytes_never_panic(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut message = answer();
            for (index, byte) in flips {
                let at = index.index(message.len());
                message[at] = byte;
            }
            let _ = answers(&message, 1);
        }

        #[test]
        fn any_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..400), counts in any::<[u8; 4]>()) {
            let mut message = vec![0xc1, 0xd7, 0x84, 0, 0, 1, 0, counts[0] % 9, 0, counts[1] % 9, 0, counts[2] % 9];
            message.extend(tail);
            let _ = answers(&message, 1);
        }
    }
}
