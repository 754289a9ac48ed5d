//! QEMU's machine protocol (QMP): a line of JSON for each command, answer and event.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::super::demo_support::now;

/// How long a QEMU may take to answer a command. A guess: it answers in milliseconds unless it is stuck.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a QEMU may take to open its socket; 0.1 s on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A connection to one QEMU.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// The line that is being read.
    line: Vec<u8>,
    /// Events in order that nobody has waited for yet.
    events: Vec<Event>,
}

/// Something that happened in QEMU.
#[derive(Debug, Clone)]
pub struct Event {
    pub name: String,
    pub data: Value,
    /// By the machine's clock, since 1970.
    pub at: Duration,
}

impl Qmp {
    /// Connects to a QEMU that starts.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let begun = now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if begun.elapsed() < START_LIMIT => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error).context("QEMU does not open its monitor"),
            }
        };
        let mut this = Self { stream: BufReader::new(stream), line: Vec::new(), events: Vec::new() };
        this.ask("qmp_capabilities", json!({}))?;
        Ok(this)
    }

    /// Runs a command and gives what it returned.
    pub fn ask(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let until = now() + ANSWER_LIMIT;
        loop {
            let mut said = self.read(until)?.with_context(|| format!("QEMU does not answer '{command}'"))?;
            if let Some(answer) = said.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = said.get("error") {
                bail!("QEMU refused '{command}': {}", error["desc"].as_str().unwrap_or_default());
            }
            self.note(&said);
        }
    }

    /// Waits for an event that `wanted` makes something of; `None` when it is `until` before there is one. Events before
    /// it are forgotten.
    pub fn wait<T>(
        &mut self,
        until: Instant,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        loop {
            while !self.events.is_empty() {
                if let Some(found) = wanted(&self.events.remove(0)) {
                    return Ok(Some(found));
                }
            }
            match self.read(until)? {
                Some(said) => self.note(&said),
                None => return Ok(None),
            }
        }
    }

    fn note(&mut self, said: &Value) {
        if let Some(name) = said["event"].as_str() {
            let part = |name: &str| said["timestamp"][name].as_u64().unwrap_or_default();
            let at = Duration::from_secs(part("seconds")) + Duration::from_micros(part("microseconds"));
            self.events.push(Event { name: name.to_owned(), data: said["data"].clone(), at });
        }
    }

    /// The next line; `None` when it is `until` before it is complete.
    fn read(&mut self, until: Instant) -> anyhow::Result<Option<Value>> {
        let left = until.saturating_duration_since(now());
        if left.is_zero() {
            return Ok(None);
        }
        self.stream.get_ref().set_read_timeout(Some(left))?;
        match self.stream.read_until(b'\n', &mut self.line) {
            Ok(0) => bail!("QEMU has ended"),
            Ok(_) => Ok(Some(serde_json::from_slice(&std::mem::take(&mut self.line))?)),
            // What came of the line stays.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error).context("QEMU's monitor"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A QEMU that answers each command with the next of these words.
    fn qemu(socket: &Path, words: &'static [&'static str]) {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            for said in words {
                stream.read_line(&mut String::new()).unwrap();
                stream.get_mut().write_all(said.as_bytes()).unwrap();
            }
            // Stays until the other side goes.
            stream.read_line(&mut String::new()).unwrap();
        });
    }

    #[test]
    fn events_that_came_before_an_answer_are_kept_and_half_a_line_too() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp");
        let words = &[
            "{\"QMP\":{}}\n{\"return\":{}}\n",
            "{\"event\":\"STOP\",\"timestamp\":{\"seconds\":7,\"microseconds\":5}}\n{\"return\":1}\n{\"eve",
            "nt\":\"RESUME\",\"timestamp\":{\"seconds\":8,\"microseconds\":0}}\n{\"return\":2}\n",
            "{\"error\":{\"desc\":\"no\"}}\n",
        ];
        qemu(&socket, words);
        let mut qmp = Qmp::connect(&socket).unwrap();
        assert_eq!(qmp.ask("one", json!({})).unwrap(), 1);
        let at = |name| move |event: &Event| (event.name == name).then_some(event.at);
        let soon = || now() + Duration::from_millis(20);
        assert_eq!(qmp.wait(soon(), at("STOP")).unwrap(), Some(Duration::new(7, 5000)));
        assert_eq!(qmp.wait(soon(), at("RESUME")).unwrap(), None, "half of it is there");
        assert_eq!(qmp.ask("two", json!({})).unwrap(), 2);
        assert_eq!(qmp.wait(soon(), at("RESUME")).unwrap(), Some(Duration::from_secs(8)));
        let refused = qmp.ask("three", json!({})).unwrap_err().to_string();
        assert!(refused.contains("'three': no"), "{refused}");
    }
}
