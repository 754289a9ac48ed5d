//! Simulated missions: the cores of the cloudlet on a simulated clock.
//!
//! What decides in the daemon decides here: cloudlets are chosen by [`mesh::selection`], mission data is scheduled by
//! [`sync::scheduler`] and logged by [`sync::Log`]. What is simulated is the world around them: who is where
//! ([`movement`]), who reaches whom ([`contacts`]), what starting a Service VM takes ([`provisioning`]), and when
//! somebody wants one ([`world`]).
//!
//! A [`Scenario`] and a seed fix a run completely: the same two give the same [event log](world::Outcome::log), byte
//! for byte.
//!
//! Beside them stands what is not simulated: `lab` (feature `lab`, on by default) runs real programs in network
//! namespaces over a radio [`medium`] that delays, loses and cuts as it is told.
//!
//! **Invariant:** without feature `lab`, there is no socket, no hypervisor, no clock and no unseeded random number in
//! this crate's library; `.ci/checks/no-sockets` proves the first two from the dependency tree.

#![deny(unsafe_code)]
#![cfg_attr(not(feature = "lab"), forbid(unsafe_code))]

pub mod contacts;
pub mod engine;
#[cfg(feature = "lab")]
pub mod lab;
pub mod medium;
pub mod movement;
pub mod placement;
pub mod provisioning;
pub mod random;
pub mod report;
pub mod scenario;
pub mod selection;
pub mod stats;
pub mod world;

pub use report::Report;
pub use scenario::Scenario;
