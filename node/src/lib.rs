//! The cloudlet: daemon and operator's command line.
//!
//! * [`config`]: what can be configured; [`cli`]: what can be typed; [`doctor`]: what this machine can do.
//! * [`daemon`]: puts together what runs: [`api`] for handhelds, [`instances`] of Service VMs, their announcement.
//! * [`trust`]: its place in the mission; [`peers`]: the other cloudlets.
//! * [`standing`]: what it says of its circumstances: place, power, whether it is being emptied.
//! * [`lifecycle`]: when an instance starts and ends, and who may have one. Pure.
//! * [`exchange`]: fetching images from other cloudlets and serving them.
//! * [`handoff`]: running VMs move to other cloudlets.
//! * [`placement`]: whether and where to they move, and emptying this cloudlet.
//! * [`images`]: building images; [`hypervisor`]: opening what runs VMs; [`demo`]: all of it, shown on real input.

pub mod api;
mod causes;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod exchange;
pub mod handoff;
pub mod hypervisor;
pub mod images;
pub mod instances;
pub mod lifecycle;
pub mod peers;
pub mod placement;
mod places;
pub mod reach;
mod records;
pub mod standing;
pub mod trust;
