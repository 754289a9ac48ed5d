//! Who uses the service meanwhile, through the handheld's local address.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use simulations::lab::Host;

use super::demo_support::now;

/// A human recording of the package pocketsphinx-testdata.
const RECORDING: &str = "/usr/share/pocketsphinx/test/data/cards/001.wav";
/// What pocketsphinx hears in it.
const WORDS: &str = "i've been up close";
/// How long one answer may take: a move over a bad link, and a recognition.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two questions for the service's health. A guess: finer than what is to be seen, and little work for the VM.
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// Has one recording recognised; an error unless the words are right.
pub fn recognise(host: Host<'_>, to: SocketAddr) -> anyhow::Result<()> {
    let sound = std::fs::read(RECORDING).context("the package pocketsphinx-testdata is missing")?;
    let head = format!(
        "POST /recognize HTTP/1.1\r\nHost: service\r\nContent-Type: audio/wav\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        sound.len()
    );
    let answer = ask(host, to, &[head.as_bytes(), &sound].concat())?;
    ensure!(answer.contains(WORDS), "the service answered: {answer}");
    Ok(())
}

/// Has recordings recognised until told to stop; gives how many, all with the right words.
pub fn recognise_on(host: Host<'_>, to: SocketAddr, stop: &AtomicBool) -> anyhow::Result<u32> {
    let mut heard = 0;
    while !stop.load(Ordering::Relaxed) {
        recognise(host, to)?;
        heard += 1;
    }
    Ok(heard)
}

/// Asks for its health until told to stop; gives the longest that an answer took.
pub fn probe(host: Host<'_>, to: SocketAddr, stop: &AtomicBool) -> anyhow::Result<Duration> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = now();
        ask(host, to, b"GET /healthz HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n")?;
        longest = longest.max(begun.elapsed());
        std::thread::sleep(PROBE_EVERY);
    }
    Ok(longest)
}

fn ask(host: Host<'_>, to: SocketAddr, request: &[u8]) -> anyhow::Result<String> {
    let mut stream = host.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the service does not answer")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "the service answered: {answer}");
    Ok(answer)
}
