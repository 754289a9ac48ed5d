//! The contract of [`Hypervisor`] as tests that every implementation has to pass.
//!
//! The guest of the real one is a Debian with `qemu-guest-agent`; what the suite runs in it are `/bin/cat`, `/bin/date`,
//! `/bin/echo`, `/bin/sleep` and `/bin/sync`. The parts, in the order in which they can run:
//!
//! 1. [`unknown`]: nothing runs; a second or so.
//! 2. [`boot`]: a cold boot (20 s for the real one under TCG), everything that can be done with a running VM, and
//!    its suspension; gives the [`Image`] that the other parts need.
//! 3. [`refusals`]: what cannot wake up is refused and leaves nothing.
//! 4. [`clones`]: two clones side by side, what they share and what not.
//! 5. [`adoption`]: a second handle finds what the first one has started.
//! 6. [`moving`]: a VM streams out, stands still, goes on, and wakes up paused elsewhere with all that it had.
//!
//! A part panics where the contract is broken, and stops the VMs that it started either way. It touches no other VM.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use uuid::Uuid;
use vm_images::Hardware;
use vm_images::manifest::Accelerator;

use super::{
    BootSpec, CloneSpec, Disk, Error, GuestOutput, Hypervisor, Incompatible, MEMORY_BLOCK, Moving, Running,
    SuspendFiles, Suspended,
};
use crate::VmId;
use crate::reduce::{Arrived, Config, Frame, Images, KnownPart, Sink, Source};

/// How long a guest that runs may take to answer; generous, as test machines are slow and busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How much later than it was set a guest's clock may be read.
const CLOCK_LIMIT_S: u64 = 120;
const POLL_EVERY: Duration = Duration::from_millis(50);
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A time that no guest wakes up in: 2033-05-18.
const SOME_TIME: Duration = Duration::from_secs(2_000_000_000);
/// Written before the suspension, so that every clone has it.
const BEFORE: &str = "/root/suite-before";
/// Written by one clone, so that the other must not have it.
const OWN: &str = "/root/suite-own";

/// What an implementation is tested with.
pub struct Fixture<'a> {
    /// An empty directory for all files of the suite.
    pub directory: PathBuf,
    /// Hardware that this host can run.
    pub hardware: Hardware,
    /// Guest kernel.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: PathBuf,
    /// Makes a writable disk at the second path: layered on the disk at the first, or on a bootable base disk.
    pub make_disk: Box<MakeDisk<'a>>,
    /// How long the guest may take from its boot until its agent answers.
    pub boot_limit: Duration,
}

/// See [`Fixture::make_disk`].
pub type MakeDisk<'a> = dyn Fn(Option<&Path>, &Path) -> io::Result<()> + Sync + 'a;

/// A guest that [`boot`] has suspended.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its disk, on which clones are layered.
    pub disk: PathBuf,
    /// Its template and device stream.
    pub files: SuspendFiles,
    /// What the suspension reported.
    pub suspended: Suspended,
    /// Its hardware.
    pub hardware: Hardware,
}

/// All parts. `again` opens a second handle on what `hypervisor` sees.
pub fn run(hypervisor: &dyn Moving, fixture: &Fixture<'_>, again: &dyn Fn() -> Box<dyn Hypervisor>) {
    unknown(hypervisor);
    let image = boot(hypervisor, fixture);
    refusals(hypervisor, fixture, &image);
    clones(hypervisor, fixture, &image);
    adoption(hypervisor, fixture, &image, again);
    moving(hypervisor, fixture, &image);
}

/// A VM that is not there: every method says so, except `stop`, which has nothing to do.
pub fn unknown(hypervisor: &dyn Hypervisor) {
    let vm = new_id();
    assert!(!hypervisor.host().must("host").machines.is_empty(), "the host runs no machine type");
    hypervisor.stop(vm).must("stop of a VM that is not there");
    hypervisor.stop(vm).must("stop of a VM that is not there, again");
    assert_not_listed(hypervisor, vm);
    let nowhere = SuspendFiles { template: "/nonexistent/t".into(), device_stream: "/nonexistent/d".into() };
    let second = Duration::from_secs(1);
    assert_unknown(vm, "adopt", hypervisor.adopt(vm));
    assert_unknown(vm, "suspend", hypervisor.suspend(vm, &nowhere));
    assert_unknown(vm, "forward_port", hypervisor.forward_port(vm, LOCALHOST, 0, 80));
    assert_unknown(vm, "agent_ping", hypervisor.agent_ping(vm, second));
    assert_unknown(vm, "agent_exec", hypervisor.agent_exec(vm, "/bin/echo", &[], second));
    assert_unknown(vm, "agent_write_file", hypervisor.agent_write_file(vm, OWN, b""));
    assert_unknown(vm, "agent_set_time", hypervisor.agent_set_time(vm, SOME_TIME));
    assert_unknown(vm, "detach_disk", hypervisor.detach_disk(vm, "suite"));
}

/// Boots a guest, does everything with it that can be done with a running one, and suspends it.
pub fn boot(hypervisor: &dyn Hypervisor, fixture: &Fixture<'_>) -> Image {
    let vm = new_id();
    let _ends = Ends { hypervisor, vm };
    let disk = fixture.path("base.disk");
    (fixture.make_disk)(None, &disk).must("make a disk");
    let spec = BootSpec {
        vm,
        hardware: fixture.hardware.clone(),
        disk: disk.clone(),
        kernel: fixture.kernel.clone(),
        initrd: fixture.initrd.clone(),
        console: fixture.path("base.console"),
    };
    let without_disk = BootSpec { disk: fixture.path("missing"), ..spec.clone() };
    let refused = hypervisor.boot(&without_disk);
    assert!(matches!(refused, Err(Error::File { .. })), "boot without its disk: {refused:?}");
    assert_not_listed(hypervisor, vm);

    hypervisor.boot(&spec).must("boot");
    assert!(listed(hypervisor, vm).is_some_and(|running| running.executing), "a booted VM does not execute");
    assert!(hypervisor.boot(&spec).is_err(), "a second VM with the same id was booted");
    hypervisor.agent_ping(vm, fixture.boot_limit).must("the agent's first answer");
    let again = Guest { hypervisor, vm };
    again.programs();
    again.files();
    again.clock();
    again.ports();
    again.disks(&fixture.path("plugged.disk"));

    hypervisor.agent_write_file(vm, BEFORE, b"before").must("write a file");
    again.run("/bin/sync", &[]);
    hypervisor.agent_write_file(vm, "/proc/sys/vm/drop_caches", b"3").must("drop caches");
    let files = SuspendFiles {
        template: fixture.path("memory.template"),
        device_stream: fixture.path("device.stream"),
    };
    let suspended = hypervisor.suspend(vm, &files).must("suspend");
    assert_not_listed(hypervisor, vm);
    assert_unknown(vm, "agent_ping after suspend", hypervisor.agent_ping(vm, Duration::from_secs(1)));
    hypervisor.stop(vm).must("stop of a suspended VM");

    assert_eq!(suspended.template_bytes, fixture.hardware.memory_bytes, "length of the template");
    assert_eq!(suspended.template_bytes, length_of(&files.template), "stated length of the template");
    assert_eq!(suspended.device_stream_bytes, length_of(&files.device_stream), "stated length of the stream");
    assert!(suspended.template_used_bytes > 0 && suspended.device_stream_bytes > 0, "{suspended:?}");
    assert!(suspended.template_used_bytes <= suspended.template_bytes, "{suspended:?}");
    Image { disk, files, suspended, hardware: fixture.hardware.clone() }
}

/// An image that cannot wake up here is refused with the reason, and nothing of it is left running.
pub fn refusals(hypervisor: &dyn Hypervisor, fixture: &Fixture<'_>, image: &Image) {
    let spec = fixture.clone_spec(image, "refused");
    let _ends = Ends { hypervisor, vm: spec.vm };
    let with = |change: &dyn Fn(&mut Hardware)| {
        let mut spec = spec.clone();
        change(&mut spec.hardware);
        let refused = hypervisor.clone_from(&spec);
        assert_not_listed(hypervisor, spec.vm);
        match refused {
            Err(Error::Incompatible(why)) => why,
            other => panic!("incompatible hardware: {other:?}"),
        }
    };
    let machine = with(&|hardware| hardware.machine = "pc-q35-99.0".to_owned());
    assert!(matches!(machine, Incompatible::Machine { .. }), "{machine}");
    let cpu = with(&|hardware| hardware.cpu_model = "Abacus".to_owned());
    assert!(matches!(cpu, Incompatible::Cpu(_)), "{cpu}");
    let accelerator = with(&|hardware| {
        hardware.accelerator = match hardware.accelerator {
            Accelerator::Kvm => Accelerator::Tcg,
            Accelerator::Tcg => Accelerator::Kvm,
        }
    });
    assert!(matches!(accelerator, Incompatible::Accelerator { .. }), "{accelerator}");
    let topology = with(&|hardware| hardware.topology += 1);
    assert!(matches!(topology, Incompatible::Topology { .. }), "{topology}");

    let missing = fixture.path("missing");
    for incomplete in [
        CloneSpec { template: missing.clone(), ..spec.clone() },
        CloneSpec { device_stream: missing.clone(), ..spec.clone() },
        CloneSpec { disk: missing.clone(), ..spec.clone() },
    ] {
        let refused = hypervisor.clone_from(&incomplete);
        assert!(matches!(&refused, Err(Error::File { path, .. }) if *path == missing), "{refused:?}");
        assert_not_listed(hypervisor, spec.vm);
    }
}

/// Two clones, started side by side: they share what was before, and nothing after; the image stays as it is.
pub fn clones(hypervisor: &dyn Hypervisor, fixture: &Fixture<'_>, image: &Image) {
    let before = image.digests();
    let (first, second) = (fixture.clone_spec(image, "first"), fixture.clone_spec(image, "second"));
    let _ends = [&first, &second].map(|spec| Ends { hypervisor, vm: spec.vm });
    thread::scope(|scope| {
        for spec in [&first, &second] {
            scope.spawn(move || hypervisor.clone_from(spec).must("clone"));
        }
    });
    let (one, other) = (Guest { hypervisor, vm: first.vm }, Guest { hypervisor, vm: second.vm });
    for (clone, spec) in [(one, &first), (other, &second)] {
        assert!(listed(hypervisor, clone.vm).is_some_and(|running| running.executing), "{} waits", clone.vm);
        hypervisor.agent_ping(clone.vm, ANSWER_LIMIT).must("the agent's answer in a clone");
        assert!(spec.console.exists(), "a clone without a console file");
        assert_eq!(clone.run("/bin/cat", &[BEFORE]).stdout, b"before", "a file from before the suspension");
        clone.clock();
        clone.ports();
    }
    let draw = |clone: &Guest<'_>| clone.run("/bin/cat", &["/proc/sys/kernel/random/uuid"]).stdout;
    let draws: BTreeSet<_> = [draw(&one), draw(&other), draw(&one), draw(&other)].into();
    assert_eq!(draws.len(), 4, "clones draw the same random numbers");

    hypervisor.agent_write_file(one.vm, OWN, b"own").must("write a file in a clone");
    one.run("/bin/sync", &[]);
    assert_eq!(one.run("/bin/cat", &[OWN]).stdout, b"own");
    assert_ne!(other.exec("/bin/cat", &[OWN]).exit_code, 0, "a clone has a file of the other");
    other.disks(&fixture.path("plugged-into-clone.disk"));

    hypervisor.stop(one.vm).must("stop");
    hypervisor.stop(one.vm).must("stop again");
    assert_not_listed(hypervisor, one.vm);
    assert_unknown(one.vm, "agent_ping after stop", hypervisor.agent_ping(one.vm, Duration::from_secs(1)));
    assert_unknown(one.vm, "adopt after stop", hypervisor.adopt(one.vm));
    assert_eq!(other.run("/bin/echo", &["still here"]).stdout, b"still here\n", "the other clone runs on");
    hypervisor.stop(other.vm).must("stop");
    assert_eq!(image.digests(), before, "clones have changed the image");
}

/// A VM moves: what it wrote after it was cloned is there where it wakes up, and a move that comes to nothing leaves it
/// running.
pub fn moving(hypervisor: &dyn Moving, fixture: &Fixture<'_>, image: &Image) {
    let source = fixture.clone_spec(image, "leaving");
    let _ends = Ends { hypervisor, vm: source.vm };
    hypervisor.clone_from(&source).must("clone");
    hypervisor.agent_ping(source.vm, ANSWER_LIMIT).must("the agent's answer");
    let guest = Guest { hypervisor, vm: source.vm };
    hypervisor.agent_write_file(source.vm, OWN, b"own").must("write a file");
    let executes = |vm| listed(hypervisor, vm).is_some_and(|running| running.executing);

    let mut live = hypervisor.stream_out(source.vm).must("stream out");
    let mut magic = [0; 4];
    live.read_exact(&mut magic).must("the beginning of a stream");
    assert_eq!(&magic, b"QEVM");
    assert!(executes(source.vm), "a VM that streams stands still");
    drop(live);
    assert_eq!(guest.run("/bin/cat", &[OWN]).stdout, b"own", "it works on when the stream is dropped");
    hypervisor.freeze(source.vm).must("freeze");
    assert!(!executes(source.vm), "a frozen VM executes");
    hypervisor.resume(source.vm).must("resume");
    assert!(executes(source.vm), "a resumed VM stands still");
    assert_eq!(guest.run("/bin/cat", &[OWN]).stdout, b"own", "it works on after it was frozen");
    guest.run("/bin/sync", &[]);

    hypervisor.freeze(source.vm).must("freeze again");
    let mut stream = Vec::new();
    hypervisor
        .stream_out(source.vm)
        .must("stream a frozen VM out")
        .read_to_end(&mut stream)
        .must("read to the end");
    assert!(!executes(source.vm), "a VM that streamed out to the end executes");
    let target = fixture.clone_spec(image, "arriving");
    let _ends_too = Ends { hypervisor, vm: target.vm };
    fs::copy(&source.disk, &target.disk).must("copy the disk");
    let target = CloneSpec { device_stream: fixture.path("arriving.stream"), ..target };
    rebuild(image, &stream, &target.device_stream);
    hypervisor.clone_paused(&target).must("wake up paused");
    assert!(!executes(target.vm), "it executes before it may");
    hypervisor.resume(target.vm).must("let it run");
    assert!(executes(target.vm), "it stands still");
    hypervisor.agent_ping(target.vm, ANSWER_LIMIT).must("the agent's answer where it woke up");
    let moved = Guest { hypervisor, vm: target.vm };
    assert_eq!(moved.run("/bin/cat", &[OWN]).stdout, b"own", "what it wrote has not come along");
    hypervisor.stop(target.vm).must("stop");
    hypervisor.stop(source.vm).must("stop a frozen VM");
}

/// The stream that wakes up on the template what the whole stream says.
fn rebuild(image: &Image, stream: &[u8], to: &Path) {
    let (template, device) = (&image.files.template, &image.files.device_stream);
    let part = |path: &PathBuf| {
        let digest = vm_images::Digest::of(&fs::read(path).must("read the image"));
        KnownPart { digest, path: path.clone(), index: None }
    };
    let parts = [part(template), part(device)];
    let images = Images::open(&parts).must("open the image");
    let mut sink =
        Sink::new(&images, Arrived::open(&to.with_extension("pages"), 1 << 20).must("open a file"))
            .must("make a sink");
    let mut outlet = |frame: Frame| sink.take(frame).map_err(io::Error::other);
    Source::new(&images, &[], Config::default())
        .must("make a source")
        .memory(stream, MEMORY_BLOCK, Some(&parts[0].digest), Some(&parts[1].digest), &mut outlet)
        .must("reduce");
    sink.restore_memory(MEMORY_BLOCK, &mut File::create(to).must("create a file")).must("restore");
}

/// A second handle, as of a process that was started again, finds a VM and its ports and can use it.
pub fn adoption(
    hypervisor: &dyn Hypervisor,
    fixture: &Fixture<'_>,
    image: &Image,
    again: &dyn Fn() -> Box<dyn Hypervisor>,
) {
    let spec = fixture.clone_spec(image, "adopted");
    let vm = spec.vm;
    let _ends = Ends { hypervisor, vm };
    hypervisor.clone_from(&spec).must("clone");
    hypervisor.agent_ping(vm, ANSWER_LIMIT).must("the agent's answer");
    let address = hypervisor.forward_port(vm, LOCALHOST, 0, 80).must("forward a port");

    let second = again();
    let found = listed(&*second, vm).unwrap_or_else(|| panic!("the second handle does not list {vm}"));
    let adopted = second.adopt(vm).must("adopt");
    assert_eq!(found, adopted, "listed and adopted differ");
    assert!(adopted.executing && adopted.forwards.contains(&(address, 80)), "{adopted:?}");
    let guest = Guest { hypervisor: &*second, vm };
    second.agent_ping(vm, ANSWER_LIMIT).must("the agent's answer to the second handle");
    assert_eq!(guest.run("/bin/cat", &[BEFORE]).stdout, b"before");
    guest.ports();
    second.stop(vm).must("stop by the second handle");
    assert_not_listed(hypervisor, vm);
}

impl Fixture<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A clone of an image with a new id and a new disk.
    fn clone_spec(&self, image: &Image, name: &str) -> CloneSpec {
        let disk = self.path(&format!("{name}.disk"));
        (self.make_disk)(Some(&image.disk), &disk).must("make an overlay");
        CloneSpec {
            vm: new_id(),
            hardware: image.hardware.clone(),
            disk,
            template: image.files.template.clone(),
            device_stream: image.files.device_stream.clone(),
            console: self.path(&format!("{name}.console")),
        }
    }
}

impl Image {
    fn digests(&self) -> [blake3::Hash; 3] {
        [&self.disk, &self.files.template, &self.files.device_stream].map(|path| {
            let mut hasher = blake3::Hasher::new();
            hasher
                .update_reader(File::open(path).must("open a file of the image"))
                .must("read a file of the image");
            hasher.finalize()
        })
    }
}

/// A VM whose agent answers.
#[derive(Clone, Copy)]
struct Guest<'a> {
    hypervisor: &'a dyn Hypervisor,
    vm: VmId,
}

impl Guest<'_> {
    fn exec(&self, program: &str, arguments: &[&str]) -> GuestOutput {
        self.hypervisor.agent_exec(self.vm, program, arguments, ANSWER_LIMIT).must("run a program")
    }

    /// Runs a program that must succeed.
    fn run(&self, program: &str, arguments: &[&str]) -> GuestOutput {
        let output = self.exec(program, arguments);
        assert_eq!(
            output.exit_code,
            0,
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    fn programs(&self) {
        let arguments = ["two  spaces", "\"quotes\" $HOME", "ä"];
        let said = self.run("/bin/echo", &arguments);
        assert_eq!(String::from_utf8_lossy(&said.stdout), "two  spaces \"quotes\" $HOME ä\n");
        assert!(said.stderr.is_empty(), "{said:?}");
        let failed = self.exec("/bin/cat", &["/nonexistent"]);
        assert_eq!(failed.exit_code, 1, "{failed:?}");
        assert!(failed.stdout.is_empty() && !failed.stderr.is_empty(), "{failed:?}");
        let missing = self.hypervisor.agent_exec(self.vm, "/nonexistent", &[], ANSWER_LIMIT);
        assert!(
            matches!(missing, Err(Error::AgentRefused { .. })),
            "a program that is not there: {missing:?}"
        );
        let slow = self.hypervisor.agent_exec(self.vm, "/bin/sleep", &["5"], Duration::from_millis(300));
        assert!(matches!(slow, Err(Error::AgentSilent { .. })), "a program that takes too long: {slow:?}");
        self.hypervisor.agent_ping(self.vm, ANSWER_LIMIT).must("the agent's answer after a slow program");
    }

    fn files(&self) {
        let path = "/root/suite-file";
        let long: Vec<u8> = (0..=255).cycle().take(1_200_001).collect();
        for bytes in [&long[..], b"shorter", b""] {
            self.hypervisor.agent_write_file(self.vm, path, bytes).must("write a file");
            let read = self.run("/bin/cat", &[path]).stdout;
            assert!(read == bytes, "{} bytes were written and {} others read", bytes.len(), read.len());
        }
    }

    fn clock(&self) {
        self.hypervisor.agent_set_time(self.vm, SOME_TIME).must("set the clock");
        let text = String::from_utf8_lossy(&self.run("/bin/date", &["+%s"]).stdout).trim().to_owned();
        let seconds: u64 = text.parse().must("read the clock");
        let wanted = SOME_TIME.as_secs();
        assert!(
            (wanted..wanted + CLOCK_LIMIT_S).contains(&seconds),
            "set to {wanted}, and it says {seconds}"
        );
    }

    fn ports(&self) {
        let forward = |port, guest_port| self.hypervisor.forward_port(self.vm, LOCALHOST, port, guest_port);
        let one = forward(0, 80).must("forward a port");
        let other = forward(0, 81).must("forward another port");
        assert!(
            one.ip() == LOCALHOST && one.port() != 0 && other.port() != 0 && one != other,
            "{one} {other}"
        );
        TcpStream::connect(one).must("connect to a forwarded port");
        let forwards = listed(self.hypervisor, self.vm).map(|running| running.forwards).unwrap_or_default();
        assert!(forwards.contains(&(one, 80)) && forwards.contains(&(other, 81)), "{forwards:?}");

        let taken = TcpListener::bind((LOCALHOST, 0)).and_then(|taken| Ok((taken.local_addr()?, taken)));
        let (address, taken) = taken.must("take a port");
        for address in [address, one] {
            let refused = forward(address.port(), 82);
            assert!(matches!(refused, Err(Error::PortTaken(named)) if named == address), "{refused:?}");
        }
        drop(taken);
        assert_eq!(forward(address.port(), 82).must("forward a port that has become free"), address);
    }

    fn disks(&self, file: &Path) {
        let content: Vec<u8> = (0..=250).cycle().take(64 * 1024).collect();
        fs::write(file, &content).must("write a disk");
        let disk = Disk { file: file.to_owned(), serial: "suite-disk-1".to_owned(), writable: false };
        let device = "/dev/disk/by-id/virtio-suite-disk-1";
        let missing = Disk { file: file.with_extension("missing"), ..disk.clone() };
        let refused = self.hypervisor.attach_disk(self.vm, &missing);
        assert!(matches!(refused, Err(Error::File { .. })), "a disk that is not there: {refused:?}");
        // Twice, as what the first left behind would be in the way of the second.
        for _ in 0..2 {
            self.hypervisor.attach_disk(self.vm, &disk).must("plug a disk in");
            wait_until("the guest sees its disk", || self.exec("/bin/cat", &[device]).stdout == content);
            self.hypervisor.detach_disk(self.vm, &disk.serial).must("unplug a disk");
            wait_until("the guest has lost its disk", || self.exec("/bin/cat", &[device]).exit_code != 0);
        }
        let unplugged = self.hypervisor.detach_disk(self.vm, &disk.serial);
        assert!(
            matches!(unplugged, Err(Error::Hypervisor { .. })),
            "a disk that is not plugged in: {unplugged:?}"
        );
    }
}

/// Stops a VM at the end of a part, also when the part fails.
struct Ends<'a> {
    hypervisor: &'a dyn Hypervisor,
    vm: VmId,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.hypervisor.stop(self.vm) {
            tracing::error!(vm = %self.vm, %error, "a VM of the suite is left running");
        }
    }
}

/// `expect` for what the suite itself needs; says the cause, too.
trait Must<T> {
    fn must(self, what: &str) -> T;
}

impl<T, E: Debug> Must<T> for Result<T, E> {
    #[track_caller]
    fn must(self, what: &str) -> T {
        match self {
            Ok(value) => value,
            Err(error) => panic!("{what}: {error:?}"),
        }
    }
}

fn new_id() -> VmId {
    VmId(Uuid::new_v4())
}

fn listed(hypervisor: &dyn Hypervisor, vm: VmId) -> Option<Running> {
    let mut found = hypervisor.list().must("list");
    found.retain(|running| running.vm == vm);
    assert!(found.len() <= 1, "listed twice: {found:?}");
    found.pop()
}

#[track_caller]
fn assert_not_listed(hypervisor: &dyn Hypervisor, vm: VmId) {
    let found = listed(hypervisor, vm);
    assert!(found.is_none(), "left running: {found:?}");
}

#[track_caller]
fn assert_unknown<T: Debug>(vm: VmId, what: &str, result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::NoSuchVm(named)) if named == vm), "{what}: {result:?}");
}

fn length_of(path: &Path) -> u64 {
    fs::metadata(path).must("look at a file").len()
}

/// Waits for a condition, for at least [`ANSWER_LIMIT`].
#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..ANSWER_LIMIT.as_millis() / POLL_EVERY.as_millis() {
        if condition() {
            return;
        }
        thread::sleep(POLL_EVERY);
    }
    panic!("waited {ANSWER_LIMIT:?} until {what}");
}
