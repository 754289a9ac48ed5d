//! Faults that a test asks for, and the count of calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A method of [`Hypervisor`](crate::Hypervisor) or [`Moving`](crate::hypervisor::Moving).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is named after its method")]
pub enum Operation {
    Host,
    Boot,
    CloneFrom,
    Suspend,
    Stop,
    List,
    Adopt,
    ForwardPort,
    AgentPing,
    AgentExec,
    AgentWriteFile,
    AgentSetTime,
    AttachDisk,
    DetachDisk,
    StreamOut,
    Pace,
    Freeze,
    Resume,
    ClonePaused,
}

/// What a call has to do before it may begin.
pub(super) struct Verdict {
    pub wait: Duration,
    pub fails: bool,
}

#[derive(Default)]
pub(super) struct Faults {
    calls: BTreeMap<Operation, u64>,
    /// Numbers of the calls that fail, counted from the first call ever.
    failing: BTreeMap<Operation, BTreeSet<u64>>,
    delays: BTreeMap<Operation, Duration>,
}

impl Faults {
    pub fn fail_nth(&mut self, operation: Operation, nth: u64) {
        let number = self.calls(operation) + nth;
        self.failing.entry(operation).or_default().insert(number);
    }

    pub fn delay(&mut self, operation: Operation, by: Duration) {
        self.delays.insert(operation, by);
    }

    pub fn calls(&self, operation: Operation) -> u64 {
        self.calls.get(&operation).copied().unwrap_or(0)
    }

    /// Counts a call.
    pub fn begin(&mut self, operation: Operation) -> Verdict {
        let calls = self.calls.entry(operation).or_default();
        *calls += 1;
        let fails = self.failing.get_mut(&operation).is_some_and(|failing| failing.remove(calls));
        Verdict { wait: self.delays.get(&operation).copied().unwrap_or_default(), fails }
    }
}
