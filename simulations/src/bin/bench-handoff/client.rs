//! Who uses the service meanwhile.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use simulations::lab::Host;

use super::arguments::Workload;
use super::demo_support::now;

/// A human recording of the package pocketsphinx-testdata.
const RECORDING: &str = "/usr/share/pocketsphinx/test/data/cards/001.wav";
/// What pocketsphinx hears in it.
const WORDS: &str = "i've been up close";
/// How long one answer may take: a move over a bad link, and a recognition.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two questions for the service's health. A guess: finer than what is to be seen, and little work for the VM.
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// How often somebody who waits looks whether the service is elsewhere.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Nowhere any more.
const GONE: usize = 2;

/// The service, for clients in one host: at one of two places. Who waits for an answer when it moves asks again at the other at
/// once, as if he were told.
pub struct Service<'a> {
    host: Host<'a>,
    places: [SocketAddr; 2],
    at: AtomicUsize,
}

impl<'a> Service<'a> {
    /// It is at the first place.
    pub fn new(host: Host<'a>, places: [SocketAddr; 2]) -> Self {
        Self { host, places, at: AtomicUsize::new(0) }
    }

    /// It is at the second place now.
    pub fn moved(&self) {
        self.at.store(1, Ordering::Relaxed);
    }

    /// Nobody need wait for it any more.
    pub fn give_up(&self) {
        self.at.store(GONE, Ordering::Relaxed);
    }

    fn ask(&self, request: &[u8]) -> anyhow::Result<String> {
        loop {
            let at = self.at.load(Ordering::Relaxed);
            let Some(place) = self.places.get(at) else { bail!("the service is gone") };
            let is_here = || self.at.load(Ordering::Relaxed) == at;
            match ask(self.host, *place, request, is_here) {
                Err(_) if !is_here() => {}
                answer => return answer,
            }
        }
    }
}

/// What was asked beside a move.
pub struct Asked {
    heard: u32,
    pub longest_ms: Option<u64>,
    /// What the writer said last.
    written: Option<Written>,
}

/// What the writer says that it has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Deserialize)]
pub struct Written {
    pages: u64,
    /// They were on the disk when it said so.
    records: u64,
}

/// Gets the work going. Caches are as after any other use then, and what the last move left is over.
pub fn begin(service: &Service<'_>, workload: Workload) -> anyhow::Result<Written> {
    let Some(rates) = workload.rates() else {
        recognise(service)?;
        return Ok(Written::default());
    };
    written(&service.ask(&head(&format!(
        "POST /rate?memory={}&disk={}",
        rates.memory_bytes_per_s, rates.disk_bytes_per_s
    )))?)
}

/// Looks whether it is the same service, with all that it knew: the words are right, or every page and every record.
pub fn check(service: &Service<'_>, workload: Workload, begun: Written, asked: &Asked) -> anyhow::Result<()> {
    let Some(rates) = workload.rates() else {
        ensure!(workload == Workload::SpeechIdle || asked.heard > 0, "nothing was recognised meanwhile");
        return recognise(service);
    };
    let found = written(&service.ask(&head("GET /check"))?)?;
    let last = asked.written.unwrap_or(begun);
    ensure!(found.pages >= last.pages && found.records >= last.records, "{found:?} after {last:?}");
    ensure!(rates.memory_bytes_per_s == 0 || found.pages > begun.pages, "it does not write to memory");
    ensure!(rates.disk_bytes_per_s == 0 || found.records > begun.records, "it does not write to the disk");
    Ok(())
}

fn written(answer: &str) -> anyhow::Result<Written> {
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer with a body")?;
    serde_json::from_str(body).with_context(|| format!("the writer said {body}"))
}

fn head(what: &str) -> Vec<u8> {
    format!("{what} HTTP/1.1\r\nHost: service\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Uses the service until told to stop.
pub fn beside(
    service: &Service<'_>,
    workload: Workload,
    is_probed: bool,
    stop: &AtomicBool,
) -> anyhow::Result<Asked> {
    std::thread::scope(|scope| {
        let probing = is_probed.then(|| scope.spawn(|| probe(service, workload, stop)));
        let heard = match workload {
            Workload::Speech => recognise_on(service, stop),
            _ => Ok(0),
        };
        let longest =
            probing.map(|probing| probing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let (longest, written) = longest.transpose()?.unzip();
        let longest_ms = longest.map(|longest| longest.as_millis() as u64);
        Ok(Asked { heard: heard?, longest_ms, written: written.flatten() })
    })
}

/// Has one recording recognised; an error unless the words are right.
fn recognise(service: &Service<'_>) -> anyhow::Result<()> {
    let sound = std::fs::read(RECORDING).context("the package pocketsphinx-testdata is missing")?;
    let head = format!(
        "POST /recognize HTTP/1.1\r\nHost: service\r\nContent-Type: audio/wav\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        sound.len()
    );
    let answer = service.ask(&[head.as_bytes(), &sound].concat())?;
    ensure!(answer.contains(WORDS), "the service answered: {answer}");
    Ok(())
}

/// Has recordings recognised until told to stop; gives how many, all with the right words.
fn recognise_on(service: &Service<'_>, stop: &AtomicBool) -> anyhow::Result<u32> {
    let mut heard = 0;
    while !stop.load(Ordering::Relaxed) {
        recognise(service)?;
        heard += 1;
    }
    Ok(heard)
}

/// Asks for its health until told to stop; gives the longest that an answer took, and what the writer said last.
fn probe(
    service: &Service<'_>,
    workload: Workload,
    stop: &AtomicBool,
) -> anyhow::Result<(Duration, Option<Written>)> {
    let (mut longest, mut said) = (Duration::ZERO, None);
    while !stop.load(Ordering::Relaxed) {
        let begun = now();
        let answer = service.ask(&head("GET /healthz"))?;
        longest = longest.max(begun.elapsed());
        if workload.rates().is_some() {
            said = Some(written(&answer)?);
        }
        std::thread::sleep(PROBE_EVERY);
    }
    Ok((longest, said))
}

/// Asks at one place, as long as `is_here`.
fn ask(host: Host<'_>, to: SocketAddr, request: &[u8], is_here: impl Fn() -> bool) -> anyhow::Result<String> {
    let begun = now();
    let mut stream = host.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(LOOK_EVERY))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                ensure!(is_here(), "the service is elsewhere");
                ensure!(begun.elapsed() < PATIENCE, "the service does not answer");
            }
            Err(error) => return Err(error).context("the service does not answer"),
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 200"), "the service answered: {answer}");
    Ok(answer)
}
