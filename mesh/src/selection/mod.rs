//! Which of several cloudlets serves a need best, and why the others do not.
//!
//! ```text
//! candidates ──► completion: when would ──► feasibility: ──► utility: ──► hysteresis:  ──► Choice
//!                it have done the task?     can it at all?   how well?    worth a change?
//!                      │ every part              │ every reason  │ every term
//!                      └─────────────────────────┴───────────────┴────────────► in the Choice, for people
//! ```
//!
//! Pure and deterministic: the same candidates in any order give the same [`Choice`]. Completion, reasons and terms depend
//! on their own candidate only, so a candidate that is added or removed never changes the others' order.
//!
//! * [`Need`], [`Candidate`]: what goes in. What is not known stays `None`; adverts, DNS-SD and measurements fill in.
//! * [`completion()`]: the model at the heart of it. [`Contact`]: how long the way there will last.
//! * [`Utility`]: the plug. [`Weighted`] means of [`Measure`]s are built in; [`expression`]s come from configuration.
//! * [`Policy`]: utility, requirement and hysteresis from configuration, the same in handheld, node and simulator.
//! * [`record`]: a survey on paper, to argue over a choice afterwards.

mod candidate;
mod choice;
pub mod completion;
pub mod contact;
mod explain;
pub mod expression;
mod facts;
mod feasibility;
mod measure;
mod need;
mod policy;
pub mod record;
mod utility;

pub use candidate::{Candidate, Fetch, Link, Offer, Power};
pub use choice::{Choice, Considered, Current, Hysteresis, Tie, Verdict, choose};
pub use completion::{Completion, KVM_PERMILLE, TCG_PERMILLE, completion};
pub use contact::{Contact, Motion};
pub use feasibility::{Infeasible, infeasible};
pub use measure::{About, Measure};
pub use need::{Instance, Need, Task};
pub use policy::{BadPolicy, HysteresisSettings, Policy, Settings};
pub use utility::{BadWeights, Scored, Term, Utility, Weighted};
