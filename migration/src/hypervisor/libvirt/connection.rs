//! Opening libvirt: its event loop, the embedded driver's directory, and one connection.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use virt::connect::Connect;

use super::{Error, reaper};

/// Longest directory of an embedded driver, bytes. libvirt's longest socket below it is
/// `/lib/qemu/domain-NNNNN-cvm-XXXXXXXXXXXX/monitor.sock`, 52 bytes, and the kernel takes 107 in all.
pub const MAX_ROOT_BYTES: usize = 55;

/// Directory below an embedded root for the sockets to programs in guests; libvirt's own choice would have too long a name.
pub(super) const GUEST_SOCKETS: &str = "guest";

/// Which libvirt to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uri {
    /// libvirt's QEMU driver inside this process; all its files are below this directory, and at most one process
    /// at a time may have it open. VMs outlive the process and are found again by the next one.
    Embedded(PathBuf),
    /// A daemon, such as `qemu:///system`.
    Daemon(String),
}

impl std::fmt::Display for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(root) => write!(f, "qemu:///embed?root={}", root.display()),
            Self::Daemon(uri) => f.write_str(uri),
        }
    }
}

/// Makes libvirt log errors only, unless the user has asked for more by `LIBVIRT_DEBUG`. Otherwise it writes a line about
/// every VM that it starts to standard error.
///
/// # Safety
/// Call this first thing in `main`, before any other thread runs: it changes the environment.
pub unsafe fn log_errors_only() {
    const LEVEL: &str = "LIBVIRT_DEBUG";
    const ERRORS: &str = "4";
    if std::env::var_os(LEVEL).is_none() {
        // SAFETY: the caller promises that no other thread reads the environment meanwhile.
        unsafe { std::env::set_var(LEVEL, ERRORS) };
    }
}

/// Opens the connection; the first time below a new root libvirt examines QEMU, which takes seconds.
pub(super) fn open(uri: &Uri) -> Result<Connect, Error> {
    start_event_loop()?;
    if let Uri::Embedded(root) = uri {
        prepare_root(root)?;
        reaper::start();
    }
    Connect::open(Some(&uri.to_string())).map_err(|error| Error::Hypervisor {
        doing: "cannot open libvirt",
        message: match uri {
            Uri::Embedded(root) => format!(
                "{} (is another process using {}? are the packages libvirt-daemon-driver-qemu and qemu-system-x86 installed?)",
                error.message(),
                root.display()
            ),
            Uri::Daemon(uri) => format!("{} (does the daemon behind {uri} run?)", error.message()),
        },
    })
}

/// libvirt needs its event loop registered before the first connection, and run for as long as there is one.
fn start_event_loop() -> Result<(), Error> {
    static STARTED: Once = Once::new();
    let mut failed = None;
    STARTED.call_once(|| {
        virt::error::clear_error_callback();
        failed = virt::event::event_register_default_impl().err();
        if failed.is_none() {
            std::thread::spawn(|| {
                while virt::event::event_run_default_impl().is_ok() {}
                tracing::error!("libvirt's event loop ended; VMs can no longer be controlled");
            });
        }
    });
    match failed {
        None => Ok(()),
        Some(error) => Err(Error::Hypervisor {
            doing: "cannot start libvirt's event loop",
            message: error.message().to_owned(),
        }),
    }
}

/// Writes the embedded driver's configuration. It must do without helper daemons, cgroups and mount namespaces.
fn prepare_root(root: &Path) -> Result<(), Error> {
    let length = root.as_os_str().as_bytes().len();
    if length > MAX_ROOT_BYTES || !root.is_absolute() {
        return Err(Error::Hypervisor {
            doing: "cannot use this directory for libvirt",
            message: format!(
                "{} must be absolute and at most {MAX_ROOT_BYTES} bytes long (it has {length}), or libvirt's sockets below it get too long names; choose a shorter state directory",
                root.display()
            ),
        });
    }
    let file = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { doing, path, source }
    };
    let etc = root.join("etc");
    fs::create_dir_all(&etc).map_err(file("cannot make", &etc))?;
    let agents = root.join(GUEST_SOCKETS);
    fs::create_dir_all(&agents).map_err(file("cannot make", &agents))?;
    let conf = etc.join("qemu.conf");
    fs::write(&conf, qemu_conf(nix::unistd::geteuid().is_root())).map_err(file("cannot write", &conf))
}

fn qemu_conf(as_root: bool) -> String {
    let mut text = String::from(
        "stdio_handler = \"file\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\nremember_owner = 0\n",
    );
    if as_root {
        text.push_str("user = \"root\"\ngroup = \"root\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_with_too_long_a_name_is_refused_before_libvirt_sees_it() {
        let root = PathBuf::from(format!("/{}", "x".repeat(MAX_ROOT_BYTES)));
        let message = prepare_root(&root).unwrap_err().to_string();
        assert!(message.contains("choose a shorter state directory"), "{message}");
        assert!(!root.exists());
    }
}
