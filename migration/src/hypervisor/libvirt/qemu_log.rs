//! What QEMU itself says: libvirt keeps it in a file for each domain.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::hypervisor::Error;

/// Most of a log that is read, bytes: the end, where the reason is.
const READ_BYTES: u64 = 8 * 1024;
/// How a line that QEMU wrote begins, as opposed to libvirt's own.
const QEMU: &str = "qemu-system";

/// The error, with QEMU's own reason if it gave one: libvirt only says that QEMU has gone.
pub(super) fn explain(error: Error, log: &Path) -> Error {
    match (error, last_words(log)) {
        (Error::Hypervisor { doing, message }, Some(words)) => {
            Error::Hypervisor { doing, message: format!("{message} (QEMU: {words})") }
        }
        (error, _) => error,
    }
}

fn last_words(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let start = file.metadata().ok()?.len().saturating_sub(READ_BYTES);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut text = Vec::new();
    file.take(READ_BYTES).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let said = text.lines().filter_map(|line| Some(line[line.find(QEMU)?..].split_once(": ")?.1));
    // The first complaint is the cause, what follows are its consequences.
    said.filter(|words| !words.starts_with("warning") && !words.starts_with("terminating"))
        .map(str::to_owned)
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_complaint_of_qemu_is_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let text = "2026-11-23 11:25:31.1+0000: starting up libvirt version: 11.3.0\nLC_ALL=C /usr/bin/qemu-system-x86_64 -S\n\
                    2026-11-23T11:25:31.1Z qemu-system-x86_64: Failed to load virtio-console:virtio\n\
                    2026-11-23T11:25:31.2Z qemu-system-x86_64: load of migration failed: Invalid argument\n";
        std::fs::write(&log, text).unwrap();
        assert_eq!(last_words(&log).as_deref(), Some("Failed to load virtio-console:virtio"));
        assert_eq!(last_words(&directory.path().join("none")), None);
    }
}
