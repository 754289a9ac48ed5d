//! `handheld pair` against somebody who is no cloudlet, and what an unpaired handheld may do: nothing.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Output, Stdio};

use handheld::{Access, Client, Error};
use mesh::trust::{Authority, Grant, Home, Permissions, Request, Role, Window};

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(dir: &std::path::Path, arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = std::process::Command::new(env!("CARGO_BIN_EXE_handheld"))
        .args(arguments)
        .env_remove("HANDHELD_CLOUDLET")
        .env_remove("HANDHELD_INSECURE")
        .env("HANDHELD_STATE_DIR", dir.join("trust"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

#[test]
fn an_unpaired_handheld_speaks_to_nobody_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["services", "--cloudlet", "127.0.0.1:1"][..], &["mission"], &["discover"]] {
        let ran = run(dir.path(), arguments);
        assert_eq!(ran.code, 1);
        assert!(
            ran.err.contains("belongs to no mission") && ran.err.contains("handheld pair"),
            "{}",
            ran.err
        );
    }
}

#[test]
fn mistakes_in_what_was_typed_are_told_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(dir.path(), &["pair", "127.0.0.1:1", "--code", "1234"]);
    assert!(ran.code == 2 && ran.err.contains("8 digits"), "{}", ran.err);
    let ran = run(dir.path(), &["pair", "127.0.0.1:1"]);
    assert!(ran.code == 1 && ran.err.contains("--code"), "{}", ran.err);
    let ran = run(dir.path(), &["pair"]);
    assert!(ran.code == 1 && ran.err.contains("--code"), "{}", ran.err);
    let ran = run(dir.path(), &["pair", "127.0.0.1:1", "--code", "12345678"]);
    assert!(ran.code == 1 && ran.err.contains("no cloudlet shows a pairing code"), "{}", ran.err);
    assert!(ran.err.contains("next: ") && ran.out.is_empty(), "{}", ran.err);
}

/// Answers one connection with these bytes, whatever is said.
fn answering(bytes: Vec<u8>) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 39];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&bytes).unwrap();
        // Until the handheld has had enough.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    (at, thread)
}

#[test]
fn whatever_a_stranger_answers_the_handheld_is_not_paired() {
    let dir = tempfile::tempdir().unwrap();
    for (bytes, words) in [
        (vec![0xff; 64], "no cloudlet shows"),
        (vec![0, 0, 0, 3, 1, 5, 3], "locked"),
        (vec![0, 0, 0, 2, 9, 9], "no pairing message"),
        ([&[0, 0, 0, 35, 1, 2][..], &[0x42; 33]].concat(), "no pairing message"),
    ] {
        let (at, thread) = answering(bytes);
        let ran = run(dir.path(), &["pair", &at, "--code", "12345678", "--name", "x"]);
        thread.join().unwrap();
        assert!(ran.code == 1 && ran.err.contains(words), "{words}: {}", ran.err);
        assert!(!dir.path().join("trust/bundle.json").exists());
    }
}

#[test]
fn a_member_does_not_fall_back_to_plain_http() {
    let dir = tempfile::tempdir().unwrap();
    // Far in the future and in the past: what is checked here is the way, not the time.
    let window = Window { not_before_unix_s: 1_700_000_000, not_after_unix_s: 4_000_000_000 };
    let authority = Authority::create("test", window).unwrap();
    let home = Home::at(dir.path().join("trust"));
    let request = home.device().unwrap().request(Role::Handheld, "hand").unwrap();
    let grant = Grant { permissions: Permissions::USE_SERVICES, may_enroll: None, not_after_unix_s: None };
    home.join(&authority.enroll(&Request::from_der(&request).unwrap(), grant).unwrap()).unwrap();
    let access = Access::load(&home).unwrap().unwrap();
    let error = Client::with(&access, "http://10.0.0.1:8477").unwrap_err();
    assert!(matches!(error, Error::Scheme { scheme: "https", .. }), "{error}");
    assert_eq!(Client::with(&access, "10.0.0.1:8477").unwrap().url(), "https://10.0.0.1:8477");
    let ran = run(dir.path(), &["services", "--cloudlet", "http://127.0.0.1:1"]);
    assert!(ran.code == 1 && ran.err.contains("https is"), "{}", ran.err);
    // A server that speaks plain HTTP gets a TLS hello, and nothing else.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = [0; 3];
        stream.read_exact(&mut heard).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").unwrap();
        heard
    });
    let ran = run(dir.path(), &["services", "--cloudlet", &at]);
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert_eq!(heard.join().unwrap(), [0x16, 3, 1], "a TLS handshake record");
    let shown = run(dir.path(), &["mission", "--json"]);
    assert!(shown.out.contains("\"permissions\": \"use-services\""), "{}", shown.out);
}
