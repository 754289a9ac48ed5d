//! The demo's cloudlet: the real daemon, in a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use serde_json::Value as Json;

use super::{Error, Stage, beside};

/// Most of the daemon's log that is read for an error, bytes.
const LOG_BYTES: u64 = 64 * 1024;
/// Lines of the log that are shown.
const SHOWN_LINES: usize = 15;

/// A running daemon; ended when this is dropped.
pub(super) struct Cloudlet {
    child: Child,
    name: String,
    log: File,
    state_dir: PathBuf,
    listen: String,
    /// Where the demo's handheld keeps its key; gone with the demo.
    handheld: tempfile::TempDir,
}

impl Cloudlet {
    /// Starts the daemon and waits until it answers.
    pub(super) fn start(stage: &Stage) -> Result<Self, Error> {
        let program = beside("cloudlet")?;
        let failed = |source| Error::Start { program: program.clone(), source };
        let name = format!("demo-{}", std::process::id());
        // Without a name, gone with its last handle.
        let log = tempfile::tempfile().map_err(failed)?;
        let child = Command::new(&program)
            .args([
                "up",
                "--listen",
                "0.0.0.0:0",
                "--name",
                &name,
                "--set",
                "trust.pairing_listen=127.0.0.1:0",
            ])
            .args(["--set", "trust.insecure=false"])
            .arg("--state-dir")
            .arg(&stage.state_dir)
            .arg("--image-store")
            .arg(&stage.image_store)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let handheld = tempfile::tempdir().map_err(failed)?;
        let state_dir = stage.state_dir.clone();
        let mut cloudlet = Self { child, name, log, state_dir, listen: String::new(), handheld };
        let mut line = String::new();
        // The daemon prints one line when it answers; if it ends before, there is none.
        if let Some(stdout) = cloudlet.child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
        }
        if line.is_empty() {
            let _ = cloudlet.child.wait();
            return Err(Error::Failed { program, words: cloudlet.last_words() });
        }
        // "cloudlet 'NAME' answers at https://ADDRESS:PORT (node …)": the port is what was not known before.
        let port = line.split("://").nth(1).and_then(|rest| rest.split(' ').next()?.rsplit(':').next());
        cloudlet.listen = format!("127.0.0.1:{}", port.unwrap_or_default());
        Ok(cloudlet)
    }

    /// Has the cloudlet show a code, and a handheld enter it.
    pub(super) fn pair(&self) -> Result<(), Error> {
        let mut show = Command::new(beside("cloudlet")?);
        show.args(["mission", "pair", "--json", "--set", &format!("api.listen={}", self.listen)])
            .args(["--set", "trust.insecure=false"])
            .arg("--state-dir")
            .arg(&self.state_dir);
        let shown = output_of(show)?;
        let shown: Json = serde_json::from_slice(&shown)
            .map_err(|source| Error::Unexpected { program: "cloudlet mission pair".into(), source })?;
        let mut enter = Command::new(beside("handheld")?);
        enter.arg("pair").arg(shown["invitation"].as_str().unwrap_or_default());
        self.as_handheld(&mut enter);
        output_of(enter).map(drop)
    }

    /// Makes a command the demo's handheld's.
    pub(super) fn as_handheld(&self, command: &mut Command) {
        command.env("HANDHELD_STATE_DIR", self.handheld.path().join("trust")).env("HANDHELD_INSECURE", "0");
    }

    /// Its name, under which it is published.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) -> Result<(), Error> {
        let program = PathBuf::from("cloudlet up");
        self.terminate();
        let status = self.child.wait().map_err(|source| Error::Start { program: program.clone(), source })?;
        if status.success() { Ok(()) } else { Err(Error::Failed { program, words: self.last_words() }) }
    }

    fn terminate(&self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // An error means that it has ended already.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
    }

    fn last_words(&mut self) -> String {
        use std::io::{Seek, SeekFrom};
        let mut text = Vec::new();
        let length = self.log.metadata().map_or(0, |data| data.len());
        let _ = self.log.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)));
        let _ = (&self.log).take(LOG_BYTES).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

/// Runs a program to its end and gives what it printed.
fn output_of(mut command: Command) -> Result<Vec<u8>, Error> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(|source| Error::Start { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::Failed { program, words: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

impl Drop for Cloudlet {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}
