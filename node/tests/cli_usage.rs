//! Help, completions, exit codes and output of the command line, as users and scripts see them.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli_support;

use clap::CommandFactory as _;
use cli_support::{Ran, World};
use node::cli::args::Cli;

/// Every command and subcommand, as words.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        for sub in command.get_subcommands() {
            let path: Vec<String> = path.iter().cloned().chain([sub.get_name().to_owned()]).collect();
            below(sub, &path, found);
            found.push(path);
        }
    }
    let mut found = vec![Vec::new()];
    below(&Cli::command(), &[], &mut found);
    found
}

#[test]
fn every_command_has_help_that_says_how_it_is_used() {
    let world = World::new();
    let commands = commands();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let mut words: Vec<&str> = command.iter().map(String::as_str).collect();
        words.push("--help");
        let ran = world.run(&words).succeeded();
        assert!(ran.stdout.contains("Usage: cloudlet"), "{words:?}: {}", ran.stdout);
        assert_eq!(ran.stderr, "", "{words:?}");
    }
}

#[test]
fn the_version_lists_what_it_speaks_and_writes() {
    let world = World::new();
    let text = world.run(&["--version"]).succeeded().stdout;
    for part in [env!("CARGO_PKG_VERSION"), "HTTP API 1", "image manifest 1"] {
        assert!(text.contains(part), "{text}");
    }
    let json = world.run(&["--version", "--json"]).succeeded().json();
    assert_eq!(json["release"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&json["api_version"], &json["manifest_format"]), (&1.into(), &1.into()));
}

#[test]
fn completions_know_every_command() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = world.run(&["completions", shell]).succeeded().stdout;
        for word in ["doctor", "unpin", "--image-store"] {
            let word = if shell == "fish" { word.trim_start_matches("--") } else { word };
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    world.run(&["completions", "tcsh"]).failed_with(2);
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_to_do() {
    let world = World::new();
    for (arguments, words) in [
        (&["image", "build"][..], &["<RECIPE>"][..]),
        (&["image", "verify"], &["--all"]),
        (&["image", "verify", "x", "--all"], &["cannot be used"]),
        (&["iamge"], &["'image'"]),
        (&["vm", "start", "Not-A-Service"], &["is not a service id"]),
        (&["vm", "show", "17"], &["17"]),
        (&["vm", "list", "--api", "ftp://x"], &["ftp://x", "http://HOST:PORT"]),
        (&["vm", "list", "--set", "api.listen=127.0.0.1:0"], &["port 0", "--api"]),
        (&["config", "show", "--set", "nothing"], &["SECTION.FIELD=VALUE"]),
        (&["doctor", "-q", "-v"], &["cannot be used"]),
    ] {
        let ran = world.run(arguments).failed_with(2);
        assert_eq!(ran.stdout, "", "{arguments:?}");
        assert!(ran.stderr.starts_with("cloudlet: "), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("\nnext: "), "{arguments:?}: {}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{arguments:?} does not say {word}: {}", ran.stderr);
        }
    }
    for nothing in [&[][..], &["vm"], &["config"]] {
        let ran = world.run(nothing).failed_with(2);
        assert!(ran.stderr.contains("Usage: cloudlet"), "{}", ran.stderr);
    }
}

#[test]
fn errors_are_one_json_document_with_json() {
    let world = World::new();
    for (arguments, code) in [
        (&["--json", "image", "build"][..], 2),
        (&["vm", "--json"], 2),
        (&["vm", "list", "--json", "--api", "ftp://x"], 2),
        (&["image", "show", "nothing-like-that", "--json"], 1),
        (&["config", "show", "--json", "--set", "api.lisen=x"], 2),
    ] {
        let ran = world.run(arguments).failed_with(code);
        assert_eq!(ran.stdout, "");
        let error = ran.json_error();
        assert!(error["error"].as_str().is_some_and(|text| !text.is_empty()), "{arguments:?}: {error}");
        assert!(error.get("next").is_some(), "{arguments:?}: {error}");
    }
}

#[test]
fn results_are_one_json_document_with_json() {
    let world = World::new();
    for arguments in [
        &["config", "show"][..],
        &["config", "template"],
        &["config", "check"],
        &["completions", "bash"],
        &["image", "list"],
        &["image", "gc"],
        &["image", "gc", "--dry-run"],
        &["image", "verify", "--all"],
    ] {
        let ran = world.run(&[arguments, &["--json"]].concat()).succeeded();
        assert!(ran.json().is_object(), "{arguments:?}");
        assert_eq!(ran.stderr, "", "{arguments:?}");
    }
}

#[test]
fn nobody_reading_is_no_error() {
    let world = World::new();
    for arguments in [
        &["completions", "bash"][..],
        &["config", "template"],
        &["--help"],
        &["--version"],
        &["image", "list"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = Ran::of(world.command(arguments).stdout(writer).output().unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn a_disk_that_is_full_under_stdout_is_an_error() {
    let world = World::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = Ran::of(world.command(&["config", "template"]).stdout(full).output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot write to stdout"), "{}", ran.stderr);
}

#[test]
fn a_cloudlet_that_does_not_run_is_said_with_what_to_do() {
    // A port that was free a moment ago; nobody is likely to take it before it is asked.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", holder.local_addr().unwrap());
    drop(holder);
    let world = World::new();
    let ran = world.run(&["vm", "list", "--api", &url]).failed_with(1);
    assert!(ran.stderr.starts_with(&format!("cloudlet: {url} ")), "{}", ran.stderr);
    assert!(ran.stderr.contains("because: Connection refused"), "{}", ran.stderr);
    assert!(ran.stderr.contains("next: start the cloudlet with 'cloudlet up'"), "{}", ran.stderr);
}
