//! Running other programs: their messages are passed on while they run, and none outlives its caller.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::error::{self, Error};

/// Lines of a failed program that its error shows.
const SHOWN_LINES: usize = 20;
/// Longest line that is passed on, bytes; the rest of a longer one comes as further lines.
const MAX_LINE_BYTES: u64 = 4096;
/// Lines that may wait for the caller: enough for a burst, few enough that a caller that hangs stops the program.
const WAITING_LINES: usize = 64;
/// How often a running program is looked after.
const POLL: Duration = Duration::from_millis(50);
/// How often, until a program that was asked to end is killed: 3 s, in which scripts remove what they made.
const POLLS_TO_END: u32 = 60;

/// Stops a build from another thread.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A build that is not stopped yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the program that is running, and lets none be started any more.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A program to run.
pub(super) struct Command {
    tool: String,
    inner: std::process::Command,
}

impl Command {
    /// A program of the recipes, by path.
    pub(super) fn script(path: &Path) -> Self {
        Self::new(path.as_os_str(), path.file_name().unwrap_or(path.as_os_str()).display().to_string())
    }

    /// A program of the system, by name.
    pub(super) fn tool(name: &str) -> Self {
        Self::new(name.as_ref(), name.to_owned())
    }

    fn new(program: &OsStr, tool: String) -> Self {
        let mut inner = std::process::Command::new(program);
        inner.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        inner.env("PATH", search_path()).env("LC_ALL", "C.UTF-8");
        Self { tool, inner }
    }

    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    pub(super) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.inner.args(args);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    pub(super) fn current_dir(mut self, dir: &Path) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Runs the program to its end; `progress` gets every line that it writes to its standard error.
    ///
    /// Whatever happens, also if `progress` panics, no process of its group is left when this returns.
    pub(super) fn run(mut self, cancel: &Cancel, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled { tool: self.tool });
        }
        let child = self.inner.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::MissingTool { tool: self.tool.clone() },
            _ => error::file("start", Path::new(&self.tool))(source),
        })?;
        let mut group = Group::new(child);
        let lines = group.read_lines();
        let mut last = VecDeque::new();
        let status = loop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled { tool: self.tool });
            }
            match lines.recv_timeout(POLL) {
                Ok(line) => note(&mut last, line, progress),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL),
            }
            if let Some(status) = group.ended().map_err(error::file("wait for", Path::new(&self.tool)))? {
                break status;
            }
        };
        // Ends what the program left behind; with that the pipe ends, too, and the rest of the lines can be read.
        drop(group);
        lines.iter().for_each(|line| note(&mut last, line, progress));
        if status.success() {
            return Ok(());
        }
        let words = last.into_iter().collect::<Vec<_>>().join("\n");
        Err(Error::Failed { tool: self.tool, status, words })
    }
}

fn note(last: &mut VecDeque<String>, line: String, progress: &mut dyn FnMut(&str)) {
    progress(&line);
    if last.len() == SHOWN_LINES {
        last.pop_front();
    }
    last.push_back(line);
}

/// A child and everything that it started, as one process group. Dropping it ends them all.
struct Group {
    child: Child,
    id: Pid,
}

impl Group {
    fn new(child: Child) -> Self {
        let id = Pid::from_raw(child.id() as i32);
        Self { child, id }
    }

    /// Reads the child's standard error on a thread of its own; the thread ends with the pipe.
    fn read_lines(&mut self) -> Receiver<String> {
        let (sender, receiver) = sync_channel(WAITING_LINES);
        if let Some(pipe) = self.child.stderr.take() {
            std::thread::spawn(move || forward(pipe, &sender));
        }
        receiver
    }

    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

impl Group {
    /// Waits until all have ended, for at most `polls`.
    fn wait_for_all(&mut self, polls: u32) -> bool {
        (0..polls).any(|poll| {
            if poll > 0 {
                std::thread::sleep(POLL);
            }
            !matches!(self.child.try_wait(), Ok(None)) && !is_alive(self.id)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Errors mean that the group is gone, which is what is wanted.
        let _ = killpg(self.id, Signal::SIGTERM);
        if self.wait_for_all(POLLS_TO_END) {
            return;
        }
        let _ = killpg(self.id, Signal::SIGKILL);
        if !self.wait_for_all(POLLS_TO_END) {
            tracing::warn!(group = self.id.as_raw(), "processes of a build do not end, even killed");
        }
    }
}

/// Whether a process group has a member that is more than a zombie. Those whose parent has died are init's to reap,
/// and in containers init may take its time.
fn is_alive(group: Pid) -> bool {
    if killpg(group, None).is_err() {
        return false;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // After the name in parentheses, which may contain anything: state, parent, group.
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        let state = fields.next().unwrap_or_default();
        let its_group = fields.nth(1).and_then(|field| field.parse().ok());
        its_group == Some(group.as_raw()) && !["Z", "X"].contains(&state)
    })
}

fn forward(pipe: ChildStderr, lines: &SyncSender<String>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while let Ok(1..) = pipe.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
        let text =
            String::from_utf8_lossy(line.trim_ascii_end()).replace(|c: char| c.is_control() && c != '\t', "");
        if !text.is_empty() && lines.send(text).is_err() {
            return;
        }
        line.clear();
    }
}

/// The caller's search path and the directories of mke2fs and its like, which users often do not have in theirs.
fn search_path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    path.push(":/usr/sbin:/sbin");
    path
}

/// Fails before any work is done if one of the programs is missing.
pub(super) fn require(tools: &[&str]) -> Result<(), Error> {
    let path = search_path();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    match tools.iter().find(|tool| !dirs.iter().any(|dir| dir.join(tool).is_file())) {
        Some(tool) => Err(Error::MissingTool { tool: (*tool).to_owned() }),
        None => Ok(()),
    }
}

/// Whether a program failed because the host's disk is full, by its own words.
pub(super) fn ran_out_of_space(error: &Error) -> bool {
    matches!(error, Error::Failed { words, .. } if words.contains("No space left on device") || words.contains("Disk quota exceeded"))
}
