//! The demo's cloudlet: the real daemon, in a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
            .args(["up", "--listen", "0.0.0.0:0", "--name", &name])
            .arg("--state-dir")
            .arg(&stage.state_dir)
            .arg("--image-store")
            .arg(&stage.image_store)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let mut cloudlet = Self { child, name, log };
        let mut line = String::new();
        // The daemon prints one line when it answers; if it ends before, there is none.
        if let Some(stdout) = cloudlet.child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
        }
        if line.is_empty() {
            let _ = cloudlet.child.wait();
            return Err(Error::Failed { program, words: cloudlet.last_words() });
        }
        Ok(cloudlet)
    }

    /// Its name, under which it is published.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) -> Result<(), Error> {
        let program = std::path::PathBuf::from("cloudlet up");
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

impl Drop for Cloudlet {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}
