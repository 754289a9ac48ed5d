//! The directory of one test, and the built program in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

use super::{Images, capabilities, processes};

/// A directory with a state directory and an image store. Short, because libvirt makes sockets in it. Whatever runs below
/// it is ended with it.
pub struct Site {
    dir: tempfile::TempDir,
    state: PathBuf,
    pub images: Images,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("clt-").tempdir_in("/tmp").unwrap();
        let images = Images::linked(&dir.path().join("images"));
        let site = Self { state: dir.path().join("s"), images, dir };
        capabilities::provide(&site.libvirt());
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    pub fn libvirt(&self) -> PathBuf {
        self.state.join("hv")
    }

    /// Process ids of the QEMUs that run below this directory.
    pub fn qemus(&self) -> Vec<u32> {
        processes::naming(self.dir.path())
    }

    /// Names of the directories of instances, in order.
    pub fn instance_dirs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state.join("instances")).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// VMs that libvirt has notes about.
    pub fn noted_vms(&self) -> usize {
        let entries = fs::read_dir(self.libvirt().join("run/qemu")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("cvm-") && name.ends_with(".xml")).count()
    }

    /// The program with these arguments and nothing of this machine's configuration, ready to run.
    pub fn command(&self, program: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CLOUDLET_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("CLOUDLET_NODE__STATE_DIR", &self.state)
            .env("CLOUDLET_NODE__IMAGE_STORE", self.images.root())
            .env("CLOUDLET_HYPERVISOR__ACCELERATOR", self.images.accelerator().to_string())
            .env("CLOUDLET_TRUST__INSECURE", "true")
            .env("HANDHELD_INSECURE", "1")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs `cloudlet` to its end.
    pub fn cloudlet(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(&[CLOUDLET], arguments).output().unwrap())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        processes::end(&self.qemus());
    }
}

/// The built program.
pub const CLOUDLET: &str = env!("CARGO_BIN_EXE_cloudlet");

/// What a program left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It must have failed with exit code 1; gives what it said.
    #[track_caller]
    pub fn failed(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:?}");
        &self.stderr
    }

    #[track_caller]
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
