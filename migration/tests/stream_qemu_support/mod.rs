//! A plain QEMU with a guest of 512 bytes, and its machine protocol (QMP).
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

pub const MEMORY_BYTES: u64 = 64 << 20;
/// The guest writes 1 here when its pattern is complete, and then counts in the four bytes after.
const DONE_AT: u64 = 0x10_0000;
const COUNT_AT: u64 = DONE_AT + 4;
/// Where the guest's pattern is, and its length.
pub const PATTERN: std::ops::Range<u64> = 0x20_0000..0x120_0000;

/// What the guest puts at an address of its pattern.
pub fn pattern_at(address: u64) -> u32 {
    (address as u32).wrapping_mul(0x9e37_79b1)
}

/// Where a QEMU gets its memory from.
pub enum Memory<'a> {
    /// Ordinary memory.
    Own,
    /// A private mapping of this file.
    Template(&'a Path),
}

/// A running QEMU; killed when it is dropped.
pub struct Qemu {
    process: Child,
    monitor: BufReader<UnixStream>,
    directory: PathBuf,
    name: String,
}

impl Qemu {
    /// Starts the guest, or a QEMU that waits for a stream.
    pub fn start(directory: &Path, name: &str, memory: &Memory<'_>, incoming: bool) -> Self {
        let path = |end: &str| directory.join(format!("{name}.{end}")).display().to_string();
        fs::write(path("disk"), boot_disk()).unwrap();
        let backend = match memory {
            Memory::Own => format!("memory-backend-ram,id=cram,size={MEMORY_BYTES}"),
            Memory::Template(file) => {
                format!(
                    "memory-backend-file,id=cram,size={MEMORY_BYTES},share=off,mem-path={}",
                    file.display()
                )
            }
        };
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-machine",
            "pc-q35-10.0,accel=tcg,memory-backend=cram",
            "-cpu",
            "Nehalem",
            "-m",
            "64",
        ]);
        command.args(["-object", &backend, "-nodefaults", "-display", "none"]);
        command.args(["-drive", &format!("if=none,id=disk,format=raw,file={}", path("disk"))]);
        command.args(["-netdev", "user,id=net", "-chardev", "null,id=agent"]);
        // With another generation id a clone differs from its source, in 16 bytes near the end of its memory.
        let devices = "virtio-blk-pci,drive=disk virtio-net-pci,netdev=net virtio-serial-pci \
                       virtserialport,chardev=agent,name=org.qemu.guest_agent.0 virtio-rng-pci \
                       vmgenid,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";
        command.args(devices.split_whitespace().flat_map(|device| ["-device", device]));
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))]);
        if incoming {
            // Paused, also when the source was not when its stream began.
            command.args(["-incoming", "defer", "-S"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(path("stderr")).unwrap());
        let process = command.spawn().expect("qemu-system-x86_64 is installed");
        let socket = wait_for("QEMU's monitor", || UnixStream::connect(path("qmp")).ok());
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (monitor, directory, name) = (BufReader::new(socket), directory.to_owned(), name.to_owned());
        let mut qemu = Self { process, monitor, directory, name };
        qemu.ask("qmp_capabilities", json!({}));
        qemu
    }

    /// Runs a QMP command and gives its answer.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{request}").unwrap();
        loop {
            let mut line = String::new();
            let count = self.monitor.read_line(&mut line).unwrap_or(0);
            assert!(count > 0, "{} has gone at '{command}': {}", self.name, self.words());
            let mut answer: Value = serde_json::from_str(&line).unwrap();
            assert!(answer.get("error").is_none(), "{}: '{command}': {answer}", self.name);
            if let Some(answer) = answer.get_mut("return") {
                return answer.take();
            }
        }
    }

    fn words(&self) -> String {
        fs::read_to_string(self.directory.join(format!("{}.stderr", self.name))).unwrap_or_default()
    }

    /// Waits until the guest has written its pattern and counts.
    pub fn wait_until_it_counts(&mut self) {
        wait_for("the guest's pattern", || (self.word(DONE_AT) == 1).then_some(()));
        self.wait_until_it_counts_beyond(0);
    }

    /// Waits until the guest has counted further.
    pub fn wait_until_it_counts_beyond(&mut self, count: u32) {
        wait_for("the guest to count on", || (self.count() != count).then_some(()));
    }

    /// What the guest has counted to.
    pub fn count(&mut self) -> u32 {
        self.word(COUNT_AT)
    }

    fn word(&mut self, address: u64) -> u32 {
        let answer =
            self.ask("human-monitor-command", json!({ "command-line": format!("xp /1wx {address}") }));
        let text = answer.as_str().unwrap().trim().rsplit("0x").next().unwrap().to_owned();
        u32::from_str_radix(&text, 16).unwrap()
    }

    /// The guest's whole memory.
    pub fn memory(&mut self) -> Vec<u8> {
        let file = self.directory.join(format!("{}.memory", self.name));
        self.ask("pmemsave", json!({ "val": 0, "size": MEMORY_BYTES, "filename": file }));
        let memory = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(memory.len() as u64, MEMORY_BYTES);
        memory
    }

    /// Loads a stream and waits until it is loaded.
    pub fn load(&mut self, stream: &Path) {
        self.ask("migrate-incoming", json!({ "uri": format!("file:{}", stream.display()) }));
        wait_for("the stream to load", || {
            let state = self.ask("query-migrate", json!({}));
            let status = state["status"].as_str().unwrap_or("none").to_owned();
            assert_ne!(status, "failed", "{}: {state} {}", self.name, self.words());
            (status == "completed").then_some(())
        });
    }

    /// Waits until an outgoing stream is complete.
    pub fn wait_migrated(&mut self) {
        wait_for("the end of the stream", || {
            let state = self.ask("query-migrate", json!({}));
            assert_ne!(state["status"], "failed", "{state}");
            (state["status"] == "completed").then_some(())
        });
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Tries until there is something, for at most 30 seconds.
fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = attempt() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited 30 s for {what}");
}

/// A disk whose boot sector is the guest: it fills [`PATTERN`] with [`pattern_at`] and then counts for ever, with each
/// count changing one page between 32 and 48 MiB from all zero to not, or back.
fn boot_disk() -> Vec<u8> {
    #[rustfmt::skip]
    let code: &[u8] = &[
        // 16-bit: address line 20 on, protected mode, flat segments.
        0xfa,                                     // 7c00 cli
        0x31, 0xc0,                               // 7c01 xor ax, ax
        0x8e, 0xd8,                               // 7c03 mov ds, ax
        0xe4, 0x92, 0x0c, 0x02, 0x24, 0xfe,       // 7c05 in al, 0x92; or al, 2; and al, 0xfe
        0xe6, 0x92,                               // 7c0b out 0x92, al
        0x0f, 0x01, 0x16, 0x80, 0x7c,             // 7c0d lgdt [0x7c80]
        0x0f, 0x20, 0xc0, 0x0c, 0x01,             // 7c12 mov eax, cr0; or al, 1
        0x0f, 0x22, 0xc0,                         // 7c17 mov cr0, eax
        0xea, 0x1f, 0x7c, 0x08, 0x00,             // 7c1a jmp 8:0x7c1f
        // 32-bit.
        0x66, 0xb8, 0x10, 0x00,                   // 7c1f mov ax, 16
        0x8e, 0xd8,                               // 7c23 mov ds, ax
        0xbf, 0x00, 0x00, 0x20, 0x00,             // 7c25 mov edi, 0x200000
        0x69, 0xc7, 0xb1, 0x79, 0x37, 0x9e,       // 7c2a imul eax, edi, 0x9e3779b1
        0x89, 0x07,                               // 7c30 mov [edi], eax
        0x83, 0xc7, 0x04,                         // 7c32 add edi, 4
        0x81, 0xff, 0x00, 0x00, 0x20, 0x01,       // 7c35 cmp edi, 0x1200000
        0x72, 0xed,                               // 7c3b jb 0x7c2a
        0xc7, 0x05, 0x00, 0x00, 0x10, 0x00, 1, 0, 0, 0, // 7c3d mov dword [0x100000], 1
        0xff, 0x05, 0x04, 0x00, 0x10, 0x00,       // 7c47 inc dword [0x100004]
        0xa1, 0x04, 0x00, 0x10, 0x00,             // 7c4d mov eax, [0x100004]
        0x25, 0xff, 0x0f, 0x00, 0x00,             // 7c52 and eax, 0xfff
        0xc1, 0xe0, 0x0c,                         // 7c57 shl eax, 12
        0x80, 0xb0, 0x00, 0x00, 0x00, 0x02, 0x01, // 7c5a xor byte [eax + 0x2000000], 1
        0xeb, 0xe4,                               // 7c61 jmp 0x7c47
    ];
    #[rustfmt::skip]
    let descriptors: &[u8] = &[
        0x17, 0x00, 0x88, 0x7c, 0x00, 0x00, 0, 0, // 7c80 limit and address of the table
        0, 0, 0, 0, 0, 0, 0, 0,                   // 7c88 none
        0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0,       // 7c90 code, 4 GiB
        0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0,       // 7c98 data, 4 GiB
    ];
    // Less than a cylinder or two, and the firmware does not boot from it.
    let mut disk = vec![0; 1 << 20];
    disk[..code.len()].copy_from_slice(code);
    disk[0x80..0x80 + descriptors.len()].copy_from_slice(descriptors);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}
