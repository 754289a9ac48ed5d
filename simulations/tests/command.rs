//! The command, as a person or a program calls it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cloudlet-sim")).args(arguments).output().unwrap()
}

fn scenario(name: &str) -> String {
    format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn two_processes_with_one_seed_write_the_same_log() {
    let logs = ["one.log", "two.log"].map(scratch);
    let outputs = logs.each_ref().map(|log| {
        let output =
            sim(&["run", &scenario("patrol"), "--seed", "5", "--json", "--log", log.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    });
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(std::fs::read(&logs[0]).unwrap(), std::fs::read(&logs[1]).unwrap());
    let report: serde_json::Value = serde_json::from_slice(&outputs[0]).unwrap();
    assert_eq!(report["seed"], 5);
    assert!(report["requests"].as_u64().unwrap() > 100, "{report}");
    assert!(report["ready_ms"]["median"].as_f64().unwrap() > 400.0, "{report}");
}

#[test]
fn a_scenario_finds_its_trace_beside_itself() {
    let output = sim(&["run", &scenario("recorded")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("1 cloudlets, 2 handhelds"), "{text}");
}

#[test]
fn bad_inputs_are_named_and_exit_with_1() {
    let typo = scratch("typo.toml");
    let text = std::fs::read_to_string(scenario("patrol")).unwrap();
    std::fs::write(&typo, text.replace("latency_ms", "latency_s")).unwrap();
    let typo = typo.to_str().unwrap();
    for (arguments, says) in [
        (vec!["run", "no-such-file.toml"], "no-such-file.toml"),
        (vec!["run", typo], "latency_s"),
        (vec!["run", &scenario("patrol"), "--trace", typo], "[trace]"),
        (vec!["run", &scenario("recorded"), "--trace", typo], "line 4"),
    ] {
        let output = sim(&arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("cloudlet-sim: ") && error.contains(says), "{error}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(sim(&["run"]).status.code(), Some(2));
}
