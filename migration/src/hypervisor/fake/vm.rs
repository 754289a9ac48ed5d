//! One VM: its files, clock, disks and ports.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use vm_images::Hardware;

use super::files::{self, Memory};
use super::guest::{Agent, Death, Guest};
use super::port::{Line, Port};
use super::ram::Ram;
use super::refuse;
use crate::VmId;
use crate::hypervisor::{BootSpec, CloneSpec, Disk, Error, GuestOutput, Running};

/// Reading this file gives something else each time, as a guest's kernel does.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";
/// Where a guest finds its disks.
const DISKS: &str = "/dev/disk/by-id/virtio-";
/// Longest serial of a virtio disk, bytes.
const MAX_SERIAL_BYTES: usize = 20;

/// A running VM. Dropped, its ports close.
pub(super) struct Vm {
    id: VmId,
    hardware: Hardware,
    disk: PathBuf,
    guest: Guest,
    line: Arc<Line>,
    ports: Vec<Port>,
    files: BTreeMap<String, Vec<u8>>,
    plugged: BTreeMap<String, PathBuf>,
    /// What the guest's clock said at `clock_set`.
    clock: Duration,
    clock_set: Instant,
    /// Calls that the agent left unanswered.
    unanswered: u32,
    random_draws: u64,
    /// Disks that the image expects and that nobody has plugged in.
    missing_disks: Vec<String>,
    pub ram: Ram,
}

impl Vm {
    pub fn booted(spec: &BootSpec, guest: Guest) -> Self {
        let memory = Memory { clock_unix_ms: host_unix_ms(), ..Memory::default() };
        let ram = Ram::new(None, BTreeMap::new());
        Self::new(spec.vm, &spec.hardware, &spec.disk, memory, ram, guest)
    }

    pub fn woken(spec: &CloneSpec, memory: Memory, pages: files::Pages, guest: Guest) -> Self {
        let ram = Ram::new(Some(&spec.template), pages);
        Self::new(spec.vm, &spec.hardware, &spec.disk, memory, ram, guest)
    }

    fn new(id: VmId, hardware: &Hardware, disk: &Path, memory: Memory, ram: Ram, guest: Guest) -> Self {
        Self {
            id,
            hardware: hardware.clone(),
            disk: disk.to_owned(),
            line: Arc::new(Line::new(guest.service.clone())),
            guest,
            ports: Vec::new(),
            files: memory.files,
            plugged: BTreeMap::new(),
            clock: Duration::from_millis(memory.clock_unix_ms),
            clock_set: now(),
            unanswered: 0,
            random_draws: 0,
            missing_disks: memory.disks,
            ram,
        }
    }

    /// Whether QEMU could start it beside `others`.
    pub fn check_start<'a>(&self, mut others: impl Iterator<Item = &'a Self>) -> Result<(), Error> {
        let doing = "cannot start QEMU";
        if let Some(serial) = self.missing_disks.first() {
            return refuse(
                doing,
                format!("Failed to load: disk '{serial}' was plugged in when it was suspended"),
            );
        }
        if others.any(|other| other.disk == self.disk) {
            return refuse(doing, format!("Failed to get \"write\" lock on {}", self.disk.display()));
        }
        Ok(())
    }

    pub fn behave(&mut self, guest: Guest) {
        self.line.set_service(guest.service.clone());
        self.unanswered = 0;
        self.guest = guest;
    }

    pub fn death(&self) -> Death {
        self.guest.death
    }

    /// Lets the guest execute or stand still; a stream that is under way ends.
    pub fn set_executing(&mut self, executing: bool) {
        self.ram.end_stream();
        self.ram.executing = executing;
        self.line.set_paused(!executing);
    }

    pub fn disk(&self) -> PathBuf {
        self.disk.clone()
    }

    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    pub fn running(&self, vm: VmId) -> Running {
        Running {
            vm,
            executing: self.ram.executing,
            forwards: self.ports.iter().map(Port::forward).collect(),
            process_id: None,
        }
    }

    pub fn memory(&self) -> Memory {
        Memory {
            clock_unix_ms: u64::try_from(self.time().as_millis()).unwrap_or(u64::MAX),
            files: self.files.clone(),
            disks: self.plugged.keys().cloned().collect(),
        }
    }

    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.files.get(path).cloned()
    }

    pub fn forward(&mut self, bind: IpAddr, port: u16, guest_port: u16) -> Result<SocketAddr, Error> {
        match Port::open(bind, port, guest_port, &self.line) {
            Ok(port) => {
                let (address, _) = port.forward();
                self.ports.push(port);
                Ok(address)
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(Error::PortTaken(SocketAddr::new(bind, port)))
            }
            Err(error) => refuse("cannot forward a port", error.to_string()),
        }
    }

    pub fn ping(&mut self, vm: VmId, limit: Duration) -> Result<(), Error> {
        self.reach_agent(vm, "guest-ping", limit)
    }

    pub fn exec(
        &mut self,
        vm: VmId,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<GuestOutput, Error> {
        self.reach_agent(vm, "guest-exec", limit)?;
        if let Some(output) = self.guest.programs.run(program, arguments) {
            return Ok(output);
        }
        match program {
            "/bin/echo" => Ok(output(0, format!("{}\n", arguments.join(" ")))),
            "/bin/date" => Ok(output(0, format!("{}\n", self.time().as_secs()))),
            "/bin/cat" => self.cat(arguments),
            "/bin/sync" | "/bin/true" => Ok(output(0, "")),
            "/bin/false" => Ok(output(1, "")),
            "/bin/sleep" if seconds(arguments) > limit.as_secs_f64() => {
                Err(Error::AgentSilent { vm, command: format!("guest-exec {program}"), limit })
            }
            "/bin/sleep" => Ok(output(0, "")),
            _ => {
                let message =
                    format!("Failed to execute child process “{program}” (No such file or directory)");
                Err(Error::AgentRefused { vm, command: "guest-exec".to_owned(), message })
            }
        }
    }

    pub fn write_file(&mut self, vm: VmId, path: &str, bytes: &[u8]) -> Result<(), Error> {
        self.reach_agent(vm, "guest-file-open", Duration::ZERO)?;
        self.files.insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }

    pub fn set_time(&mut self, vm: VmId, since_epoch: Duration) -> Result<(), Error> {
        self.reach_agent(vm, "guest-set-time", Duration::ZERO)?;
        (self.clock, self.clock_set) = (since_epoch, now());
        Ok(())
    }

    pub fn attach(&mut self, disk: &Disk) -> Result<(), Error> {
        let doing = "cannot plug the disk in";
        files::must_be_readable(&[&disk.file])?;
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let length = disk.serial.len();
        if length == 0 || length > MAX_SERIAL_BYTES || !disk.serial.bytes().all(is_plain) {
            return refuse(doing, format!("'{}' is no serial (1 to 20 of a-z, 0-9, '-')", disk.serial));
        }
        if self.plugged.contains_key(&disk.serial) {
            return refuse(doing, format!("a disk with serial '{}' is plugged in already", disk.serial));
        }
        self.plugged.insert(disk.serial.clone(), disk.file.clone());
        Ok(())
    }

    pub fn detach(&mut self, serial: &str) -> Result<(), Error> {
        match self.plugged.remove(serial) {
            Some(_) => Ok(()),
            None => refuse("cannot unplug the disk", format!("no disk with serial '{serial}' is plugged in")),
        }
    }

    fn reach_agent(&mut self, vm: VmId, command: &str, limit: Duration) -> Result<(), Error> {
        let answers = match self.guest.agent {
            _ if !self.ram.executing => false,
            Agent::Answers => true,
            Agent::AnswersAfter(calls) => self.unanswered >= calls,
            Agent::Silent => false,
        };
        if answers {
            return Ok(());
        }
        self.unanswered = self.unanswered.saturating_add(1);
        Err(Error::AgentSilent { vm, command: command.to_owned(), limit })
    }

    fn cat(&mut self, paths: &[&str]) -> Result<GuestOutput, Error> {
        let mut all = output(0, "");
        for path in paths {
            match self.read(path)? {
                Some(mut bytes) => all.stdout.append(&mut bytes),
                None => {
                    all.exit_code = 1;
                    all.stderr.extend(format!("cat: {path}: No such file or directory\n").into_bytes());
                }
            }
        }
        Ok(all)
    }

    fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        if path == RANDOM {
            self.random_draws += 1;
            // A clone has its own generation id, so it draws other numbers than its siblings.
            let digest = blake3::hash(format!("{} {}", self.id, self.random_draws).as_bytes());
            return Ok(Some(format!("{}\n", digest.to_hex()).into_bytes()));
        }
        match path.strip_prefix(DISKS).and_then(|serial| self.plugged.get(serial)) {
            Some(disk) => match std::fs::read(disk) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(source) => Err(files::cannot("cannot read", disk, source)),
            },
            None => Ok(self.files.get(path).cloned()),
        }
    }

    /// What the guest's clock says.
    fn time(&self) -> Duration {
        self.clock + now().duration_since(self.clock_set)
    }
}

fn output(exit_code: i32, stdout: impl Into<Vec<u8>>) -> GuestOutput {
    GuestOutput { exit_code, stdout: stdout.into(), stderr: Vec::new() }
}

fn seconds(arguments: &[&str]) -> f64 {
    arguments.first().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0)
}

#[expect(clippy::disallowed_methods, reason = "a guest's clock runs")]
fn now() -> Instant {
    Instant::now()
}

/// A guest that boots takes its clock from the host.
#[expect(clippy::disallowed_methods, reason = "a guest that boots reads the host's clock")]
fn host_unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
