//! The TXT record of `_cloudlet._tcp`: a few short hints, so that a list of cloudlets can be shown without asking each.
//!
//! **Hints only.** Nobody signs a TXT record and anybody on the link can send one. They may be shown and may decide
//! which cloudlet is asked first; what counts is what the cloudlet's API answers.
//!
//! | key | value | example |
//! |---|---|---|
//! | `v` | version of this table; a reader refuses others | `1` |
//! | `api` | version of the HTTP API on the SRV record's port | `1` |
//! | `id` | node id, 32 hexadecimal digits | `8c0e…` |
//! | `cpu` | CPU free / total, thousandths of a core | `1500/2000` |
//! | `mem` | memory that instances may claim / total, MiB | `14336/16384` |
//! | `ins` | instances that run or start | `2` |
//! | `acc` | what executes guest code | `kvm` or `tcg` |
//! | `tls` | there and `1` if the API is TLS for members of a mission only; else absent | `1` |
//! | `svc` | service ids, comma separated; `+n` at the end stands for n more that did not fit | `face,speech,+3` |
//!
//! `v`, `api` and `id` must be there. Unknown keys are ignored, and so are other values that make no sense: their
//! part of the [`Summary`] stays zero or empty. Of two values of one key the first counts (RFC 6763, section 6.4).
//! The record is at most [`MAX_BYTES`] long, which leaves room for the other records in one Ethernet frame.

use std::collections::{BTreeMap, BTreeSet};

use vm_images::ServiceId;
use vm_images::manifest::Accelerator;

use crate::NodeId;
use crate::advert::{Load, Summary};

/// Version of the record that this release writes and reads.
pub const VERSION: u32 = 1;
/// Longest record, bytes, with the length byte of each string. RFC 6763 section 6.2 advises 400 at most.
pub const MAX_BYTES: usize = 400;
/// Longest value of `svc`, bytes: what the other keys leave of [`MAX_BYTES`] at their longest, rounded down.
const MAX_SERVICES_BYTES: usize = 240;
/// Longest `+n` with its comma, bytes: `,+4294967295`.
const MARKER_BYTES: usize = 12;
const MIB: u64 = 1 << 20;

/// A record that says nothing of use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A key without which the others mean nothing.
    #[error("its TXT record lacks a sound '{0}'")]
    Lacks(&'static str),
    /// Written by a release that this one cannot read.
    #[error("its TXT record has version {0}, this release reads {VERSION}")]
    Version(u32),
}

/// The strings of the record, as key and value, in the order in which they are sent.
pub fn encode(summary: &Summary) -> Vec<(&'static str, String)> {
    let load = &summary.load;
    let mut pairs = vec![
        ("v", VERSION.to_string()),
        ("api", summary.api_version.to_string()),
        ("id", summary.node.to_string()),
        ("cpu", format!("{}/{}", load.cpu_free_millis(), load.cpu_total_millis)),
        ("mem", format!("{}/{}", load.memory_free_bytes / MIB, load.memory_total_bytes / MIB)),
        ("ins", load.instances.to_string()),
    ];
    if let Some(accelerator) = summary.accelerator {
        pairs.push(("acc", accelerator.to_string()));
    }
    if summary.tls {
        pairs.push(("tls", "1".to_owned()));
    }
    pairs.push(("svc", join_services(summary)));
    pairs
}

/// Length of the record that these strings make, bytes.
pub fn encoded_bytes(pairs: &[(&'static str, String)]) -> usize {
    pairs.iter().map(|(key, value)| 1 + key.len() + 1 + value.len()).sum()
}

fn join_services(summary: &Summary) -> String {
    let mut text = String::new();
    let mut left_out = summary.services_left_out;
    for service in &summary.services {
        if text.len() + 1 + service.as_str().len() + MARKER_BYTES > MAX_SERVICES_BYTES {
            left_out = left_out.saturating_add(1);
            continue;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(service.as_str());
    }
    if left_out > 0 {
        let comma = if text.is_empty() { "" } else { "," };
        text.push_str(&format!("{comma}+{left_out}"));
    }
    text
}

/// Reads a record that somebody sent.
pub fn decode<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Summary, DecodeError> {
    let mut values: BTreeMap<String, &str> = BTreeMap::new();
    for (key, value) in pairs {
        // Keys are ASCII without regard to case; a value that is not UTF-8 cannot be one of ours.
        if let Ok(value) = std::str::from_utf8(value) {
            values.entry(key.to_ascii_lowercase()).or_insert(value);
        }
    }
    let value = |key: &str| values.get(key).copied();
    let version = value("v").and_then(number).ok_or(DecodeError::Lacks("v"))?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let api_version = value("api").and_then(number).ok_or(DecodeError::Lacks("api"))?;
    let node: NodeId = value("id").and_then(|id| id.parse().ok()).ok_or(DecodeError::Lacks("id"))?;
    let (services, services_left_out) = value("svc").map(split_services).unwrap_or_default();
    Ok(Summary {
        api_version,
        node,
        load: decode_load(value("cpu"), value("mem"), value("ins")),
        tls: value("tls") == Some("1"),
        accelerator: value("acc").and_then(accelerator),
        services,
        services_left_out,
    })
}

fn decode_load(cpu: Option<&str>, mem: Option<&str>, ins: Option<&str>) -> Load {
    let (cpu_free, cpu_total) = cpu.and_then(fraction::<u32>).unwrap_or_default();
    let (memory_free, memory_total) = mem.and_then(fraction::<u64>).unwrap_or_default();
    Load {
        cpu_used_millis: cpu_total - cpu_free,
        cpu_total_millis: cpu_total,
        memory_free_bytes: memory_free.saturating_mul(MIB),
        memory_total_bytes: memory_total.saturating_mul(MIB),
        instances: ins.and_then(number).unwrap_or_default(),
        queue_length: 0,
    }
}

/// `free/total`, unless more is free than there is.
fn fraction<T: std::str::FromStr + PartialOrd>(text: &str) -> Option<(T, T)> {
    let (free, total) = text.split_once('/')?;
    let (free, total) = (number::<T>(free)?, number::<T>(total)?);
    (free <= total).then_some((free, total))
}

/// Digits only; `parse` alone would also take a sign.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn accelerator(text: &str) -> Option<Accelerator> {
    match text {
        "kvm" => Some(Accelerator::Kvm),
        "tcg" => Some(Accelerator::Tcg),
        _ => None,
    }
}

fn split_services(text: &str) -> (BTreeSet<ServiceId>, u32) {
    let (mut services, mut left_out) = (BTreeSet::new(), 0);
    for item in text.split(',') {
        match item.strip_prefix('+').and_then(number) {
            Some(more) => left_out = more,
            None => services.extend(item.parse::<ServiceId>().ok()),
        }
    }
    (services, left_out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary(services: &[&str]) -> Summary {
        Summary {
            api_version: 1,
            node: NodeId::from_bytes([0x8c; 16]),
            load: Load {
                cpu_used_millis: 500,
                cpu_total_millis: 2000,
                memory_free_bytes: 14 * 1024 * MIB,
                memory_total_bytes: 16 * 1024 * MIB,
                instances: 2,
                queue_length: 0,
            },
            tls: false,
            accelerator: Some(Accelerator::Kvm),
            services: services.iter().map(|service| service.parse().unwrap()).collect(),
            services_left_out: 0,
        }
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Summary, DecodeError> {
        decode(pairs.iter().map(|(key, value)| (*key, value.as_bytes())))
    }

    fn round_trip(summary: &Summary) -> Summary {
        let pairs = encode(summary);
        decode(pairs.iter().map(|(key, value)| (*key, value.as_bytes()))).unwrap()
    }

    #[test]
    fn the_record_is_what_the_table_says() {
        let text: Vec<String> = encode(&summary(&["speech", "face"]))
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            text.join(" "),
            "v=1 api=1 id=8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c cpu=1500/2000 mem=14336/16384 ins=2 acc=kvm svc=face,speech"
        );
        assert_eq!(round_trip(&summary(&["speech", "face"])), summary(&["speech", "face"]));
        assert_eq!(round_trip(&summary(&[])), summary(&[]));
    }

    #[test]
    fn services_that_do_not_fit_are_counted() {
        let names: Vec<String> = (0..60).map(|n| format!("service-{n:02}")).collect();
        let full = summary(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let read = round_trip(&full);
        assert!(read.services.len() > 15, "{}", read.services.len());
        assert_eq!(read.services.len() + read.services_left_out as usize, 60);
        assert!(read.services.is_subset(&full.services));
        assert_eq!(round_trip(&read), read, "a summary that was cut once stays as it is");
    }

    #[test]
    fn what_must_be_there_is_asked_for_and_the_rest_is_ignored() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(read(&[("api", "1"), ("id", id)]), Err(DecodeError::Lacks("v")));
        assert_eq!(read(&[("v", "1"), ("id", id)]), Err(DecodeError::Lacks("api")));
        assert_eq!(read(&[("v", "1"), ("api", "1"), ("id", "0123")]), Err(DecodeError::Lacks("id")));
        assert_eq!(read(&[("v", "2"), ("api", "1"), ("id", id)]), Err(DecodeError::Version(2)));
        let odd = read(&[
            ("V", "1"),
            ("api", "1"),
            ("id", id),
            ("id", "ffffffffffffffffffffffffffffffff"),
            ("cpu", "9/4"),
            ("mem", "+1/2"),
            ("ins", "99999999999999999999"),
            ("acc", "magic"),
            ("svc", "speech,../etc,,+x"),
            ("future", "1"),
        ])
        .unwrap();
        assert_eq!(odd.node.to_string(), id);
        assert_eq!((odd.load, odd.accelerator), (Load::default(), None));
        assert_eq!(odd.services.iter().map(ServiceId::as_str).collect::<Vec<_>>(), ["speech"]);
    }

    proptest! {
        #[test]
        fn the_longest_record_is_short_enough(
            api in any::<u32>(), id in any::<[u8; 16]>(), total in any::<u32>(), memory in any::<u64>(),
            instances in any::<u32>(), services in proptest::collection::btree_set("[a-z][a-z0-9-]{0,39}", 0..80),
            left_out in any::<u32>(),
        ) {
            let full = Summary {
                api_version: api, node: NodeId::from_bytes(id),
                load: Load { cpu_used_millis: 0, cpu_total_millis: total, memory_free_bytes: memory,
                             memory_total_bytes: memory, instances, queue_length: 0 },
                tls: true,
                accelerator: Some(Accelerator::Tcg),
                services: services.iter().map(|service| service.parse().unwrap()).collect(),
                services_left_out: left_out,
            };
            let pairs = encode(&full);
            prop_assert!(encoded_bytes(&pairs) < MAX_BYTES, "{}", encoded_bytes(&pairs));
            prop_assert!(pairs.iter().all(|(key, value)| key.len() + 1 + value.len() <= 255));
            prop_assert_eq!(round_trip(&full).load.memory_total_bytes, memory / MIB * MIB);
        }

        #[test]
        fn nothing_that_is_sent_makes_the_reader_panic(
            pairs in proptest::collection::vec(
                ("v|api|id|cpu|mem|ins|acc|svc|.{0,4}", proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
        ) {
            let _ = decode(pairs.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
        }

        #[test]
        fn text_values_do_not_make_it_panic_either(cpu in "[0-9/+-]{0,24}", mem in "[0-9/]{0,45}", svc in "[a-z,+0-9]{0,60}") {
            let id = "0".repeat(32);
            let read = read(&[("v", "1"), ("api", "1"), ("id", &id), ("cpu", &cpu), ("mem", &mem), ("svc", &svc)]).unwrap();
            let _ = encode(&read);
        }
    }
}
