//! libvirt's findings about QEMU, which take it 8 s below every new directory. It checks itself whether they still hold,
//! so one test's are as good as another's.

use std::fs;
use std::path::{Path, PathBuf};

/// Where they are below an embedded libvirt's directory.
const PLACE: &str = "cache/qemu/capabilities";

/// Gives a new directory what an earlier test's libvirt found out.
pub fn provide(libvirt: &Path) {
    copy_newer(&kept(), &libvirt.join(PLACE));
}

/// Keeps what a libvirt found out for later tests.
pub fn keep(libvirt: &Path) {
    copy_newer(&libvirt.join(PLACE), &kept());
}

fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("libvirt-capabilities")
}

/// Each file appears at once, as tests run side by side.
fn copy_newer(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    fs::create_dir_all(to).unwrap();
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    for entry in entries {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if time(&entry.path()) > time(&target) {
            let part = to.join(format!(".{}-{}", entry.file_name().display(), std::process::id()));
            fs::copy(entry.path(), &part).unwrap();
            fs::rename(part, target).unwrap();
        }
    }
}
