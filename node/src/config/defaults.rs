//! The defaults, and what of the machine they depend on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use mesh::advert::Position;
use mesh::crowd::Limits;

use super::{
    AcceleratorChoice, Api, Config, Discovery, Exchange, Hypervisor, Instances, Log, Mesh, Node, Trust,
};
use crate::reach;

/// Environment variables by name.
pub type Environment = BTreeMap<OsString, OsString>;

/// Port of the HTTP API: below the kernel's range for outgoing connections, otherwise a free choice.
const API_PORT: u16 = 8477;
/// Port of the pairing endpoint: the next one.
const PAIRING_PORT: u16 = 8478;
/// Port for other cloudlets: the one after that.
const MESH_PORT: u16 = 8479;
/// State directory of a process that has no home, such as a system service.
const HOMELESS_STATE_DIR: &str = "/var/lib/cloudlet";
/// Where Linux says what a host runs on (`Documentation/ABI/testing/sysfs-class-power`).
const POWER_SUPPLY: &str = "/sys/class/power_supply";
/// Longest `node.name`, bytes.
pub(super) const MAX_NAME_BYTES: usize = 40;

/// What the defaults take from the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its host name.
    pub host_name: String,
    /// The user's directory for state, if there is one.
    pub state_home: Option<PathBuf>,
    /// The user's directory for configuration, if there is one.
    pub config_home: Option<PathBuf>,
}

impl Machine {
    /// Of this process.
    pub fn here() -> Self {
        Self::of(&std::env::vars_os().collect(), sysinfo::System::host_name().unwrap_or_default())
    }

    /// As an environment describes it.
    pub fn of(environment: &Environment, host_name: String) -> Self {
        let home = absolute(environment, "HOME");
        let or_in_home = |name: &str, below: &str| {
            absolute(environment, name).or_else(|| Some(home.as_ref()?.join(below)))
        };
        Self {
            host_name,
            state_home: or_in_home("XDG_STATE_HOME", ".local/state"),
            config_home: or_in_home("XDG_CONFIG_HOME", ".config"),
        }
    }

    /// The configuration of a machine on which nothing is configured.
    pub fn defaults(&self) -> Config {
        Config {
            node: Node {
                name: self.default_name(),
                state_dir: self
                    .state_home
                    .as_ref()
                    .map_or_else(|| PathBuf::from(HOMELESS_STATE_DIR), |home| home.join("cloudlet")),
                ..Node::default()
            },
            ..Config::default()
        }
    }

    fn default_name(&self) -> String {
        let name: String = self.host_name.chars().filter(|c| !c.is_control()).collect();
        let name = name.trim();
        if name.is_empty() {
            return "cloudlet".to_owned();
        }
        name[..name.floor_char_boundary(MAX_NAME_BYTES)].to_owned()
    }
}

/// A directory that a variable names. The XDG base directory specification says to ignore relative ones.
fn absolute(environment: &Environment, name: &str) -> Option<PathBuf> {
    environment.get(std::ffi::OsStr::new(name)).map(PathBuf::from).filter(|path| path.is_absolute())
}

impl Config {
    /// Directory of the image store: as configured, or `images` in the state directory.
    pub fn image_store(&self) -> PathBuf {
        self.node.image_store.clone().unwrap_or_else(|| default_image_store(&self.node.state_dir))
    }
}

impl Config {
    /// File of the key that this node's images are signed with.
    pub fn image_key(&self) -> PathBuf {
        self.node.state_dir.join("image-key")
    }

    /// Directory of this cloudlet's own key and certificates.
    pub fn trust_home(&self) -> mesh::trust::Home {
        crate::daemon::state_dir::trust_home(&self.node.state_dir)
    }

    /// Where handhelds are paired.
    pub fn pairing_listen(&self) -> SocketAddr {
        self.trust.pairing_listen.unwrap_or_else(|| SocketAddr::new(self.api.listen.ip(), PAIRING_PORT))
    }

    /// How many connections there may be whose other end has not proved itself yet.
    pub fn strangers(&self) -> Limits {
        let places = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Limits {
            total: places(self.trust.strangers),
            per_address: places(self.trust.strangers_per_address),
            per_network: places(self.trust.strangers_per_network),
        }
    }

    /// What the mission's rules make of it. A cloudlet may be quiet in a mission that is not; in one that is, nobody sends
    /// anything by multicast.
    pub fn obeying(mut self, rules: &mesh::trust::Rules) -> Self {
        self.mission.quiet |= rules.quiet;
        if self.mission.quiet {
            self.discovery.enabled = false;
            self.mesh.multicast = false;
        }
        self
    }

    /// Where other cloudlets reach this one.
    pub fn mesh_listen(&self) -> SocketAddr {
        self.mesh.listen.unwrap_or_else(|| SocketAddr::new(self.api.listen.ip(), MESH_PORT))
    }

    /// Address at which this cloudlet's API is reached from the same machine; `None` if its port is only chosen when
    /// it starts.
    pub fn local_api(&self) -> Option<SocketAddr> {
        (self.api.listen.port() != 0).then(|| reach::from_here(self.api.listen))
    }
}

fn default_image_store(state_dir: &Path) -> PathBuf {
    state_dir.join("images")
}

impl Default for Node {
    fn default() -> Self {
        let machine = Machine::here();
        Self {
            name: machine.default_name(),
            state_dir: machine
                .state_home
                .map_or_else(|| PathBuf::from(HOMELESS_STATE_DIR), |home| home.join("cloudlet")),
            image_store: None,
            position: None,
            power_supply: PathBuf::from(POWER_SUPPLY),
        }
    }
}

impl Node {
    /// Where it is, if the configuration says so.
    pub fn position(&self) -> Option<Position> {
        self.position.as_deref().and_then(super::kind::position)
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), API_PORT) }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self { enabled: true, interfaces: Vec::new() }
    }
}

impl Default for Hypervisor {
    fn default() -> Self {
        Self { uri: "embed".to_owned(), accelerator: AcceleratorChoice::Auto, kvm_probe_limit_s: 5 }
    }
}

impl Default for Instances {
    fn default() -> Self {
        Self {
            max: 64,
            memory_reserve_mib: 512,
            cpu_overcommit: 4.0,
            idle_stop_s: 60,
            user_timeout_s: 1800,
            start_limit_s: 60,
        }
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self { enabled: true, listen: None, multicast: true, peers: Vec::new() }
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self { on_demand: true, rate_limit_kib_per_s: 0, patience_s: 600, reserve_mib: 1024 }
    }
}

impl Default for Trust {
    fn default() -> Self {
        let places = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let Limits { total, per_address, per_network } = Limits::default();
        Self {
            insecure: false,
            pairing_listen: None,
            strangers: places(total),
            strangers_per_address: places(per_address),
            strangers_per_network: places(per_network),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(variables: &[(&str, &str)], host_name: &str) -> Machine {
        let environment = variables.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
        Machine::of(&environment, host_name.to_owned())
    }

    #[test]
    fn the_state_directory_follows_xdg_then_home_then_the_system() {
        let dir = |variables: &[(&str, &str)]| machine(variables, "a").defaults().node.state_dir;
        assert_eq!(dir(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Path::new("/s/cloudlet"));
        assert_eq!(
            dir(&[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]),
            Path::new("/h/.local/state/cloudlet")
        );
        assert_eq!(dir(&[]), Path::new("/var/lib/cloudlet"));
    }

    #[test]
    fn a_name_is_made_of_any_host_name() {
        let name = |host: &str| machine(&[], host).defaults().node.name;
        assert_eq!(name("truck-7"), "truck-7");
        assert_eq!(name(" \u{7}"), "cloudlet");
        // 39 bytes and then a letter of two: cut before it, not through it.
        let long = format!("{}ä{}", "x".repeat(39), "y".repeat(30));
        assert_eq!(name(&long), "x".repeat(39));
    }

    #[test]
    fn an_unspecified_address_is_reached_at_loopback() {
        let reach = |listen: &str| {
            let mut config = machine(&[], "a").defaults();
            config.api.listen = listen.parse().unwrap();
            config.local_api().map(|address| address.to_string())
        };
        assert_eq!(reach("0.0.0.0:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(reach("[::]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(reach("10.0.0.1:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(reach("0.0.0.0:0"), None);
    }

    #[test]
    fn the_image_store_is_in_the_state_directory_unless_configured() {
        let mut config = machine(&[("HOME", "/h")], "a").defaults();
        assert_eq!(config.image_store(), Path::new("/h/.local/state/cloudlet/images"));
        config.node.image_store = Some("/srv/images".into());
        assert_eq!(config.image_store(), Path::new("/srv/images"));
    }
}
