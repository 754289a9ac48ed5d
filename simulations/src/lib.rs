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
//! **Invariant:** no socket, no hypervisor, no clock and no unseeded random number in this crate's library;
//! `.ci/checks/no-sockets` proves the first two from the dependency tree.

#![forbid(unsafe_code)]

pub mod contacts;
pub mod engine;
pub mod movement;
pub mod provisioning;
pub mod random;
pub mod report;
pub mod scenario;
pub mod stats;
pub mod world;

pub use report::Report;
pub use scenario::Scenario;
