//! Does KVM work here? Only a guest that really ran can tell.
//!
//! `/dev/kvm` may open, and even make VMs, on a host where guests then hang or fail (nested clouds, broken firmware):
//! QEMU spins or stands still for ever. So a small guest (`guest.s`) is run, with a time limit. It does what a kernel
//! does first, because there are hosts whose KVM gets a few instructions far and no further. At its end it writes one
//! byte to QEMU's debug-exit device, which ends QEMU with an exit code that nothing else produces.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::wait::{Deadline, poll};
use super::xml::EMULATOR;

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A guest ran under KVM.
    Works,
    /// None can; why not, and what would mend it.
    Fails(String),
}

/// The guest, assembled from `guest.s`.
const GUEST: &[u8] = include_bytes!("guest.bin");
/// Byte that the guest writes; QEMU then exits with twice this plus one.
const MARK: u8 = 0x2a;
/// Size of the guest's firmware. QEMU wants whole 64 KiB; the processor starts 16 bytes before its end.
const FIRMWARE_BYTES: usize = 64 * 1024;

/// Runs the guest under KVM for at most `limit`. With `remembered`, an answer that was found since this host booted is
/// taken from that file, and a new one is put there.
pub fn probe(limit: Duration, remembered: Option<&Path>) -> Probe {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // Another guest, in another release, may find something else.
    let boot = format!("{} {}", boot.trim(), blake3::hash(GUEST).to_hex());
    if let Some(probe) = remembered.and_then(|file| recall(file, &boot)) {
        return probe;
    }
    let probe = run(limit, Path::new("/dev/kvm"));
    if let Some(file) = remembered {
        remember(file, &boot, &probe);
    }
    probe
}

fn run(limit: Duration, device: &Path) -> Probe {
    let fails = |why: String| Probe::Fails(why);
    match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return fails(format!(
                "{} is not there: no hardware virtualisation, or its kernel module is not loaded (modprobe kvm_intel or kvm_amd; enable VT-x or AMD-V in the firmware)",
                device.display()
            ));
        }
        Err(error) => {
            return fails(format!(
                "{} cannot be opened ({error}): add this user to the group kvm",
                device.display()
            ));
        }
    }
    match guest(limit, "kvm") {
        Ok(()) => Probe::Works,
        Err(why) => fails(why),
    }
}

/// Runs the guest.
fn guest(limit: Duration, accelerator: &str) -> Result<(), String> {
    let mut firmware =
        tempfile::NamedTempFile::new().map_err(|error| format!("no temporary file: {error}"))?;
    firmware.write_all(&firmware_image()).map_err(|error| format!("no temporary file: {error}"))?;
    let mut qemu = Command::new(EMULATOR)
        .args([
            "-accel",
            accelerator,
            "-machine",
            "q35",
            "-m",
            "16",
            "-nodefaults",
            "-display",
            "none",
            "-bios",
        ])
        .arg(firmware.path())
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{EMULATOR} cannot be started ({error}): install qemu-system-x86"))?;
    let ended = poll(Deadline::after(limit), Duration::from_millis(5), || qemu.try_wait());
    let _ = qemu.kill();
    let output = qemu.wait_with_output().map_err(|error| error.to_string())?;
    match ended {
        Ok(Some(status)) if status.code() == Some(i32::from(MARK) * 2 + 1) => Ok(()),
        Ok(Some(_)) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(format!("QEMU gave up: {}", words.lines().last().unwrap_or("it said nothing").trim()))
        }
        Ok(None) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let reason = words.lines().find(|line| line.contains("error"));
            let reason = reason.map_or_else(String::new, |line| format!(" ({})", line.trim()));
            Err(format!(
                "a small guest was started under it and had not come to its end after {limit:?}{reason}; \
                 this host's KVM is broken, or is itself emulated"
            ))
        }

        Err(error) => Err(error.to_string()),
    }
}

/// The guest at the beginning, and at the reset vector a jump to it.
fn firmware_image() -> Vec<u8> {
    const JUMP_TO_START: [u8; 5] = [0xea, 0x00, 0x00, 0x00, 0xf0];
    let mut image = vec![0xf4; FIRMWARE_BYTES];
    image[..GUEST.len()].copy_from_slice(GUEST);
    let reset = FIRMWARE_BYTES - 16;
    image[reset..reset + JUMP_TO_START.len()].copy_from_slice(&JUMP_TO_START);
    image
}

fn recall(file: &Path, boot: &str) -> Option<Probe> {
    let text = fs::read_to_string(file).ok()?;
    let (of_boot, answer) = text.split_once('\n')?;
    if of_boot != boot {
        return None;
    }
    match answer.split_once(' ')? {
        ("works", _) => Some(Probe::Works),
        ("fails", why) => Some(Probe::Fails(why.to_owned())),
        _ => None,
    }
}

/// A lost memory only costs another probe, so failing to write is no failure.
fn remember(file: &Path, boot: &str, probe: &Probe) {
    let text = match probe {
        Probe::Works => format!("{boot}\nworks "),
        Probe::Fails(why) => format!("{boot}\nfails {why}"),
    };
    if let Some(directory) = file.parent() {
        let _ = fs::create_dir_all(directory);
    }
    let _ = fs::write(file, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_ends_qemu_by_itself_where_guest_code_runs() {
        assert_eq!(guest(Duration::from_secs(20), "tcg"), Ok(()));
    }

    #[test]
    fn the_bytes_are_those_of_the_source() {
        let directory = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hypervisor/libvirt/kvm/guest.s");
        let (object, binary) = (directory.path().join("o"), directory.path().join("b"));
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        run(Command::new("as").arg("--64").arg(source).arg("-o").arg(&object));
        run(Command::new("ld")
            .args(["-Ttext=0", "-e", "0", "--oformat", "binary", "-m", "elf_x86_64"])
            .arg(&object)
            .arg("-o")
            .arg(&binary));
        assert_eq!(fs::read(binary).unwrap(), GUEST);
    }

    #[test]
    fn a_missing_device_says_what_to_do() {
        let Probe::Fails(why) = run(Duration::from_secs(1), Path::new("/dev/no-such-kvm")) else { panic!() };
        assert!(why.contains("modprobe"), "{why}");
    }

    #[test]
    fn a_guest_that_never_runs_is_given_up_after_the_limit() {
        // An accelerator that hangs is played by a limit that no QEMU can meet.
        let why = guest(Duration::ZERO, "tcg").unwrap_err();
        assert!(why.contains("had not come to its end"), "{why}");
    }

    #[test]
    fn an_answer_is_remembered_for_this_boot_of_the_host_only() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kvm");
        let fails = Probe::Fails("it hung".into());
        remember(&file, "boot-1", &fails);
        assert_eq!(recall(&file, "boot-1"), Some(fails));
        assert_eq!(recall(&file, "boot-2"), None);
    }
}
