//! Clones of the real base image on real VMs: what two of them must not share, what becomes of an image that does not
//! fit, and a VM that outlives its process.
#![cfg(feature = "libvirt")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests use real time and stop at the first thing that goes wrong"
)]

mod libvirt_support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libvirt_support::{
    ANSWER_LIMIT, Image, Root, again, clone_spec, files_of, isolated, open, run, wait_until,
};
use migration::VmId;
use migration::hypervisor::{CloneSpec, Error, Hypervisor};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How far a guest's clock may be from the host's after it was set; the issue's own figure.
const CLOCK_LIMIT: Duration = Duration::from_secs(2);
/// A port in the guest for the tests' own listener.
const GUEST_PORT: u16 = 7;

/// The first thing that runs in a clone: random bytes by every way that programs get them. `getrandom` has the number 318
/// on x86-64, and perl is in every Debian.
const DRAW: &str = "head -c 32 /dev/urandom | od -v -An -tx1 | tr -d ' \\n'; echo
    perl -e '$b = \"\\0\" x 32; syscall(318, $b, 32, 0) == 32 or die; print unpack(\"H*\", $b), \"\\n\"'
    cat /proc/sys/kernel/random/uuid";

#[test]
fn two_clones_draw_different_random_bytes_and_know_the_time() {
    isolated("two_clones_draw_different_random_bytes_and_know_the_time", strangers);
}

fn strangers(root: &Root, _: Option<&str>) {
    let base = Image::named("base");
    let hypervisor = open(root, &base);
    let specs = ["one", "other"].map(|name| clone_spec(root, &base, name));
    let draws: Vec<String> = std::thread::scope(|scope| {
        let wake = |spec: CloneSpec| {
            let hypervisor = &hypervisor;
            scope.spawn(move || {
                hypervisor.clone_from(&spec).unwrap();
                run(hypervisor, spec.vm, "/bin/sh", &["-c", DRAW])
            })
        };
        specs.clone().map(wake).into_iter().map(|clone| clone.join().unwrap()).collect()
    });
    let drawn: Vec<&str> = draws.iter().flat_map(|draw| draw.lines()).collect();
    assert_eq!(drawn.len(), 6, "{draws:?}");
    assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), 6, "the clones share random bytes: {draws:?}");

    for spec in &specs {
        // Not by chance: the guest's kernel noticed that it was cloned.
        let log = run(&hypervisor, spec.vm, "/bin/dmesg", &[]);
        assert!(log.contains("crng reseeded due to virtual machine fork"), "{log}");

        // It wakes up when the image was made, to be told the time.
        let (asleep, _) = guest_clock(&hypervisor, spec.vm);
        assert!(
            asleep.as_secs() < base.created_unix_s() + 600,
            "{asleep:?}, and the image is from {}",
            base.created_unix_s()
        );
        hypervisor.agent_set_time(spec.vm, host_clock()).unwrap();
        let (guest, [before, after]) = guest_clock(&hypervisor, spec.vm);
        assert!(
            before < guest + CLOCK_LIMIT && guest < after + CLOCK_LIMIT,
            "the guest says {guest:?}, and it is {before:?} to {after:?}"
        );
    }
    // Both write, each to its own copy.
    for spec in &specs {
        let script = "dd if=/dev/urandom of=/root/written bs=1M count=8 status=none && sync";
        run(&hypervisor, spec.vm, "/bin/sh", &["-c", script]);
        hypervisor.stop(spec.vm).unwrap();
        assert!(fs::metadata(&spec.disk).unwrap().len() > 8 << 20, "nothing was written to the overlay");
    }
    for spec in &specs {
        assert_gone(root, &hypervisor, spec.vm);
    }
    base.assert_unchanged();
}

fn host_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// What the guest's clock says, and the host's before and after it was asked.
fn guest_clock(hypervisor: &dyn Hypervisor, vm: VmId) -> (Duration, [Duration; 2]) {
    let before = host_clock();
    let seconds: f64 = run(hypervisor, vm, "/bin/date", &["+%s.%N"]).trim().parse().unwrap();
    (Duration::from_secs_f64(seconds), [before, host_clock()])
}

#[test]
fn an_image_that_does_not_fit_is_refused_and_leaves_nothing() {
    isolated("an_image_that_does_not_fit_is_refused_and_leaves_nothing", misfits);
}

fn misfits(root: &Root, _: Option<&str>) {
    let base = Image::named("base");
    let hypervisor = open(root, &base);
    let spec = clone_spec(root, &base, "clone");

    for (wanted, change) in [
        ("pc-q35-99.0", (|spec| spec.hardware.machine = "pc-q35-99.0".to_owned()) as fn(&mut CloneSpec)),
        ("CPU model Abacus", |spec| spec.hardware.cpu_model = "Abacus".to_owned()),
        ("device layout 99", |spec| spec.hardware.topology = 99),
    ] {
        let mut changed = spec.clone();
        change(&mut changed);
        let told = hypervisor.clone_from(&changed).unwrap_err().to_string();
        assert!(told.starts_with("this image cannot run here: ") && told.contains(wanted), "{told}");
        assert_gone(root, &hypervisor, spec.vm);
    }

    let stream = fs::read(base.device_stream()).unwrap();
    let machine = find(&stream, spec.hardware.machine.as_bytes());
    let disk = find(&stream, b"0/virtio-blk");
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("cut in its header", stream[..6].to_vec()),
        ("cut in the middle", stream[..stream.len() / 2].to_vec()),
        ("without its end", stream[..disk].to_vec()),
        ("no stream at all", b"rubbish".repeat(1000)),
        ("of another machine type", altered(&stream, machine + 3)),
        ("with a device that is not there", altered(&stream, disk + 2)),
    ] {
        let file = root.path("bad.stream");
        fs::write(&file, bytes).unwrap();
        let error = hypervisor.clone_from(&CloneSpec { device_stream: file, ..spec.clone() }).unwrap_err();
        let Error::Hypervisor { doing, message } = &error else { panic!("{name}: {error:?}") };
        println!("a stream {name}: {error}");
        assert!(doing.contains("device stream"), "a stream {name}: {error}");
        assert!(
            message.contains("migration failed") && message.contains("rebuild"),
            "a stream {name}: {error}"
        );
        assert_gone(root, &hypervisor, spec.vm);
    }

    let full = spec.hardware.memory_bytes;
    for (name, bytes) in [("empty", 0), ("cut", full / 2), ("too long", full + 4096)] {
        let template = root.path("bad.template");
        fs::File::create(&template).unwrap().set_len(bytes).unwrap();
        let refused = hypervisor.clone_from(&CloneSpec { template: template.clone(), ..spec.clone() });
        let Err(Error::File { path, source, .. }) = &refused else {
            panic!("a template that is {name}: {refused:?}");
        };
        assert!(*path == template && source.to_string().contains("rebuild the image"), "{refused:?}");
        assert_eq!(fs::metadata(&template).unwrap().len(), bytes, "a template that is {name} was written to");
        assert_gone(root, &hypervisor, spec.vm);
    }

    // Nothing is in the way of a good one with the same id and the same disk.
    hypervisor.clone_from(&spec).unwrap();
    assert_eq!(run(&hypervisor, spec.vm, "/bin/echo", &["awake"]), "awake\n");
    hypervisor.stop(spec.vm).unwrap();
    assert_gone(root, &hypervisor, spec.vm);
    base.assert_unchanged();
}

/// Where `part` is first in the stream.
fn find(stream: &[u8], part: &[u8]) -> usize {
    stream.windows(part.len()).position(|window| window == part).unwrap()
}

fn altered(stream: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = stream.to_vec();
    bytes[at] ^= 1;
    bytes
}

#[track_caller]
fn assert_gone(root: &Root, hypervisor: &dyn Hypervisor, vm: VmId) {
    assert!(hypervisor.list().unwrap().iter().all(|running| running.vm != vm), "it is still listed");
    // libvirt waits for its QEMU, but the kernel may take a moment to forget it.
    wait_until("its QEMU is gone", || root.qemus().is_empty());
    let files = files_of(root, vm);
    assert_eq!(files, Vec::<PathBuf>::new(), "files are left");
}

#[test]
fn a_vm_outlives_its_killed_process_and_is_adopted() {
    isolated("a_vm_outlives_its_killed_process_and_is_adopted", orphan);
}

fn orphan(root: &Root, role: Option<&str>) {
    let base = Image::named("base");
    if role.is_some() {
        return start_and_wait(root, &base);
    }
    let note = root.path("started");
    let mut starter = again("a_vm_outlives_its_killed_process_and_is_adopted", root, "starter");
    wait_until("the clone runs", || {
        assert!(!starter.has_ended(), "the process that was to start a clone has ended");
        note.exists()
    });
    starter.kill();
    let note = fs::read_to_string(note).unwrap();
    let (vm, address) = note.split_once(' ').unwrap();
    let (vm, address): (VmId, SocketAddr) = (vm.parse().unwrap(), address.parse().unwrap());
    let qemus = root.qemus();
    assert_eq!(qemus.len(), 1, "the VM ended with its process");
    assert_eq!(hello(address), "hello");

    let hypervisor = open(root, &base);
    let listed = hypervisor.list().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    let adopted = hypervisor.adopt(vm).unwrap();
    assert_eq!(adopted, listed[0]);
    assert!(adopted.executing && adopted.vm == vm, "{adopted:?}");
    assert_eq!(adopted.process_id, Some(qemus[0]));
    assert_eq!(adopted.forwards, [(address, GUEST_PORT)]);
    // It is the same guest, its port still leads there, its agent answers, and it can be given more.
    assert_eq!(run(&hypervisor, vm, "/bin/cat", &["/root/mark"]), "before");
    assert_eq!(hello(address), "hello");
    let second = hypervisor.forward_port(vm, LOCALHOST, 0, GUEST_PORT).unwrap();
    assert_eq!(hello(second), "hello");
    hypervisor.agent_set_time(vm, host_clock()).unwrap();
    hypervisor.stop(vm).unwrap();
    assert_gone(root, &hypervisor, vm);
}

/// The process that is killed: starts a clone that answers on a port, says so, and waits for its end.
fn start_and_wait(root: &Root, base: &Image) {
    let hypervisor = open(root, base);
    let spec = clone_spec(root, base, "orphan");
    hypervisor.clone_from(&spec).unwrap();
    hypervisor.agent_ping(spec.vm, ANSWER_LIMIT).unwrap();
    let address = hypervisor.forward_port(spec.vm, LOCALHOST, 0, GUEST_PORT).unwrap();
    hypervisor.agent_write_file(spec.vm, "/root/mark", b"before").unwrap();
    hypervisor.agent_write_file(spec.vm, "/root/serve", SERVE.as_bytes()).unwrap();
    let serve = format!("setsid perl /root/serve {GUEST_PORT} > /dev/null 2>&1 < /dev/null &");
    run(&hypervisor, spec.vm, "/bin/sh", &["-c", &serve]);
    wait_until("the guest's server answers", || try_hello(address).is_some_and(|said| said == "hello"));
    write_at_once(&root.path("started"), &format!("{} {address}", spec.vm));
    loop {
        std::thread::park();
    }
}

/// Says "hello" to everybody who connects.
const SERVE: &str = r#"
use Socket;
socket(my $server, PF_INET, SOCK_STREAM, 0) or die;
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1);
bind($server, sockaddr_in($ARGV[0], INADDR_ANY)) or die;
listen($server, 5) or die;
while (accept(my $client, $server)) { syswrite($client, "hello"); close($client); }
"#;

#[track_caller]
fn hello(address: SocketAddr) -> String {
    try_hello(address).unwrap()
}

fn try_hello(address: SocketAddr) -> Option<String> {
    let mut connection = TcpStream::connect(address).ok()?;
    connection.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
    let mut said = String::new();
    connection.read_to_string(&mut said).ok()?;
    Some(said)
}

fn write_at_once(path: &Path, text: &str) {
    let part = path.with_extension("part");
    fs::File::create(&part).unwrap().write_all(text.as_bytes()).unwrap();
    fs::rename(part, path).unwrap();
}
