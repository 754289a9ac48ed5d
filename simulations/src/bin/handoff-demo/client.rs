//! Programs on the handheld's host that know nothing of cloudlets: one that has a recording recognised again and again,
//! and one that opens connection after connection to see how long each waits.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;
use simulations::lab::Host;

use super::demo_support::handheld::{RECORDING, WORDS};
use super::demo_support::{ASK_EVERY, LIMIT, now};

/// Pause between two connections of the second program: how exactly a pause is seen.
const KNOCK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait for an answer: above the patience of `handheld serve`, which is to say what is wrong.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// What became of the requests since somebody asked last.
#[derive(Debug, Default)]
pub struct Answers {
    /// Recognitions with the right words.
    pub right: u64,
    /// Recognitions with others.
    pub wrong: u64,
    /// Why there was no answer, of each request and connection without one.
    pub lost: Vec<String>,
    /// Longest time from a new connection to its answer: a recogniser at work answers that in milliseconds.
    pub longest_pause: Duration,
    /// When the newest request with an answer had begun.
    newest: Option<Instant>,
}

/// Written by the programs, read by the steps.
#[derive(Default)]
pub struct Log {
    answers: Mutex<Answers>,
    stop: AtomicBool,
}

/// Tells the programs to end, also when what is shown meanwhile fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs both programs on `host` while `work` goes on.
pub fn asking<T>(
    host: Host<'_>,
    address: SocketAddr,
    work: impl FnOnce(&Log) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let log = Log::default();
    scope(|scope| {
        scope.spawn(|| {
            while !log.stop.load(Ordering::SeqCst) {
                let begun = now();
                let heard = recognise(host, address);
                log.heard(begun, heard);
            }
        });
        scope.spawn(|| {
            let knocks = host.run(|| {
                while !log.stop.load(Ordering::SeqCst) {
                    let begun = now();
                    let answered = knock(address);
                    log.knocked(begun.elapsed(), answered);
                    std::thread::sleep(KNOCK_EVERY);
                }
                Ok(())
            });
            if let Err(error) = knocks {
                log.lock().lost.push(error.to_string());
            }
        });
        let _stop = Stop(&log.stop);
        work(&log)
    })
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, begun: Instant, heard: anyhow::Result<String>) {
        let mut answers = self.lock();
        match heard {
            Ok(words) => {
                answers.newest = Some(begun);
                if words == WORDS {
                    answers.right += 1;
                } else {
                    eprintln!("    it heard '{words}' instead of '{WORDS}'");
                    answers.wrong += 1;
                }
            }
            Err(error) => {
                eprintln!("    a request was lost: {error:#}");
                answers.lost.push(format!("{error:#}"));
            }
        }
    }

    fn knocked(&self, took: Duration, answered: std::io::Result<()>) {
        let mut answers = self.lock();
        answers.longest_pause = answers.longest_pause.max(took);
        if let Err(error) = answered {
            eprintln!("    a connection was lost: {error}");
            answers.lost.push(error.to_string());
        }
    }

    /// Waits until a request that begins from now on is answered.
    pub fn wait_answer(&self) -> anyhow::Result<()> {
        let begin = now();
        while self.lock().newest.is_none_or(|newest| newest < begin) {
            if begin.elapsed() > LIMIT {
                bail!("no request was answered in {} s", LIMIT.as_secs());
            }
            std::thread::sleep(ASK_EVERY);
        }
        Ok(())
    }

    /// What became of the requests since this was asked last.
    pub fn take(&self) -> Answers {
        std::mem::take(&mut *self.lock())
    }
}

/// The words that `curl` gets for the recording.
fn recognise(host: Host<'_>, address: SocketAddr) -> anyhow::Result<String> {
    let limit = ANSWER_LIMIT.as_secs().to_string();
    let mut curl = host.command("curl");
    curl.args(["--silent", "--show-error", "--fail-with-body", "--max-time", &limit]);
    curl.args(["--header", "Content-Type: audio/wav", "--data-binary", &format!("@{RECORDING}")]);
    let output = curl.arg(format!("http://{address}/recognize")).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{} {}", String::from_utf8_lossy(&output.stderr).trim(), said.trim());
    }
    let answer: Value = serde_json::from_str(&said)?;
    match answer["text"].as_str() {
        Some(words) => Ok(words.to_owned()),
        None => bail!("no words in {answer}"),
    }
}

/// A new connection with one short request.
fn knock(address: SocketAddr) -> std::io::Result<()> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(ANSWER_LIMIT))?;
    connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: speech\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(std::io::Error::other(format!("the answer was '{}'", String::from_utf8_lossy(line))))
}
