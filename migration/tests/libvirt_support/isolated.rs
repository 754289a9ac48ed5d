//! Every test with VMs runs in a child process with a directory of its own.
//!
//! A process can open one embedded libvirt only, so tests cannot share a process. And whatever becomes of the child, its
//! parent can say which VMs it left running, and end them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::processes;

/// The directory of the test; its presence makes a process the child.
const DIRECTORY: &str = "CLOUDLET_TEST_DIRECTORY";
/// What a further process of the same test is to do.
const ROLE: &str = "CLOUDLET_TEST_ROLE";
/// Written by a child that came to the end of its test.
const PASSED: &str = "passed";
/// libvirt's findings about QEMU, which take it 8 s; it checks itself whether they are still true.
const CAPABILITIES: &str = "cache/qemu/capabilities";

/// The directory of one test. Short, because libvirt makes sockets in it.
pub struct Root(PathBuf);

impl Root {
    /// A directory that somebody else made, and removes.
    pub fn at(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// A file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where the embedded libvirt is.
    pub fn libvirt(&self) -> PathBuf {
        self.0.join("hv")
    }

    /// Process ids of the QEMUs that run below this directory.
    pub fn qemus(&self) -> Vec<u32> {
        processes::naming(&self.0)
    }

    /// Lets the next test have what libvirt found out about QEMU.
    pub fn keep_capabilities(&self) {
        copy_files(&self.libvirt().join(CAPABILITIES), &kept_capabilities());
    }
}

/// Runs `body` in a child process. `test` is the full name of the calling test.
///
/// `role` is `None` in the first child; in further ones that [`again`] starts, it is what they are to do.
#[track_caller]
pub fn isolated(test: &str, body: fn(&Root, Option<&str>)) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let root = Root(directory.into());
        let role = std::env::var(ROLE).ok();
        body(&root, role.as_deref());
        fs::write(root.path(PASSED), "").unwrap();
        return;
    }
    let directory = tempfile::Builder::new().prefix("clt-").tempdir_in("/tmp").unwrap();
    let root = Root(directory.path().to_owned());
    copy_files(&kept_capabilities(), &root.libvirt().join(CAPABILITIES));
    let status = child(test, &root).status().unwrap();
    let left = root.qemus();
    processes::end(&left);
    assert!(status.success(), "{test} failed: {status}");
    assert!(root.path(PASSED).exists(), "no test is called '{test}'");
    assert!(left.is_empty(), "left running and ended now: QEMU {left:?}");
}

/// Starts one more process of the same test, with a role. It is killed when the answer is dropped.
pub fn again(test: &str, root: &Root, role: &str) -> Killed {
    Killed(child(test, root).env(ROLE, role).stdout(Stdio::null()).spawn().unwrap())
}

/// A process that is killed (with SIGKILL) at the latest when this is dropped.
pub struct Killed(Child);

impl Killed {
    pub fn kill(mut self) {
        self.end();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.end();
    }
}

fn child(test: &str, root: &Root) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, &root.0)
        .stdin(Stdio::null());
    if std::env::var_os("LIBVIRT_DEBUG").is_none() {
        // Errors only.
        command.env("LIBVIRT_DEBUG", "4");
    }
    command
}

fn kept_capabilities() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("libvirt-capabilities")
}

/// Copies the files of a directory that are not in the other one yet. Each appears at once, as tests run side by side.
fn copy_files(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    fs::create_dir_all(to).unwrap();
    for entry in entries {
        let entry = entry.unwrap();
        let name: OsString = entry.file_name();
        let target = to.join(&name);
        if is_newer(&entry.path(), &target) {
            let part = to.join(format!(".{}-{}", name.display(), std::process::id()));
            fs::copy(entry.path(), &part).unwrap();
            fs::rename(part, target).unwrap();
        }
    }
}

fn is_newer(this: &Path, that: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    time(this) > time(that)
}
