//! The fake passes the suite of the real one, and its faults are what they say.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::*;
use crate::hypervisor::suite::{self, Fixture};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SECOND: Duration = Duration::from_secs(1);

/// Trivial files: a disk is a copy of what it is layered on.
fn fixture(directory: &Path) -> Fixture<'_> {
    for name in ["base", "kernel", "initrd"] {
        fs::write(directory.join(name), name).unwrap();
    }
    Fixture {
        directory: directory.to_owned(),
        hardware: hardware(),
        kernel: directory.join("kernel"),
        initrd: directory.join("initrd"),
        make_disk: Box::new(move |below, disk| {
            let base = directory.join("base");
            fs::copy(below.unwrap_or(&base), disk).map(drop)
        }),
        boot_limit: SECOND,
    }
}

/// A world with the files of an image in a directory.
struct Bench {
    directory: tempfile::TempDir,
    fake: Fake,
    started: AtomicU32,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["template", "device"] {
            fs::write(directory.path().join(name), "not written by a fake").unwrap();
        }
        Self { directory, fake: Fake::default(), started: AtomicU32::new(0) }
    }

    fn spec(&self) -> CloneSpec {
        let number = self.started.fetch_add(1, SeqCst);
        let path = |name: &str| self.directory.path().join(name);
        let disk = path(&format!("disk{number}"));
        fs::write(&disk, "disk").unwrap();
        CloneSpec {
            vm: VmId(uuid::Uuid::from_u128(number.into())),
            hardware: hardware(),
            disk,
            template: path("template"),
            device_stream: path("device"),
            console: path(&format!("console{number}")),
        }
    }

    fn start(&self, guest: Guest) -> VmId {
        self.fake.set_guest(guest);
        let spec = self.spec();
        self.fake.clone_from(&spec).unwrap();
        spec.vm
    }

    fn port(&self, vm: VmId) -> SocketAddr {
        self.fake.forward_port(vm, LOCALHOST, 0, 8080).unwrap()
    }
}

/// Status and body of a request; `None` if the connection was closed without an answer.
fn ask(address: SocketAddr, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(10 * SECOND)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
        Err(error) => panic!("{error}"),
    }
    let status = answer.split_whitespace().nth(1)?.parse().unwrap();
    Some((status, answer.split_once("\r\n\r\n").unwrap().1.to_owned()))
}

fn health(address: SocketAddr) -> Option<u16> {
    ask(address, "GET /healthz HTTP/1.1\r\nhost: guest\r\n\r\n").map(|(status, _)| status)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited 5 s until {what}");
}

#[test]
fn the_fake_passes_the_suite_of_the_real_one() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    suite::run(&fake, &fixture(directory.path()), &|| Box::new(fake.reconnect()));
    assert_eq!(fake.list().unwrap(), [], "the suite leaves nothing behind");
}

#[test]
fn a_clone_never_writes_its_image_even_when_it_fails() {
    let bench = Bench::new();
    let spec = bench.spec();
    for path in [&spec.template, &spec.device_stream] {
        let mut permissions = fs::metadata(path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(path, permissions).unwrap();
    }
    let state = || {
        [&spec.template, &spec.device_stream]
            .map(|path| (fs::read(path).unwrap(), fs::metadata(path).unwrap().modified().unwrap()))
    };
    let before = state();
    bench.fake.fail_nth(Operation::CloneFrom, 1);
    assert!(bench.fake.clone_from(&spec).is_err());
    bench.fake.clone_from(&spec).unwrap();
    bench.fake.agent_write_file(spec.vm, "/root/file", b"new").unwrap();
    bench.fake.stop(spec.vm).unwrap();
    assert_eq!(state(), before);
}

#[test]
fn the_nth_call_fails_and_no_other() {
    let bench = Bench::new();
    let vm = bench.start(Guest::default());
    bench.fake.agent_ping(vm, SECOND).unwrap();
    bench.fake.fail_nth(Operation::AgentPing, 2);
    bench.fake.fail_nth(Operation::AgentPing, 4);
    let results: Vec<bool> = (0..5).map(|_| bench.fake.agent_ping(vm, SECOND).is_ok()).collect();
    assert_eq!(results, [true, false, true, false, true]);
    assert_eq!(bench.fake.calls(Operation::AgentPing), 6);
    assert_eq!(bench.fake.calls(Operation::AgentExec), 0);
}

#[test]
fn failed_starts_leave_nothing_and_failed_suspensions_leave_rubbish() {
    let bench = Bench::new();
    let spec = bench.spec();
    bench.fake.fail_nth(Operation::CloneFrom, 1);
    assert!(matches!(bench.fake.clone_from(&spec), Err(Error::Hypervisor { .. })));
    assert_eq!(bench.fake.list().unwrap(), []);
    bench.fake.clone_from(&spec).unwrap();
    bench.fake.fail_nth(Operation::Suspend, 1);
    let into = SuspendFiles {
        template: bench.directory.path().join("new.template"),
        device_stream: bench.directory.path().join("new.device"),
    };
    assert!(bench.fake.suspend(spec.vm, &into).is_err());
    assert_eq!(bench.fake.list().unwrap(), [], "stopped by the failed suspension");
    assert!(into.template.exists() && !into.device_stream.exists());
}

#[test]
fn delayed_calls_take_longer_and_others_do_not_wait_for_them() {
    let bench = Bench::new();
    let (slow, quick) = (bench.start(Guest::default()), bench.start(Guest::default()));
    bench.fake.delay(Operation::AgentExec, Duration::from_millis(300));
    #[expect(clippy::disallowed_methods, reason = "the delay is what is tested")]
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        let exec = scope.spawn(|| bench.fake.agent_exec(slow, "/bin/true", &[], SECOND).unwrap());
        wait_until("the slow call has begun", || bench.fake.calls(Operation::AgentExec) == 1);
        bench.fake.agent_ping(quick, SECOND).unwrap();
        assert!(!exec.is_finished(), "a ping waited for another VM's program");
        exec.join().unwrap();
    });
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn services_answer_through_their_port_as_they_are_told_to() {
    let bench = Bench::new();
    let with = |service| Guest { service, ..Guest::default() };
    let vm = bench.start(Guest::default());
    let port = bench.port(vm);
    assert_eq!(health(port), Some(200));
    let change = |service| bench.fake.change_guest(vm, with(service)).unwrap();
    change(Service::HealthyAfter(2));
    assert_eq!([(); 4].map(|()| health(port)), [Some(503), Some(503), Some(200), Some(200)]);
    change(Service::Unhealthy);
    assert_eq!(health(port), Some(503));
    change(Service::Absent);
    assert_eq!(health(port), None);
    change(Service::Custom(Arc::new(|request: &Request| {
        assert_eq!(request.guest_port, 8080);
        let said = format!("{} {} {}", request.method, request.path, String::from_utf8_lossy(&request.body));
        Answer::json(&serde_json::json!({ "said": said }))
    })));
    let request = "POST /recognize?x=1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(ask(port, request), Some((200, r#"{"said":"POST /recognize?x=1 hello"}"#.to_owned())));
    for bad in ["\r\n\r\n", "GET\r\n\r\n", "POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n"] {
        assert_eq!(ask(port, bad), None, "{bad:?}");
    }
}

#[test]
fn a_silent_service_holds_its_clients_until_the_guest_dies() {
    let bench = Bench::new();
    let vm = bench.start(Guest { service: Service::Silent, ..Guest::default() });
    let port = bench.port(vm);
    let mut client = TcpStream::connect(port).unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let silence = client.read(&mut [0]).unwrap_err();
    assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
    bench.fake.die(vm);
    client.set_read_timeout(Some(10 * SECOND)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "closed when the guest died");
}

#[test]
fn dead_guests_are_gone_with_their_ports() {
    let bench = Bench::new();
    let told = bench.start(Guest::default());
    let port = bench.port(told);
    bench.fake.die(told);
    assert_eq!(TcpStream::connect(port).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(matches!(bench.fake.agent_ping(told, SECOND), Err(Error::NoSuchVm(_))));

    let soon = Guest { death: Death::After(Duration::from_millis(50)), ..Guest::default() };
    let dying = bench.start(soon.clone());
    let saved = bench.start(soon);
    bench.fake.change_guest(saved, Guest::default()).unwrap();
    wait_until("a guest died by itself", || bench.fake.adopt(dying).is_err());
    assert_eq!(bench.fake.list().unwrap().len(), 1, "the other was saved in time");
}

#[test]
fn agents_answer_late_or_never() {
    let bench = Bench::new();
    let late = bench.start(Guest { agent: Agent::AnswersAfter(2), ..Guest::default() });
    let results = [(); 4].map(|()| bench.fake.agent_ping(late, SECOND).is_ok());
    assert_eq!(results, [false, false, true, true]);
    let silent = bench.start(Guest { agent: Agent::Silent, ..Guest::default() });
    let error = bench.fake.agent_exec(silent, "/bin/true", &[], SECOND).unwrap_err();
    assert!(matches!(error, Error::AgentSilent { vm, limit: SECOND, .. } if vm == silent), "{error}");
}

#[test]
fn programs_of_the_test_come_first() {
    let bench = Bench::new();
    let programs = Program::new(|program, arguments| {
        (program == "/bin/sh").then(|| GuestOutput {
            exit_code: 137,
            stdout: arguments.concat().into_bytes(),
            stderr: Vec::new(),
        })
    });
    let vm = bench.start(Guest { programs, ..Guest::default() });
    let output = bench.fake.agent_exec(vm, "/bin/sh", &["-c", "x"], SECOND).unwrap();
    assert_eq!((output.exit_code, &output.stdout[..]), (137, &b"-cx"[..]));
    assert_eq!(bench.fake.agent_exec(vm, "/bin/echo", &["x"], SECOND).unwrap().stdout, b"x\n");
}

#[test]
fn a_handle_must_adopt_before_it_uses_what_another_started() {
    let bench = Bench::new();
    let vm = bench.start(Guest::default());
    let port = bench.port(vm);
    let again = bench.fake.reconnect();
    let error = again.agent_ping(vm, SECOND).unwrap_err();
    assert!(error.to_string().contains("adopt it first"), "{error}");
    assert_eq!(again.adopt(vm).unwrap().forwards, [(port, 8080)]);
    again.agent_ping(vm, SECOND).unwrap();
    assert_eq!(health(port), Some(200), "its ports stayed open");
    let third = again.reconnect();
    third.stop(vm).unwrap();
    assert_eq!(bench.fake.list().unwrap(), [], "what is half made can be stopped without adopting it");
}

#[test]
fn what_qemu_refuses_is_refused() {
    let bench = Bench::new();
    let spec = bench.spec();
    bench.fake.clone_from(&spec).unwrap();
    let same_disk = CloneSpec { disk: spec.disk.clone(), ..bench.spec() };
    assert!(bench.fake.clone_from(&same_disk).unwrap_err().to_string().contains("lock"));
    let serial = |serial: &str| Disk { file: spec.disk.clone(), serial: serial.to_owned(), writable: false };
    for bad in ["", "Upper", "with space", &"x".repeat(21)] {
        assert!(bench.fake.attach_disk(spec.vm, &serial(bad)).is_err(), "{bad:?}");
    }
    bench.fake.attach_disk(spec.vm, &serial("left-in")).unwrap();
    assert!(bench.fake.attach_disk(spec.vm, &serial("left-in")).is_err(), "a serial twice");
    let into = SuspendFiles {
        template: bench.directory.path().join("new.template"),
        device_stream: bench.directory.path().join("new.device"),
    };
    bench.fake.suspend(spec.vm, &into).unwrap();
    let woken = CloneSpec { device_stream: into.device_stream, template: into.template, ..bench.spec() };
    let error = bench.fake.clone_from(&woken).unwrap_err().to_string();
    assert!(error.contains("'left-in'"), "a disk was plugged in when it was suspended: {error}");
}
