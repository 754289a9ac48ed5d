//! When instances of services start, are shared, become ready and end: decisions only.
//!
//! The core takes `now` and an input and returns effects; it reads no clock, opens no socket and starts no VM.
//! [`crate::instances`] is the driver that does what the effects say and reports back.
//!
//! ```text
//!   start, image elsewhere ──► Fetching ──Fetched──┐
//!                                 │                ▼
//!   start, image here ────────────│────────────► Waking ──VmStarted──► Checking ──HealthOk and ClockSet──► Ready
//!                                 │                │        adopted after ▲ │                              │
//!         no room, release, force,│                │        a restart ────┘ │ start limit, VM gone,        │ last release, idle,
//!         nobody has it           │                │                        │ release, force               │ mission end, force,
//!                                 ▼                ▼                        ▼                              ▼ VM gone, no health
//!        Stopping (waits for an outstanding Fetch or StartVm) ──VmStopped──► Ended (Stopped or Failed) ──► forgotten
//! ```
//!
//! What the driver owes:
//! * [`Effect::Persist`] is on disk before an [`Effect::StartVm`] that follows it is begun: a daemon that is killed
//!   never leaves a VM that no record names.
//! * Each [`Effect::Fetch`] is answered by [`Input::Fetched`] or [`Input::VmFailed`], each [`Effect::StartVm`] by
//!   [`Input::VmStarted`] or [`Input::VmFailed`], each [`Effect::StopVm`] by [`Input::VmStopped`] or
//!   [`Input::StopFailed`], each [`Effect::SetClock`] and [`Effect::CheckHealth`] by its pair. Late is fine, never is not.
//! * A [`Input::Tick`] soon after [`Core::next_wakeup`].
//!
//! **Invariants** (checked after every input by `tests/lifecycle_model.rs`): claims never exceed the limits; no token
//! uses two live instances of one service; nothing is ready before its own service has answered; a shared instance
//! never has more users than its service allows; `StopVm` is never asked for while a `StartVm` is outstanding; every
//! `StartVm` is followed by a `StopVm` unless its instance still lives.

use std::time::Duration;

mod admission;
mod core;
mod instance;
mod message;
mod reconcile;

pub use admission::{Claim, Free, Limits};
pub use core::Core;
pub use instance::{BadToken, Instance, Outcome, Phase, Service, StopStep, Token, joinable};
pub use message::{Closed, Created, Effect, Image, Input, Keep, Patience, Refused, Request, Seen, Started};
pub use reconcile::{Adoptable, Plan, Reading, Saved, SavedPhase, reconcile, standing_still};

/// How long an instance that ended stays visible, so that its clients can read why. Guess: a handheld that lost the
/// radio for some minutes still finds the reason, and a list stays short.
pub const ENDED_VISIBLE: Duration = Duration::from_secs(300);
/// Most ended instances that are kept visible; the oldest go first. Guess: bounds what a client that starts failing
/// instances in a loop can cost.
pub const ENDED_MAX: usize = 256;
/// Time between two health checks of a ready instance. Guess: a dead VM is noticed sooner by the list of VMs.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Health checks of a ready instance that may fail in a row. With [`CHECK_INTERVAL`] that is two minutes: a service
/// that serves one request at a time answers no check meanwhile, and under TCG a long recording takes a minute.
pub const CHECKS_FAILED_MAX: u32 = 12;
/// How long a VM that could not be stopped is left alone before the next try. Guess.
pub const STOP_RETRY: Duration = Duration::from_secs(2);
/// How much longer than the driver the core waits for the end of a start, so that the driver's reason is the one
/// that clients read. Guess.
pub const START_GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use handheld::api::Sharing;
    use migration::VmId;
    use vm_images::ImageId;

    use super::*;

    /// An instance of `speech` with two users, ready.
    pub(crate) fn instance() -> Instance {
        let token = |text: &str| Token::try_from(text.to_owned()).unwrap();
        Instance {
            vm: VmId(uuid::Uuid::from_u128(0x0123_4567_89ab_cdef)),
            service: Arc::new(Service {
                id: "speech".parse().unwrap(),
                image: ImageId(vm_images::Digest::of(b"image")),
                guest_port: 8080,
                health_path: "/healthz".into(),
                needs: Claim { memory_bytes: 96 << 20, cpu_millis: 500 },
                max_users: 4,
            }),
            sharing: Sharing::Shared,
            owner: token("phone-1"),
            users: BTreeMap::from([(token("phone-1"), Duration::ZERO), (token("phone-2"), Duration::ZERO)]),
            idle_since: None,
            phase: Phase::Ready { running_since: Duration::ZERO, next_check: None, failed_checks: 0 },
            address: Some(SocketAddr::from(([10, 0, 0, 1], 40000))),
            requested_unix_ms: 1_700_000_000_000,
            begun_at: None,
            ready_after_ms: Some(432),
            reason: None,
            backed_bytes: 0,
        }
    }
}
