//! The real hypervisor: QEMU, through libvirt.
//!
//! Every VM is a transient domain: libvirt keeps nothing of it once its QEMU ends. QEMU processes outlive this one;
//! the next process that opens the same connection finds them with [`Hypervisor::list`] and [`Hypervisor::adopt`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;
use vm_images::manifest::Accelerator;

use super::{
    BootSpec, CloneSpec, Disk, Error, GuestOutput, Host, Hypervisor, Running, SuspendFiles, Suspended,
    TOPOLOGY, check_compatible,
};
use crate::VmId;

mod agent;
mod clock;
mod connection;
mod disk;
mod forward;
mod host;
pub mod kvm;
mod monitor;
mod moving;
mod qemu_log;
mod reaper;
mod suspend;
mod wait;
mod xml;

use xml::Sockets;

pub use connection::{Uri, log_errors_only};

/// How long loading a device stream may take; 20 to 50 ms when the host is idle (measured), more when twenty start at once.
const LOAD_LIMIT: Duration = Duration::from_secs(30);
/// How long a QEMU may take to end after it was told to, before it is killed.
const QUIT_LIMIT: Duration = Duration::from_secs(2);

/// Whose VMs these are. Several owners, and strangers, can use one libvirt daemon; each sees only its own VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The running cloudlet.
    Cloudlet,
    /// A build of images.
    Build,
}

impl Owner {
    /// How the names of its domains begin. Short, because libvirt puts the name into the names of its sockets; see
    /// [`connection::MAX_ROOT_BYTES`].
    fn prefix(self) -> &'static str {
        match self {
            Self::Cloudlet => "cvm-",
            Self::Build => "cvb-",
        }
    }
}

/// VMs on QEMU, through libvirt.
pub struct Libvirt {
    connection: Connect,
    owner: Owner,
    host: Host,
    /// Where libvirt keeps the process ids of its domains, if that is known.
    process_ids: Option<PathBuf>,
    /// Where the sockets to programs in guests are made; `None` leaves it to the daemon.
    sockets: Option<PathBuf>,
}

impl Libvirt {
    /// Opens libvirt and examines the host. Guests will run under `accelerator`; see [`kvm::probe`].
    ///
    /// The first opening below a new embedded root takes up to 8 s, because libvirt examines QEMU.
    pub fn open(uri: &Uri, accelerator: Accelerator) -> Result<Self, Error> {
        let connection = connection::open(uri)?;
        let host = host::examine(&connection, uri, accelerator)?;
        let process_ids = match uri {
            Uri::Embedded(root) => Some(root.join("run/qemu")),
            Uri::Daemon(uri) if uri.starts_with("qemu:///system") => Some("/run/libvirt/qemu".into()),
            Uri::Daemon(_) => None,
        };
        let sockets = match uri {
            Uri::Embedded(root) => Some(root.join(connection::GUEST_SOCKETS)),
            Uri::Daemon(_) => None,
        };
        Ok(Self { connection, owner: Owner::Cloudlet, host, process_ids, sockets })
    }

    /// The same, with the VMs of another owner.
    pub fn of(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    fn domain(&self, vm: VmId) -> Result<Domain, Error> {
        Domain::lookup_by_uuid_string(&self.connection, &vm.to_string()).map_err(|error| match error.code() {
            virt::error::ErrorNumber::NoDomain => Error::NoSuchVm(vm),
            _ => libvirt_error("cannot look the VM up", &error),
        })
    }

    fn sockets(&self, vm: VmId) -> Option<Sockets> {
        let file = |kind: &str| Some(self.sockets.as_ref()?.join(format!("{}{kind}", xml::short(vm))));
        Some(Sockets { agent: file("a")?, clock: file("c")? })
    }

    /// Where libvirt writes down what QEMU says; a daemon's logs are the daemon's business.
    fn log(&self, vm: VmId) -> Option<PathBuf> {
        let root = self.sockets.as_ref()?.parent()?;
        Some(root.join("log/qemu").join(format!("{}.log", xml::domain_name(self.owner, vm))))
    }

    fn create(&self, xml: &str, flags: sys::virDomainCreateFlags) -> Result<Domain, Error> {
        Domain::create_xml(&self.connection, xml, flags)
            .map_err(|error| libvirt_error("cannot start QEMU", &error))
    }

    fn running(&self, vm: VmId, domain: &Domain) -> Result<Running, Error> {
        let (state, _) =
            domain.get_state().map_err(|error| libvirt_error("cannot ask for the VM's state", &error))?;
        Ok(Running {
            vm,
            executing: state == sys::VIR_DOMAIN_RUNNING,
            forwards: forward::list(domain)?,
            process_id: self.process_id(vm),
        })
    }

    fn process_id(&self, vm: VmId) -> Option<u32> {
        let file = self.process_ids.as_ref()?.join(format!("{}.pid", xml::domain_name(self.owner, vm)));
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// Waits until libvirt has forgotten the VM. One that is merely no longer active is still being cleaned up after,
    /// and until that has ended no other can have its id.
    fn is_gone(&self, vm: VmId, limit: Duration) -> bool {
        let gone = wait::poll(wait::Deadline::after(limit), Duration::from_millis(5), || {
            Ok::<_, Error>(matches!(self.domain(vm), Err(Error::NoSuchVm(_))).then_some(()))
        });
        matches!(gone, Ok(Some(())))
    }

    /// Starts a clone that waits for its state.
    fn create_clone(&self, spec: &CloneSpec) -> Result<Domain, Error> {
        check_compatible(&spec.hardware, &self.host, TOPOLOGY).map_err(Error::Incompatible)?;
        must_be_readable(&[&spec.disk, &spec.template])?;
        must_be_long(&spec.template, spec.hardware.memory_bytes)?;
        self.create(
            &xml::clone(spec, self.owner, self.sockets(spec.vm).as_ref()),
            sys::VIR_DOMAIN_START_PAUSED,
        )
    }

    /// Lets `load` bring the state of a clone that waits for it. On error nothing of it is left.
    fn wake_up(
        &self,
        spec: &CloneSpec,
        domain: &Domain,
        load: impl FnOnce(&Domain) -> Result<(), Error>,
    ) -> Result<(), Error> {
        load(domain).map_err(|error| {
            let error =
                self.log(spec.vm).into_iter().fold(error, |error, log| qemu_log::explain(error, &log));
            // The caller learns why the clone failed; that its remains also resist is for the log.
            if let Err(error) = self.stop(spec.vm) {
                tracing::error!(vm = %spec.vm, %error, "a clone that failed to wake up could not be stopped");
            }
            error
        })
    }
}

impl Hypervisor for Libvirt {
    fn host(&self) -> Result<Host, Error> {
        Ok(self.host.clone())
    }

    fn boot(&self, spec: &BootSpec) -> Result<(), Error> {
        check_compatible(&spec.hardware, &self.host, TOPOLOGY).map_err(Error::Incompatible)?;
        must_be_readable(&[&spec.disk, &spec.kernel, &spec.initrd])?;
        self.create(&xml::boot(spec, self.owner, self.sockets(spec.vm).as_ref()), sys::VIR_DOMAIN_NONE)
            .map(drop)
    }

    fn clone_from(&self, spec: &CloneSpec) -> Result<(), Error> {
        must_be_readable(&[&spec.device_stream])?;
        self.wake_up(spec, &self.create_clone(spec)?, |domain| {
            monitor::load(domain, &spec.device_stream, LOAD_LIMIT)?;
            domain.resume().map_err(|error| libvirt_error("cannot resume the clone", &error))?;
            Ok(())
        })
    }

    fn suspend(&self, vm: VmId, into: &SuspendFiles) -> Result<Suspended, Error> {
        let domain = self.domain(vm)?;
        let result = suspend::suspend(&domain, into);
        let stopped = self.stop(vm);
        let suspended = result?;
        stopped.map(|()| suspended)
    }

    fn stop(&self, vm: VmId) -> Result<(), Error> {
        let domain = match self.domain(vm) {
            Ok(domain) => domain,
            Err(Error::NoSuchVm(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        // QEMU ends at once when its monitor says so; libvirt's own way takes about two seconds (measured).
        let _ = monitor::human(&domain, "cannot stop QEMU", "quit");
        if !self.is_gone(vm, QUIT_LIMIT) {
            let destroyed = domain.destroy();
            if !self.is_gone(vm, QUIT_LIMIT)
                && let Err(error) = destroyed
            {
                return Err(libvirt_error("cannot stop the VM", &error));
            }
        }
        // libvirt keeps logs for ever, and removes only sockets that it has named itself. A left-over one is harmless.
        let sockets = self.sockets(vm).map(|Sockets { agent, clock }| [agent, clock]);
        for file in sockets.into_iter().flatten().chain(self.log(vm)) {
            let _ = std::fs::remove_file(file);
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<Running>, Error> {
        let domains = self
            .connection
            .list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            .map_err(|error| libvirt_error("cannot list VMs", &error))?;
        let ours = domains.iter().filter_map(|domain| Some((vm_of(self.owner, domain)?, domain)));
        // A VM may end between being listed and being asked; then it is not there.
        Ok(ours.filter_map(|(vm, domain)| self.running(vm, domain).ok()).collect())
    }

    fn adopt(&self, vm: VmId) -> Result<Running, Error> {
        self.running(vm, &self.domain(vm)?)
    }

    fn forward_port(&self, vm: VmId, bind: IpAddr, port: u16, guest_port: u16) -> Result<SocketAddr, Error> {
        forward::add(&self.domain(vm)?, bind, port, guest_port)
    }

    fn agent_ping(&self, vm: VmId, limit: Duration) -> Result<(), Error> {
        agent::Agent { vm, domain: &self.domain(vm)? }.ping(limit)
    }

    fn agent_exec(
        &self,
        vm: VmId,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<GuestOutput, Error> {
        agent::Agent { vm, domain: &self.domain(vm)? }.exec(program, arguments, limit)
    }

    fn agent_write_file(&self, vm: VmId, path: &str, bytes: &[u8]) -> Result<(), Error> {
        agent::Agent { vm, domain: &self.domain(vm)? }.write_file(path, bytes)
    }

    fn agent_set_time(&self, vm: VmId, since_epoch: Duration) -> Result<(), Error> {
        let domain = self.domain(vm)?;
        // A port without a server, or none at all, is no failure: every guest has the agent.
        let set =
            self.sockets(vm).is_some_and(|sockets| clock::set(&sockets.clock, since_epoch).unwrap_or(false));
        if set { Ok(()) } else { agent::Agent { vm, domain: &domain }.set_time(since_epoch) }
    }

    fn attach_disk(&self, vm: VmId, disk: &Disk) -> Result<(), Error> {
        must_be_readable(&[&disk.file])?;
        disk::attach(&self.domain(vm)?, disk)
    }

    fn detach_disk(&self, vm: VmId, serial: &str) -> Result<(), Error> {
        disk::detach(&self.domain(vm)?, serial)
    }
}

/// The VM that a domain is, if it is one of the owner's.
fn vm_of(owner: Owner, domain: &Domain) -> Option<VmId> {
    domain.get_name().ok()?.strip_prefix(owner.prefix())?;
    domain.get_uuid_string().ok()?.parse().ok()
}

/// A missing file is better named here than in QEMU's words.
fn must_be_readable(files: &[&Path]) -> Result<(), Error> {
    for path in files {
        std::fs::File::open(path).map_err(|source| Error::File {
            doing: "cannot read",
            path: path.to_path_buf(),
            source,
        })?;
    }
    Ok(())
}

/// QEMU does not say that a template is too short; the guest would stop at the first page that is missing.
fn must_be_long(template: &Path, bytes: u64) -> Result<(), Error> {
    let failed =
        |source| Error::File { doing: "cannot use as memory template", path: template.to_owned(), source };
    let found = std::fs::metadata(template).map_err(failed)?.len();
    if found == bytes {
        return Ok(());
    }
    let why = format!("it has {found} bytes, and the guest's memory has {bytes}; rebuild the image");
    Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)))
}

fn libvirt_error(doing: &'static str, error: &virt::error::Error) -> Error {
    Error::Hypervisor { doing, message: error.message().to_owned() }
}
