//! What the tests with real VMs share: the built program as a daemon, in a directory of its own, on the images that
//! `make test` has built.
#![allow(dead_code, unused_imports, reason = "every test binary uses another part of it")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests use real time and may panic"
)]

mod capabilities;
mod daemon;
mod host;
#[path = "../api_support/ports.rs"]
pub mod ports;
#[path = "../../../migration/tests/libvirt_support/processes.rs"]
pub mod processes;
mod site;
mod store;

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use handheld::api::{Sharing, Start};

pub use daemon::Up;
pub use host::{Namespace, RADIO, Tmpfs, is_root};
pub use site::{CLOUDLET, Ran, Site};
pub use store::Images;

/// How long anything may take; generous, as test machines are slow and busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the client library.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A request for the sample service.
pub fn speech(token: &str, sharing: Sharing) -> Start {
    Start { service: "speech".parse().unwrap(), client_token: token.to_owned(), sharing }
}

/// Sends one HTTP request; gives status and body.
pub fn http(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: cloudlet\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(body).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A recording of a human voice from Debian's `pocketsphinx-testdata`.
pub fn recording() -> PathBuf {
    let path = PathBuf::from("/usr/share/pocketsphinx/test/data/cards/001.wav");
    assert!(path.exists(), "{} is missing; `make packages` installs pocketsphinx-testdata", path.display());
    path
}

/// The words in a recording, as Debian's own program on this host understands them.
pub fn expected_words(recording: &std::path::Path) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../vm-images/recipes/speech/expected-words");
    let ran = std::process::Command::new(script).arg(recording).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}
