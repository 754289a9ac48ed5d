//! The program `cloudlet`; see [`node::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: the first statement of the program; there is no other thread yet.
    unsafe { migration::hypervisor::libvirt::log_errors_only() };
    node::cli::run(std::env::args_os())
}
