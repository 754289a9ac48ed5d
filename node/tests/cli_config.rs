//! `cloudlet config`, and what every command says about a bad configuration.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli_support;

use cli_support::World;

#[test]
fn a_typo_is_told_with_file_line_and_what_was_meant() {
    let world = World::new();
    let file = world.write("c.toml", "[api]\n\nlisen = \"0.0.0.0:1\"\n\n[instances]\nmax = 5000\n");
    for command in [&["config", "check"][..], &["doctor"], &["up"], &["image", "list"], &["vm", "list"]] {
        let ran = world.run(&[command, &["--config", &file]].concat()).failed_with(2);
        assert_eq!(
            ran.stderr,
            format!(
                "cloudlet: {file}:3: unknown field 'api.lisen'; did you mean 'api.listen'?\n\
                 cloudlet: {file}:6: instances.max must be a whole number from 1 to 1000, not 5000\n\
                 next: correct it; 'cloudlet config template' describes every field\n"
            ),
            "{command:?}"
        );
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn a_bad_variable_and_a_bad_flag_are_named() {
    let world = World::new();
    let output =
        world.command(&["config", "check"]).env("CLOUDLET_API__LISTEN", "everywhere").output().unwrap();
    let ran = cli_support::Ran::of(output).failed_with(2);
    assert!(
        ran.stderr.starts_with(
            "cloudlet: environment variable CLOUDLET_API__LISTEN: api.listen must be an IP address and a port, such as"
        ),
        "{}",
        ran.stderr
    );
    let ran = world.run(&["up", "--listen", "everywhere"]).failed_with(2);
    assert!(ran.stderr.starts_with("cloudlet: flag --listen: api.listen must be"), "{}", ran.stderr);
    let ran = world.run(&["up", "--name", ""]).failed_with(2);
    assert!(
        ran.stderr.starts_with("cloudlet: flag --name: node.name must be text of 1 to 40 bytes"),
        "{}",
        ran.stderr
    );
    let long = format!("/{}", "x".repeat(50));
    let ran = world.run(&["image", "list", "--state-dir", &long]).failed_with(2);
    assert!(
        ran.stderr.contains(
            "flag --state-dir: node.state_dir must be an absolute path of at most 50 bytes, not 51"
        )
    );
}

#[test]
fn a_file_that_cannot_be_read_says_who_named_it() {
    let world = World::new();
    let ran = world.run(&["config", "show", "--config", "absent.toml"]).failed_with(2);
    assert!(
        ran.stderr.contains("cannot read the configuration file absent.toml (named by --config)"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("because: No such file") && ran.stderr.contains("next: "), "{}", ran.stderr);
}

#[test]
fn show_tells_the_origin_of_every_value() {
    let world = World::new();
    let file = world.write("c.toml", "[node]\nname = \"truck\"\n");
    let output = world
        .command(&["config", "show", "--config", &file, "--set", "instances.max=3", "--state-dir", "here"])
        .env("CLOUDLET_LOG__JSON", "true")
        .output()
        .unwrap();
    let shown = cli_support::Ran::of(output).succeeded().stdout;
    let here = world.dir.path().canonicalize().unwrap().join("here");
    for line in [
        format!("name = \"truck\"  # {file}:2"),
        "max = 3  # flag --set instances.max".to_owned(),
        "json = true  # environment variable CLOUDLET_LOG__JSON".to_owned(),
        format!("state_dir = \"{}\"  # flag --state-dir", here.display()),
        "enabled = true  # default".to_owned(),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "'{line}' is not in:\n{shown}");
    }
}

#[test]
fn the_users_file_is_found_and_the_template_is_a_good_one() {
    let world = World::new();
    std::fs::create_dir_all(world.path("config/cloudlet")).unwrap();
    let template = world.run(&["config", "template"]).succeeded().stdout;
    let file = world.write("config/cloudlet/cloudlet.toml", &template);
    let ran = world.run(&["config", "check"]).succeeded();
    assert_eq!(ran.stdout, format!("{file}: the configuration is valid\n"));
}

#[test]
fn the_template_as_json_has_every_field_with_its_default() {
    let json = World::new().run(&["config", "template", "--json"]).succeeded().json();
    let fields = json["fields"].as_array().unwrap();
    assert_eq!(fields.len(), node::config::fields::FIELDS.len());
    for field in fields {
        assert!(
            !field["default"].is_null() && field["about"].is_string() && field["takes"].is_string(),
            "{field}"
        );
    }
}
