//! The names that expressions may use: the one place where they are listed, documented and looked up.

use super::super::measure::energy_j;
use super::super::{Candidate, Completion, Instance, Measure, Need, Power, completion::guest_speed};

/// What an expression looks at.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What is wanted.
    pub need: &'a Need,
    /// Who may serve.
    pub candidate: &'a Candidate,
    /// When it would have done; `None` if it has no way to the service.
    pub completion: Option<&'a Completion>,
}

/// The kind of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number; all numbers are floating point.
    Number,
    /// True or false.
    Flag,
    /// Text.
    Text,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Flag => "true or false",
            Self::Text => "text",
        }
    }
}

/// A value of one of the kinds.
#[derive(Debug, Clone, PartialEq)]
pub enum Datum {
    /// Of [`Kind::Number`].
    Number(f64),
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Text`].
    Text(String),
}

/// A name that expressions may use.
#[derive(Clone, Copy)]
pub struct Name {
    /// Group and field: `link.rtt_ms`.
    pub path: &'static str,
    /// What kind of value it has.
    pub kind: Kind,
    /// What it means. A figure that is not always known says so; `has(NAME)` asks.
    pub meaning: &'static str,
    get: fn(&Facts<'_>) -> Option<Datum>,
}

impl Name {
    /// Its value; `None`: not known.
    pub fn value(&self, facts: &Facts<'_>) -> Option<Datum> {
        (self.get)(facts).filter(|datum| !matches!(datum, Datum::Number(number) if !number.is_finite()))
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path)
    }
}

/// The name with this path.
pub fn named(path: &str) -> Option<&'static Name> {
    NAMES.iter().find(|name| name.path == path)
}

type Get = fn(&Facts<'_>) -> Option<Datum>;

const fn number(path: &'static str, meaning: &'static str, get: Get) -> Name {
    Name { path, kind: Kind::Number, meaning, get }
}

const fn flag(path: &'static str, meaning: &'static str, get: Get) -> Name {
    Name { path, kind: Kind::Flag, meaning, get }
}

const fn text(path: &'static str, meaning: &'static str, get: Get) -> Name {
    Name { path, kind: Kind::Text, meaning, get }
}

fn amount(figure: impl Into<f64>) -> Option<Datum> {
    Some(Datum::Number(figure.into()))
}

fn words(text: &str) -> Option<Datum> {
    Some(Datum::Text(text.to_owned()))
}

fn mib(bytes: u64) -> Option<Datum> {
    amount(bytes as f64 / f64::from(1 << 20))
}

fn judged(measure: Measure, facts: &Facts<'_>) -> Option<Datum> {
    amount(measure.judge(facts.need, facts.candidate, facts.completion).0)
}

fn part(name: &str, facts: &Facts<'_>) -> Option<Datum> {
    let completion = facts.completion?;
    amount(completion.parts.iter().find(|part| part.name == name).map_or(0.0, |part| part.time.as_secs_f64()))
}

/// Every name, by group.
pub const NAMES: &[Name] = &[
    text("cloudlet.id", "node id, hexadecimal", |f| words(&f.candidate.node.to_string())),
    text("cloudlet.name", "name for people", |f| words(&f.candidate.name)),
    text("cloudlet.accelerator", "kvm or tcg; not always known", |f| {
        words(match f.candidate.accelerator? {
            vm_images::manifest::Accelerator::Kvm => "kvm",
            vm_images::manifest::Accelerator::Tcg => "tcg",
        })
    }),
    text("cloudlet.architecture", "of its guests, as uname -m says; not always known", |f| {
        words(f.candidate.architecture.as_ref()?)
    }),
    number("cloudlet.cpu_free_cores", "cores that nobody uses", |f| {
        amount(f64::from(f.candidate.load.cpu_free_millis()) / 1000.0)
    }),
    number("cloudlet.cpu_used_cores", "cores in use", |f| {
        amount(f64::from(f.candidate.load.cpu_used_millis) / 1000.0)
    }),
    number("cloudlet.cpu_total_cores", "cores that there are", |f| {
        amount(f64::from(f.candidate.load.cpu_total_millis) / 1000.0)
    }),
    number("cloudlet.memory_free_mib", "memory that instances may claim", |f| {
        mib(f.candidate.load.memory_free_bytes)
    }),
    number("cloudlet.memory_total_mib", "memory that there is", |f| mib(f.candidate.load.memory_total_bytes)),
    number("cloudlet.instances", "instances that run or start", |f| amount(f.candidate.load.instances)),
    number("cloudlet.queue_length", "requests for instances that wait", |f| {
        amount(f.candidate.load.queue_length)
    }),
    number("cloudlet.load_age_s", "age of these figures, seconds; not always known", |f| {
        amount(f.candidate.load_age?.as_secs_f64())
    }),
    number("cloudlet.speed", "speed of guest code on a core, 1 is KVM; not always known", |f| {
        let (permille, source) = guest_speed(f.candidate);
        (source != "assumed").then(|| Datum::Number(f64::from(permille) / 1000.0))
    }),
    flag("cloudlet.external_power", "not on battery; not always known", |f| {
        Some(Datum::Flag(f.candidate.power? == Power::External))
    }),
    number("cloudlet.battery_percent", "100 on external power; not always known", |f| {
        amount(match f.candidate.power? {
            Power::External => 100.0,
            Power::Battery { charge_permille } => f64::from(charge_permille) / 10.0,
        })
    }),
    flag("cloudlet.draining", "takes nobody new", |f| Some(Datum::Flag(f.candidate.draining))),
    text("service.id", "the wanted service", |f| words(f.need.service.as_str())),
    text("service.state", "running, cached, base (only the base system) or nothing", |f| {
        words(f.candidate.offer.name())
    }),
    number("service.memory_mib", "memory that an instance needs", |f| mib(f.need.memory_bytes)),
    number("service.cpu_cores", "CPU that a busy instance needs", |f| {
        amount(f64::from(f.need.cpu_millis) / 1000.0)
    }),
    number("service.ready_s", "expected application-ready time, seconds; not always known", |f| {
        amount(f.candidate.ready_time?.as_secs_f64())
    }),
    number("client.requests", "requests that are expected", |f| amount(f.need.task.requests)),
    number("client.up_bytes", "to the service with each request", |f| amount(f.need.task.up_bytes as f64)),
    number("client.down_bytes", "back with each request", |f| amount(f.need.task.down_bytes as f64)),
    number("client.cpu_s", "CPU time of each request at speed 1, seconds", |f| {
        amount(f.need.task.cpu.as_secs_f64())
    }),
    number("client.deadline_s", "seconds until the task must be done; not always known", |f| {
        amount(f.need.deadline?.as_secs_f64())
    }),
    flag("client.private", "wants an instance of its own", |f| {
        Some(Datum::Flag(f.need.instance == Instance::Own))
    }),
    number("client.energy_j", "what the task takes from the client's battery; not always known", |f| {
        amount(energy_j(f.need, f.completion?))
    }),
    number("link.rtt_ms", "round-trip time; not always known", |f| {
        amount(f.candidate.link.rtt?.as_secs_f64() * 1000.0)
    }),
    number("link.rate_bytes_per_s", "measured rate; not always known", |f| {
        amount(f.candidate.link.rate_bytes_per_s? as f64)
    }),
    number("link.signal_dbm", "received strength; not always known", |f| {
        amount(f.candidate.link.signal_dbm?)
    }),
    number("link.hops", "radio hops; not always known", |f| amount(f.candidate.link.hops?)),
    number("link.contact_s", "how long the contact is expected to last; not always known", |f| {
        amount(f.candidate.contact.expected()?.as_secs_f64())
    }),
    number("completion.expected_s", "until the task is done, failure counted in; not always known", |f| {
        amount(f.completion?.expected.as_secs_f64())
    }),
    number("completion.total_s", "until the task is done if the contact lasts; not always known", |f| {
        amount(f.completion?.total.as_secs_f64())
    }),
    number("completion.chance", "that the contact lasts so long, 0 to 1; not always known", |f| {
        amount(f.completion?.chance)
    }),
    number("completion.ready_s", "until the service is ready, all counted; not always known", |f| {
        amount(f.completion?.until_ready().as_secs_f64())
    }),
    number("completion.queue_s", "of it in the queue; not always known", |f| part("queue", f)),
    number("completion.work_s", "computing; not always known", |f| part("work", f)),
    number("completion.upload_s", "sending requests; not always known", |f| part("upload", f)),
    number("completion.download_s", "receiving answers; not always known", |f| part("download", f)),
    number("measure.cpu_free", "the built-in measures, 0 to 1: 0 if not known", |f| {
        judged(Measure::CpuFree, f)
    }),
    number("measure.cpu_performance", "see measure.cpu_free", |f| judged(Measure::CpuPerformance, f)),
    number("measure.memory_free", "see measure.cpu_free", |f| judged(Measure::MemoryFree, f)),
    number("measure.rtt", "see measure.cpu_free", |f| judged(Measure::Rtt, f)),
    number("measure.signal", "see measure.cpu_free", |f| judged(Measure::Signal, f)),
    number("measure.rate", "see measure.cpu_free", |f| judged(Measure::Rate, f)),
    number("measure.ready_time", "see measure.cpu_free", |f| judged(Measure::ReadyTime, f)),
    number("measure.queue", "see measure.cpu_free", |f| judged(Measure::Queue, f)),
    number("measure.energy", "see measure.cpu_free", |f| judged(Measure::Energy, f)),
    number("measure.power", "see measure.cpu_free", |f| judged(Measure::Power, f)),
    number("measure.contact", "see measure.cpu_free", |f| judged(Measure::Contact, f)),
    number("measure.completion", "see measure.cpu_free", |f| judged(Measure::Completion, f)),
];

/// The name that is most like `path`, if one is like it at all.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    nearest_of(path, NAMES.iter().map(|name| name.path))
}

/// The same field in another group; else whichever of `all` takes the fewest letters to change, up to a third of them.
pub(in super::super) fn nearest_of(
    wanted: &str,
    all: impl Iterator<Item = &'static str> + Clone,
) -> Option<&'static str> {
    let limit = (wanted.chars().count() / 3).max(2);
    let by_letters =
        all.clone().map(|one| (distance(wanted, one), one)).filter(|(letters, _)| *letters <= limit).min();
    let field = wanted.rsplit('.').next().unwrap_or(wanted);
    let mut by_field = all.filter(|one| one.rsplit('.').next() == Some(field));
    by_field.next().or_else(|| by_letters.map(|(_, one)| one))
}

/// Letters to insert, delete or replace (Levenshtein). Expressions are short, so are names.
fn distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().collect();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in two.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[two.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_has_its_name_and_no_name_is_there_twice() {
        for measure in Measure::ALL {
            assert!(named(&format!("measure.{}", measure.name())).is_some(), "{}", measure.name());
        }
        let paths: std::collections::BTreeSet<_> = NAMES.iter().map(|name| name.path).collect();
        assert_eq!(paths.len(), NAMES.len());
        assert!(NAMES.iter().all(|name| name.path.split('.').count() == 2 && !name.meaning.is_empty()));
    }

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        assert_eq!(nearest("link.rtt_m"), Some("link.rtt_ms"));
        assert_eq!(nearest("link.rttms"), Some("link.rtt_ms"));
        assert_eq!(nearest("cloudlet.rtt_ms"), Some("link.rtt_ms"));
        assert_eq!(nearest("moon.phase"), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
