//! The table of fields: what each means, its unit, its range and its default.
//!
//! Checking, the template and the messages about bad values are all made from it.

use super::defaults::MAX_NAME_BYTES;
pub use super::kind::Kind;
use super::nearest::nearest;

/// Longest state directory, bytes. libvirt's longest socket in its own directory below it has 52 bytes, and the kernel
/// takes 107 in all; see `migration::hypervisor::libvirt`, which takes a directory of 55 bytes at most.
pub const MAX_STATE_DIR_BYTES: usize = 50;
/// Longest other path, bytes: the kernel's `PATH_MAX` with room for what is put below it (guess).
const MAX_PATH_BYTES: usize = 3000;
/// Longest log filter, bytes (guess).
const MAX_FILTER_BYTES: usize = 1000;

/// A field of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Section of the file.
    pub section: &'static str,
    /// Key in the section.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Unit of a number.
    pub unit: Option<&'static str>,
    /// What it is for.
    pub about: &'static str,
    /// The default in words and an example, where the default is no constant.
    pub computed: Option<Computed>,
}

/// A default that depends on something else.
#[derive(Debug, Clone, Copy)]
pub struct Computed {
    /// Which value it is.
    pub is: &'static str,
    /// A possible value, as text.
    pub example: &'static str,
}

impl Field {
    /// `section.key`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("CLOUDLET_{}__{}", self.section.to_uppercase(), self.key.to_uppercase())
    }

    /// What values it takes, in words: `a whole number of seconds from 1 to 60`.
    pub fn takes(&self) -> String {
        self.kind.describe(self.unit)
    }
}

const fn field(section: &'static str, key: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { section, key, kind, unit: None, about, computed: None }
}

const fn unit(unit: &'static str, field: Field) -> Field {
    Field { unit: Some(unit), ..field }
}

const fn computed(is: &'static str, example: &'static str, field: Field) -> Field {
    Field { computed: Some(Computed { is, example }), ..field }
}

/// Sections in the order of the template, each with what it is about.
pub const SECTIONS: [(&str, &str); 11] = [
    ("node", "Who this cloudlet is and where it keeps things."),
    ("api", "The HTTP API."),
    ("discovery", "How handhelds find this cloudlet."),
    ("hypervisor", "What runs the VMs."),
    ("instances", "How instances of services are admitted and ended."),
    ("mission", "The mission that this cloudlet serves."),
    ("trust", "Who may speak to this cloudlet: members of its mission, see 'cloudlet mission'."),
    ("mesh", "The other cloudlets of the mission."),
    ("exchange", "Images that cloudlets fetch from one another."),
    ("handoff", "Services that move to other cloudlets by themselves."),
    ("log", "What is logged."),
];

/// Every field, in the order of the template.
pub const FIELDS: [Field; 47] = [
    computed(
        "the host name",
        "truck-7",
        field("node", "name", Kind::Text { least_bytes: 1, most_bytes: MAX_NAME_BYTES }, "Name for people."),
    ),
    computed(
        "$XDG_STATE_HOME/cloudlet, else ~/.local/state/cloudlet",
        "/var/lib/cloudlet",
        field(
            "node",
            "state_dir",
            Kind::Directory { most_bytes: MAX_STATE_DIR_BYTES },
            "Everything that must survive a restart: keys, instances, state. Short, because sockets are made in it.",
        ),
    ),
    computed(
        "images in the state directory",
        "/srv/cloudlet/images",
        field(
            "node",
            "image_store",
            Kind::Directory { most_bytes: MAX_PATH_BYTES },
            "Where VM images are kept. Several GiB; on the same file system as the state directory, if possible.",
        ),
    ),
    computed(
        "none",
        "48.137,11.575",
        field(
            "node",
            "position",
            Kind::Position,
            "Where a cloudlet that stays in its place is. The position of one that moves is told while it runs \
             ('cloudlet position').",
        ),
    ),
    field(
        "node",
        "power_supply",
        Kind::Directory { most_bytes: MAX_PATH_BYTES },
        "Where the kernel says what this host runs on.",
    ),
    field(
        "api",
        "listen",
        Kind::Address,
        "Where the API listens. Port 0 takes a free one. Ports of Service VMs are opened on the same address.",
    ),
    field("discovery", "enabled", Kind::Boolean, "Publish _cloudlet._tcp by multicast DNS."),
    field(
        "discovery",
        "interfaces",
        Kind::Interfaces,
        "Network interfaces to publish on. Empty: all that can do multicast.",
    ),
    field(
        "hypervisor",
        "uri",
        Kind::Hypervisor,
        "libvirt connection. embed: libvirt inside the cloudlet's own process, its files below the state directory.",
    ),
    field(
        "hypervisor",
        "accelerator",
        Kind::Choice(&["auto", "kvm", "tcg"]),
        "What executes guest code. auto: KVM if a tiny guest finishes under it, else TCG, which works everywhere and \
         is slower.",
    ),
    unit(
        "seconds",
        field(
            "hypervisor",
            "kvm_probe_limit_s",
            Kind::Whole { least: 1, most: 60 },
            "How long that tiny guest may take. A working KVM needs less than half a second.",
        ),
    ),
    field("instances", "max", Kind::Whole { least: 1, most: 1000 }, "Most instances at a time."),
    unit(
        "MiB",
        field(
            "instances",
            "memory_reserve_mib",
            Kind::Whole { least: 0, most: 1 << 20 },
            "Memory that is never given to instances: for the system, the cloudlet and cached images.",
        ),
    ),
    field(
        "instances",
        "cpu_overcommit",
        Kind::Number { least: 0.1, most: 100.0 },
        "How many times the real cores may be promised to instances.",
    ),
    unit(
        "seconds",
        field(
            "instances",
            "idle_stop_s",
            Kind::Whole { least: 0, most: 86_400 },
            "A ready instance without users is stopped after this long.",
        ),
    ),
    unit(
        "seconds",
        field(
            "instances",
            "user_timeout_s",
            Kind::Whole { least: 0, most: 604_800 },
            "A client that has not been heard of for this long no longer counts as a user. 0 means never.",
        ),
    ),
    unit(
        "seconds",
        field(
            "instances",
            "start_limit_s",
            Kind::Whole { least: 1, most: 3600 },
            "A service that has not answered its health check after this long has failed.",
        ),
    ),
    field(
        "mission",
        "quiet",
        Kind::Boolean,
        "Send no multicast at all, whatever discovery and mesh say: handhelds come by QR code or address, cloudlets by \
         mesh.peers.",
    ),
    computed(
        "none",
        "2026-12-01T06:00:00Z",
        field("mission", "ends", Kind::Moment, "When every instance is stopped and no new one is admitted."),
    ),
    field(
        "mission",
        "replicate",
        Kind::Services,
        "Services that every vehicle should hold, the most wanted first; those that are missing are fetched from others.",
    ),
    field(
        "trust",
        "insecure",
        Kind::Boolean,
        "Let everybody in, over plain HTTP and without a mission. For development only.",
    ),
    computed(
        "the API's address, port 8478",
        "0.0.0.0:8478",
        field(
            "trust",
            "pairing_listen",
            Kind::Address,
            "Where handhelds are paired while 'cloudlet mission pair' shows a code. Port 0 takes a free one.",
        ),
    ),
    field(
        "trust",
        "strangers",
        Kind::Whole { least: 16, most: 65_536 },
        "Most connections whose other end has not proved itself yet, to the API and to the mesh each.",
    ),
    field(
        "trust",
        "strangers_per_address",
        Kind::Whole { least: 4, most: 65_536 },
        "Most of those from one IPv4 address or one IPv6 /64. Behind NAT, 64 let in 16 newcomers a second at a round trip \
         of 2 s, and 640 at 50 ms.",
    ),
    field(
        "trust",
        "strangers_per_network",
        Kind::Whole { least: 4, most: 65_536 },
        "Most of those from one IPv4 /24 or one IPv6 /48.",
    ),
    field("mesh", "enabled", Kind::Boolean, "Be in touch with the other cloudlets. Needs a mission."),
    computed(
        "the API's address, port 8479",
        "0.0.0.0:8479",
        field(
            "mesh",
            "listen",
            Kind::Address,
            "Where other cloudlets reach this one, by UDP (QUIC) and by TCP. Port 0 takes a free one.",
        ),
    ),
    field(
        "mesh",
        "multicast",
        Kind::Boolean,
        "Call out for other cloudlets by multicast. Without it they are found at mesh.peers, or find this one.",
    ),
    field(
        "mesh",
        "peers",
        Kind::Peers,
        "Where some of the other cloudlets are, for networks without multicast.",
    ),
    field(
        "exchange",
        "on_demand",
        Kind::Boolean,
        "Fetch a service from others when a handheld asks for it and it is not here.",
    ),
    unit(
        "KiB per second",
        field(
            "exchange",
            "rate_limit_kib_per_s",
            Kind::Whole { least: 0, most: 1_048_576 },
            "The most that is fetched, and the most that is served. 0 means what links carry, less a fifth for others.",
        ),
    ),
    unit(
        "seconds",
        field(
            "exchange",
            "patience_s",
            Kind::Whole { least: 10, most: 86_400 },
            "A fetch that nothing comes in for ends after this long. What came stays, and goes on when somebody who has \
             the rest comes.",
        ),
    ),
    unit(
        "MiB",
        field(
            "exchange",
            "reserve_mib",
            Kind::Whole { least: 0, most: 1_048_576 },
            "What must be free on the disk before something is fetched for mission.replicate.",
        ),
    ),
    field(
        "handoff",
        "automatic",
        Kind::Choice(&["off", "dry-run", "on"]),
        "Whether services move by themselves: when their users go out of range, for load, low power, and when this cloudlet is \
         drained or shuts down. dry-run: it is only said what would be done.",
    ),
    unit(
        "seconds",
        field("handoff", "horizon_s", Kind::Whole { least: 30, most: 3600 }, "How far it is looked ahead."),
    ),
    unit(
        "seconds",
        field(
            "handoff",
            "least_gain_s",
            Kind::Whole { least: 1, most: 3600 },
            "Least gain for which a service moves, of service within the horizon.",
        ),
    ),
    unit(
        "percent",
        field(
            "handoff",
            "margin_percent",
            Kind::Whole { least: 0, most: 100 },
            "Least gain beyond that, as a share of the service that there would be without a move.",
        ),
    ),
    unit(
        "seconds",
        field(
            "handoff",
            "stay_s",
            Kind::Whole { least: 0, most: 86_400 },
            "How long an instance stays where it came to.",
        ),
    ),
    unit(
        "seconds",
        field(
            "handoff",
            "settle_s",
            Kind::Whole { least: 0, most: 3600 },
            "How long another cloudlet must have been the better one.",
        ),
    ),
    unit(
        "seconds",
        field(
            "handoff",
            "remember_s",
            Kind::Whole { least: 0, most: super::handoff::REMEMBER_MOST_S as i64 },
            "How long each move doubles what the next one of the same instance must gain.",
        ),
    ),
    unit(
        "percent",
        field(
            "handoff",
            "power_low_percent",
            Kind::Whole { least: 0, most: 100 },
            "A battery with no more than this counts as about to be empty.",
        ),
    ),
    field(
        "handoff",
        "at_once",
        Kind::Whole { least: 1, most: 16 },
        "Most handoffs that are begun by themselves at a time.",
    ),
    unit(
        "metres",
        field(
            "handoff",
            "radio_range_m",
            Kind::Number { least: 1.0, most: 1_000_000.0 },
            "Nominal range of the radio between cloudlets: with their places and motion it tells when a link will end.",
        ),
    ),
    field(
        "handoff",
        "evacuate_on_shutdown",
        Kind::Boolean,
        "Send instances to other cloudlets before an orderly end (SIGTERM); what nobody takes is stopped.",
    ),
    unit(
        "seconds",
        field(
            "handoff",
            "evacuate_limit_s",
            Kind::Whole { least: 1, most: 3600 },
            "How long that may take. A service manager must wait longer (TimeoutStopSec of systemd).",
        ),
    ),
    field(
        "log",
        "filter",
        Kind::Filter { most_bytes: MAX_FILTER_BYTES },
        "What is logged: a level (error, warn, info, debug, trace), or target=level, separated by commas.",
    ),
    field("log", "json", Kind::Boolean, "One JSON object a line instead of text."),
];

/// The field with this section and key.
pub fn find(section: &str, key: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.section == section && field.key == key)
}

/// The field that was meant by a wrong name: same key elsewhere, or few typing errors away.
pub(super) fn meant(section: &str, key: &str) -> Option<&'static Field> {
    let in_section = || FIELDS.iter().filter(|field| field.section == section);
    if let Some(near) = nearest(key, in_section().map(|field| field.key)) {
        return find(section, near);
    }
    if let Some(elsewhere) = FIELDS.iter().find(|field| field.key == key) {
        return Some(elsewhere);
    }
    let names: Vec<String> = FIELDS.iter().map(Field::name).collect();
    let name = nearest(&format!("{section}.{key}"), names.iter().map(String::as_str))?;
    FIELDS.iter().find(|field| field.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_table_has_every_field_of_the_struct_and_no_other() {
        let mut config = Config::default();
        config.node.image_store = Some("/images".into());
        config.node.position = Some("48.137,11.575".to_owned());
        config.mission.ends = Some("2026-12-01T06:00:00Z".to_owned());
        config.trust.pairing_listen = Some("0.0.0.0:8478".parse().unwrap());
        config.mesh.listen = Some("0.0.0.0:8479".parse().unwrap());
        let table = toml::Table::try_from(config).unwrap();
        let mut in_struct: Vec<String> = Vec::new();
        for (section, keys) in &table {
            in_struct.extend(keys.as_table().unwrap().keys().map(|key| format!("{section}.{key}")));
        }
        let mut in_table: Vec<String> = FIELDS.iter().map(Field::name).collect();
        in_struct.sort();
        in_table.sort();
        assert_eq!(in_struct, in_table);
    }

    #[test]
    fn every_section_is_described_and_every_field_is_in_one() {
        for field in &FIELDS {
            assert!(SECTIONS.iter().any(|(section, _)| *section == field.section), "{}", field.name());
            assert!(field.about.ends_with('.') && !field.takes().is_empty(), "{}", field.name());
            let is_number = matches!(field.kind, Kind::Whole { .. } | Kind::Number { .. });
            let bare = ["instances.max", "instances.cpu_overcommit", "handoff.at_once"]
                .contains(&field.name().as_str())
                || field.key.starts_with("strangers");
            assert_eq!(field.unit.is_some(), is_number && !bare, "unit of {}", field.name());
        }
    }

    #[test]
    fn examples_and_defaults_are_valid() {
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        for field in &FIELDS {
            let value = match field.computed {
                Some(Computed { example, .. }) => toml::Value::String(example.to_owned()),
                None => defaults[field.section][field.key].clone(),
            };
            assert_eq!(field.kind.check(&value), Ok(value.clone()), "{}", field.name());
        }
    }

    #[test]
    fn a_misplaced_or_mistyped_field_is_recognised() {
        let name = |section: &str, key: &str| meant(section, key).map(Field::name);
        assert_eq!(name("api", "lisen").as_deref(), Some("api.listen"));
        assert_eq!(name("node", "listen").as_deref(), Some("api.listen"));
        assert_eq!(name("ap", "listn").as_deref(), Some("api.listen"));
        assert_eq!(name("api", "colour"), None);
    }
}
