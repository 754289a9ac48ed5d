//! The command line against a stand-in for a cloudlet: output, exit codes, what bad input does.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]
#![allow(dead_code, reason = "the stand-in is shared with other tests, which use other parts of it")]

use std::fs;
use std::process::{Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use handheld::api::Missing;

mod stub;
use stub::{Behaviour, Ready, Stub, wav};

static STATE: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fn handheld() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_handheld"));
    command.env_remove("HANDHELD_CLOUDLET").env_remove("HANDHELD_INTERFACE").stdin(Stdio::null());
    // The stand-in speaks plain HTTP.
    command.env("HANDHELD_INSECURE", "1");
    // What it remembers is nothing of this user's.
    command.env("HANDHELD_STATE_DIR", STATE.path());
    command
}

/// Runs the program beside the stand-in's runtime.
async fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = handheld();
    command.args(arguments);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn run_speech_prints_words_and_times_and_releases() {
    let stub = Stub::start(Behaviour::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one.wav"), dir.path().join("two.wav"));
    fs::write(&one, wav(1600)).unwrap();
    fs::write(&two, wav(3200)).unwrap();
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let (code, out, err) = run(&["run", "speech", one, two, "--cloudlet", &stub.url()]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("one.wav: heard 1600 samples\n"), "{out}");
    assert!(out.contains("two.wav: heard 3200 samples\n"), "{out}");
    for step in ["discovery", "selection", "provisioning", "ready", "use", "of it recognition      14"] {
        assert!(out.contains(step), "{step} in {out}");
    }
    assert_eq!(stub.shared.starts.load(Ordering::SeqCst), 1, "one instance for all files");
    assert_eq!((stub.users(), stub.shared.recognitions.load(Ordering::SeqCst)), (0, 2));
}

#[tokio::test]
async fn json_is_one_document_and_a_kept_instance_can_be_stopped() {
    let stub = Stub::start(Behaviour::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.wav");
    fs::write(&file, wav(160)).unwrap();
    let file = file.to_str().unwrap();
    let (code, out, err) = run(&["run", "speech", file, "--keep", "--json", "--cloudlet", &stub.url()]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["results"][0]["text"], "heard 160 samples");
    assert_eq!(report["kept"], true);
    assert!(report["timing"]["discovery_ms"].is_u64(), "{out}");
    assert_eq!(stub.users(), 1);

    let (id, token) = (report["instance"]["id"].as_str().unwrap(), report["client_token"].as_str().unwrap());
    let (code, out, _) = run(&["stop", id, "--token", token, "--cloudlet", &stub.url()]).await;
    assert_eq!((code, stub.users()), (0, 0));
    assert!(out.contains("nobody uses it any more"), "{out}");
    let other = "00000000-0000-4000-8000-000000000000";
    let (code, _, err) = run(&["stop", other, "--force", "--cloudlet", &stub.url()]).await;
    assert_eq!(code, 1);
    assert!(err.contains("no such instance"), "{err}");
}

#[tokio::test]
async fn lists_and_choices_are_shown_as_text_and_as_json() {
    let stub = Stub::start(Behaviour::default()).await;
    for (arguments, text) in [
        (vec!["discover"], "alpha"),
        (vec!["services"], "stand-in for speech"),
        (vec!["select", "speech"], "alpha"),
        (vec!["select", "speech", "--explain"], "done in"),
        (vec!["start", "speech"], "release it with: handheld stop"),
    ] {
        let url = stub.url();
        let plain = [arguments.as_slice(), &["--cloudlet", &url]].concat();
        let (code, out, err) = run(&plain).await;
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        assert!(out.contains(text), "{arguments:?}: {out}");
        let (code, out, _) = run(&[plain.as_slice(), &["--json"]].concat()).await;
        assert_eq!(code, 0);
        serde_json::from_str::<serde_json::Value>(&out).unwrap();
    }
}

#[tokio::test]
async fn a_bad_recording_is_explained_before_any_cloudlet_is_asked() {
    let stub = Stub::start(Behaviour::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good.wav"), dir.path().join("bad.wav"));
    fs::write(&good, wav(160)).unwrap();
    fs::write(&bad, "ID3 this is no WAV").unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    let (code, out, err) = run(&["run", "speech", good, bad, "--cloudlet", &stub.url()]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("bad.wav") && err.contains("not a WAV file"), "{err}");
    assert!(err.contains("next: convert it: sox"), "{err}");
    assert_eq!(stub.shared.starts.load(Ordering::SeqCst), 0);
    let (code, _, err) = run(&["run", "speech", "/no/such.wav", "--cloudlet", &stub.url()]).await;
    assert_eq!(code, 1);
    assert!(err.contains("cannot read /no/such.wav") && err.contains("because: "), "{err}");
}

#[tokio::test]
async fn trouble_is_named_with_what_to_do_and_exit_code_1() {
    let missing = Some(Missing { memory_bytes: 1 << 30, cpu_millis: 0 });
    let cases = [
        (Behaviour { missing, ..Behaviour::default() }, "missing: 1024 MiB of memory"),
        (Behaviour { services: vec!["face".to_owned()], ..Behaviour::default() }, "alpha offers face"),
        (Behaviour { ready: Ready::Fails, ..Behaviour::default() }, "the health check never passed"),
    ];
    for (behaviour, text) in cases {
        let stub = Stub::start(behaviour).await;
        let (code, out, err) = run(&["start", "speech", "--cloudlet", &stub.url()]).await;
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.starts_with("handheld: ") && err.contains(text) && err.contains("next: "), "{err}");
    }
    let stub = Stub::start(Behaviour { services: vec![], ..Behaviour::default() }).await;
    let (code, _, err) = run(&["select", "speech", "--explain", "--cloudlet", &stub.url()]).await;
    assert_eq!(code, 1);
    assert!(err.contains("alpha cannot: does not offer the service"), "{err}");
    stub.vanish();
    let (code, _, err) = run(&["discover", "--cloudlet", &stub.url()]).await;
    assert_eq!(code, 1);
    assert!(
        err.contains("did not answer when asked to say what it is") && err.contains("because: "),
        "{err}"
    );
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    for arguments in [
        vec![],
        vec!["dance"],
        vec!["select"],
        vec!["select", "Not A Service"],
        vec!["run", "speech"],
        vec!["discover", "--for", "never"],
        vec!["stop", "00000000-0000-4000-8000-000000000000"],
    ] {
        assert_cmd::Command::from_std(handheld()).args(&arguments).assert().code(2).stdout("");
    }
    for arguments in
        [vec!["--help"], vec!["--version"], vec!["run", "speech", "--help"], vec!["completions", "bash"]]
    {
        let done = assert_cmd::Command::from_std(handheld()).args(&arguments).assert().code(0).stderr("");
        assert!(!done.get_output().stdout.is_empty());
    }
    assert_cmd::Command::from_std(handheld())
        .args(["discover", "--cloudlet", "https://a:1"])
        .assert()
        .code(1);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = handheld()
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), String::from_utf8(done.stderr).unwrap()), (Some(0), String::new()));
}

#[tokio::test]
async fn an_interrupt_releases_the_instance_whether_it_is_ready_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.wav");
    fs::write(&file, wav(160)).unwrap();
    for behaviour in [
        Behaviour { ready: Ready::Never, ..Behaviour::default() },
        Behaviour { deaf: true, ..Behaviour::default() },
    ] {
        let stub = Stub::start(behaviour.clone()).await;
        let mut command = handheld();
        command.args(["run", "speech", file.to_str().unwrap(), "--cloudlet", &stub.url()]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let busy = || {
            stub.shared.streams.load(Ordering::SeqCst) > 0 && !behaviour.deaf
                || stub.shared.recognitions.load(Ordering::SeqCst) > 0
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), async {
            while !busy() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(stub.users(), 1);
        let process = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
        let done = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let err = String::from_utf8(done.stderr).unwrap();
        assert_eq!((done.status.code(), stub.users()), (Some(1), 0), "{err}");
        assert!(err.contains("interrupted; the instance was released"), "{err}");
    }
}

#[tokio::test]
async fn rules_from_file_and_command_line_decide_and_mistakes_are_found_before_anybody_is_asked() {
    let stub = Stub::start(Behaviour::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("handheld.toml");
    fs::write(&config, "[selection]\nrequire = 'cloudlet.accelerator == \"kvm\"'\n").unwrap();
    let (url, config) = (stub.url(), config.to_str().unwrap());

    let (code, out, err) =
        run(&["select", "speech", "--explain", "--cloudlet", &url, "--config", config]).await;
    assert_eq!(code, 1);
    let unmet = "does not meet 'cloudlet.accelerator == \"kvm\"' (cloudlet.accelerator = \"tcg\")";
    assert!(out.contains(unmet) && err.contains(unmet), "{out} {err}");
    // What the user demands is not tried all the same.
    let (code, _, err) = run(&["start", "speech", "--cloudlet", &url, "--config", config]).await;
    assert_eq!((code, stub.shared.starts.load(Ordering::SeqCst)), (1, 0));
    assert!(
        err.contains("is as it must be: alpha cannot:") && err.contains("next: handheld select"),
        "{err}"
    );
    let loosened = ["--config", config, "--require", "link.rtt_ms < 60000", "--utility", "-link.rtt_ms"];
    let (code, out, _) =
        run(&[&["select", "speech", "--explain", "--cloudlet", &url], &loosened[..]].concat()).await;
    assert_eq!(code, 0);
    assert!(out.contains("utility") && out.contains("link.rtt_ms = "), "{out}");

    let (code, _, err) = run(&["select", "speech", "--require", "link.rtt_m < 5"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("did you mean 'link.rtt_ms'? at column 1"), "{err}");
    fs::write(config, "[selection]\nutilty = 'rtt'\n").unwrap();
    let (code, _, err) = run(&["select", "speech", "--config", config]).await;
    assert_eq!(code, 1);
    assert!(err.contains("bad configuration") && err.contains("utilty"), "{err}");
}

#[tokio::test]
async fn a_recorded_survey_is_chosen_from_without_a_network() {
    let stub = Stub::start(Behaviour::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("survey.json");
    let survey = file.to_str().unwrap();
    let url = stub.url();
    let live = ["select", "speech", "--json", "--requests", "3", "--record", survey, "--cloudlet", &url];
    let (code, out, err) = run(&live).await;
    assert_eq!((code, err.as_str()), (0, ""));
    stub.vanish();
    let (code, again, err) = run(&["select", "--json", "--from", survey]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json(&out)["considered"], json(&again)["considered"]);
    assert_eq!(json(&again)["considered"][0]["completion"]["parts"][0]["name"], "round_trips");

    let (code, text, _) = run(&["select", "--explain", "--from", survey]).await;
    assert!(
        code == 0 && text.starts_with("alpha\nalpha (01010101)  score ") && text.contains("done in"),
        "{text}"
    );
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("\"version\": 2", "\"version\": 9")).unwrap();
    let (code, _, err) = run(&["select", "--from", survey]).await;
    assert!(code == 1 && err.contains("the survey has version 9"), "{err}");
    let (code, _, _) = run(&["select", "speech", "--from", survey]).await;
    assert_eq!(code, 2);
}
