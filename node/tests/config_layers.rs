//! The layers of the configuration: which wins, which file is read, and what is said about bad values.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use node::config::fields::{FIELDS, Kind};
use node::config::{self, Config, Environment, Error, Machine, Mesh, Origin, Setting, Sources, Trust};

struct World {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let system_file = dir.path().join("system.toml");
        let mut world = Self {
            dir,
            sources: Sources {
                file: None,
                environment: Environment::new(),
                flags: Vec::new(),
                machine: Machine { host_name: String::new(), state_home: None, config_home: None },
                system_file,
            },
        };
        world = world.env("HOME", "/h");
        world.sources.machine = Machine::of(&world.sources.environment, "truck".to_owned());
        world.sources.machine.config_home = Some(world.dir.path().join("user"));
        world
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn file(mut self, text: &str) -> Self {
        self.sources.file = Some(self.write("c.toml", text));
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.insert(name.into(), value.into());
        self
    }

    fn flag(mut self, field: &str, value: &str) -> Self {
        let flag = format!("--set {field}");
        self.sources.flags.push(Setting { flag, field: field.to_owned(), value: value.to_owned() });
        self
    }

    fn load(&self) -> Result<config::Effective, Error> {
        config::load(&self.sources)
    }

    fn problems(&self) -> Vec<String> {
        let error = self.load().unwrap_err();
        let dir = format!("{}/", self.dir.path().display());
        error.problems().iter().map(|problem| problem.to_string().replace(&dir, "")).collect()
    }
}

#[test]
fn without_anything_the_defaults_of_the_machine_are_in_effect() {
    let effective = World::new().load().unwrap();
    let expected = Config::default();
    assert_eq!(effective.config.node.name, "truck");
    assert_eq!(effective.config.node.state_dir, Path::new("/h/.local/state/cloudlet"));
    assert_eq!(Config { node: expected.node.clone(), ..effective.config.clone() }, expected);
    assert!(effective.origins.values().all(|origin| *origin == Origin::Default));
    assert_eq!(effective.origins.len(), FIELDS.len());
}

#[test]
fn environment_beats_file_and_flags_beat_both() {
    let text = "[instances]\nmax = 1\nidle_stop_s = 11\nuser_timeout_s = 111\nstart_limit_s = 1000\n";
    let effective = World::new()
        .file(text)
        .env("CLOUDLET_INSTANCES__IDLE_STOP_S", "22")
        .env("CLOUDLET_INSTANCES__USER_TIMEOUT_S", "222")
        .flag("instances.user_timeout_s", "333")
        .load()
        .unwrap();
    let instances = &effective.config.instances;
    assert_eq!((instances.max, instances.idle_stop_s, instances.user_timeout_s), (1, 22, 333));
    let origin = |field: &str| effective.origins[field].to_string();
    assert!(origin("instances.max").ends_with("c.toml:2"));
    assert_eq!(origin("instances.idle_stop_s"), "environment variable CLOUDLET_INSTANCES__IDLE_STOP_S");
    assert_eq!(origin("instances.user_timeout_s"), "flag --set instances.user_timeout_s");
    assert_eq!(effective.origins["instances.memory_reserve_mib"], Origin::Default);
}

#[test]
fn the_last_of_two_flags_wins() {
    let effective = World::new().flag("instances.max", "2").flag("instances.max", "3").load().unwrap();
    assert_eq!(effective.config.instances.max, 3);
}

#[test]
fn every_kind_of_value_can_come_from_the_environment() {
    let effective = World::new()
        .env("CLOUDLET_API__LISTEN", "[::1]:0")
        .env("CLOUDLET_DISCOVERY__ENABLED", "false")
        .env("CLOUDLET_DISCOVERY__INTERFACES", "eth0, wlan0")
        .env("CLOUDLET_HYPERVISOR__ACCELERATOR", "tcg")
        .env("CLOUDLET_INSTANCES__CPU_OVERCOMMIT", "1.5")
        .env("CLOUDLET_MISSION__ENDS", "2026-12-01T06:00:00Z")
        .env("CLOUDLET_NODE__NAME", "42")
        .load()
        .unwrap();
    let config = effective.config;
    assert_eq!(config.api.listen, "[::1]:0".parse().unwrap());
    assert!(!config.discovery.enabled);
    assert_eq!(config.discovery.interfaces, ["eth0", "wlan0"]);
    assert_eq!(config.hypervisor.accelerator, config::AcceleratorChoice::Tcg);
    assert_eq!(config.instances.cpu_overcommit, 1.5);
    assert_eq!(config.mission.ends_unix_s(), Some(1_796_104_800));
    assert_eq!(config.node.name, "42", "text that looks like a number stays text");
}

#[test]
fn the_file_is_the_flags_then_the_environments_then_the_users_then_the_systems() {
    let mut world = World::new();
    let of = |world: &World| world.load().unwrap().config.instances.max;
    assert_eq!(of(&world), 64);
    world.write("system.toml", "instances.max = 1\n");
    assert_eq!(of(&world), 1);
    world.write("user/cloudlet/cloudlet.toml", "instances.max = 2\n");
    assert_eq!(of(&world), 2);
    let named = world.write("named.toml", "instances.max = 3\n");
    world = world.env("CLOUDLET_CONFIG", named.to_str().unwrap());
    assert_eq!(of(&world), 3);
    world = world.file("instances.max = 4\n");
    assert_eq!(of(&world), 4);
}

#[test]
fn a_named_file_must_be_there_and_be_readable() {
    let mut world = World::new();
    world.sources.file = Some(world.dir.path().join("absent.toml"));
    assert!(matches!(world.load(), Err(Error::Read { named_by: "--config", .. })));
    world.sources.file = None;
    let world = world.env("CLOUDLET_CONFIG", "/does/not/exist.toml");
    assert!(matches!(world.load(), Err(Error::Read { named_by: "CLOUDLET_CONFIG", .. })));
    // A directory in the usual place is no absent file.
    let world = World::new();
    std::fs::create_dir_all(world.dir.path().join("system.toml")).unwrap();
    assert!(matches!(world.load(), Err(Error::Read { named_by: "its usual place", .. })));
}

#[test]
fn a_file_that_is_no_text_or_endless_is_refused() {
    let mut world = World::new();
    let path = world.dir.path().join("binary.toml");
    std::fs::write(&path, b"\xff\xfe[api]").unwrap();
    world.sources.file = Some(path);
    assert!(matches!(world.load(), Err(Error::Read { .. })));
    world.sources.file = Some("/dev/zero".into());
    assert!(matches!(world.load(), Err(Error::TooLong { .. })));
}

#[test]
fn all_problems_of_all_layers_are_told_each_with_its_place() {
    let problems = World::new()
        .file("[api]\nlisen = \"0.0.0.0:1\"\n[instances]\nmax = 1001\n")
        .env("CLOUDLET_INSTANCES__START_LIMIT_S", "0")
        .env("CLOUDLET_INSTANCES__IDEL_STOP_S", "0")
        .env("CLOUDLET_API_LISTEN", "0.0.0.0:1")
        .env("CLOUDLET_SOMETHING_ELSE", "fine")
        .flag("hypervisor.accelerator", "hvm")
        .flag("name", "x")
        .flag("node.nam", "x")
        .problems();
    assert_eq!(
        problems,
        [
            "c.toml:2: unknown field 'api.lisen'; did you mean 'api.listen'?",
            "c.toml:4: instances.max must be a whole number from 1 to 1000, not 1001",
            "environment variable CLOUDLET_API_LISTEN: unknown variable; did you mean CLOUDLET_API__LISTEN?",
            "environment variable CLOUDLET_INSTANCES__IDEL_STOP_S: sets no known field; did you mean \
             CLOUDLET_INSTANCES__IDLE_STOP_S?",
            "environment variable CLOUDLET_INSTANCES__START_LIMIT_S: instances.start_limit_s must be a whole number of \
             seconds from 1 to 3600, not 0",
            "flag --set hypervisor.accelerator: hypervisor.accelerator must be \"auto\" or \"kvm\" or \"tcg\", not 'hvm'",
            "flag --set name: 'name' is no field; write section.field=value",
            "flag --set node.nam: unknown field 'node.nam'; did you mean 'node.name'?",
        ]
    );
}

#[test]
fn a_value_that_is_not_utf8_names_its_variable() {
    use std::os::unix::ffi::OsStringExt as _;
    let mut world = World::new();
    world.sources.environment.insert("CLOUDLET_NODE__NAME".into(), OsString::from_vec(vec![0xff]));
    assert_eq!(
        world.problems(),
        [
            "environment variable CLOUDLET_NODE__NAME: node.name must be text of 1 to 40 bytes without control \
          characters, and this is not UTF-8"
        ]
    );
}

#[test]
fn a_default_that_does_not_fit_is_told_only_while_it_is_in_effect() {
    let mut world = World::new();
    world.sources.machine.state_home = Some(format!("/{}", "x".repeat(60)).into());
    let problems = world.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0]
            .starts_with("default: node.state_dir must be an absolute path of at most 50 bytes, not 70")
    );
    assert!(problems[0].contains("CLOUDLET_NODE__STATE_DIR"));
    let configured = world.flag("node.state_dir", "/srv/cloudlet").load().unwrap();
    assert_eq!(configured.config.node.state_dir, Path::new("/srv/cloudlet"));
}

#[test]
fn every_number_has_exactly_the_range_that_it_states() {
    for field in &FIELDS {
        let Kind::Whole { least, most } = field.kind else { continue };
        for (value, good) in [(least, true), (most, true), (least - 1, false), (most + 1, false)] {
            let in_file = World::new().file(&format!("[{}]\n{} = {value}\n", field.section, field.key));
            assert_eq!(in_file.load().is_ok(), good, "{} = {value}", field.name());
            let in_env = World::new().env(&field.variable(), &value.to_string());
            assert_eq!(in_env.load().is_ok(), good, "{}={value}", field.variable());
        }
    }
}

#[test]
fn the_template_is_valid_as_it_is_and_with_every_field_uncommented() {
    let template = config::template();
    let untouched = World::new().file(&template).load().unwrap();
    assert_eq!(untouched.config, World::new().load().unwrap().config);

    let uncommented: String = template
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(field) if field.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{field}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let all = World::new().file(&uncommented).load().unwrap();
    assert!(all.origins.values().all(|origin| matches!(origin, Origin::File { .. })), "{:?}", all.origins);
    let defaults = Config::default();
    // Examples, as these defaults depend on something else.
    assert_eq!(all.config.pairing_listen(), defaults.pairing_listen());
    assert_eq!(all.config.mesh_listen(), defaults.mesh_listen());
    let expected = Config {
        node: all.config.node.clone(),
        mission: all.config.mission.clone(),
        trust: Trust { pairing_listen: all.config.trust.pairing_listen, ..defaults.trust.clone() },
        mesh: Mesh { listen: all.config.mesh.listen, ..defaults.mesh.clone() },
        ..defaults
    };
    assert_eq!(all.config, expected, "the template's values are the defaults");
}

#[test]
fn what_show_prints_can_be_loaded_again() {
    let world = World::new()
        .file("[api]\nlisten = \"127.0.0.1:1\"\n")
        .env("CLOUDLET_NODE__NAME", "a \"quoted\" # name")
        .flag("discovery.interfaces", "eth0");
    let effective = world.load().unwrap();
    let shown = effective.to_toml();
    assert!(shown.contains("listen = \"127.0.0.1:1\"  # "), "{shown}");
    assert!(shown.contains("# environment variable CLOUDLET_NODE__NAME"), "{shown}");
    assert!(shown.contains("# ends is not set: none"), "{shown}");
    let again = World::new().file(&shown).load().unwrap();
    assert_eq!(again.config, effective.config);
    let json = effective.to_json();
    assert_eq!(json["fields"]["api.listen"]["value"], "127.0.0.1:1");
    assert_eq!(json["fields"]["discovery.interfaces"]["origin"], "flag --set discovery.interfaces");
}
