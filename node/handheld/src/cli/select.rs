//! `select`: which cloudlet would serve best, and why; live or from a recorded survey.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use handheld::api::Sharing;
use handheld::{Wanted, selection, survey};
use mesh::selection::completion::{Basis, Part};
use mesh::selection::record::{self, Survey};
use mesh::selection::{Choice, Completion, Considered, Task, Verdict};
use serde::Serialize;
use vm_images::ServiceId;

use super::args::Global;
use super::output::{self, Spinner};
use super::policy::SelectionOptions;
use super::{access, cloudlets, here, memory, search};

/// What `select` is told.
#[derive(Debug, Args)]
pub struct Select {
    /// The service.
    #[arg(required_unless_present = "from")]
    pub service: Option<ServiceId>,
    /// Show every candidate, every term of its score, when it would have done, and why the others lost.
    #[arg(long)]
    pub explain: bool,
    /// Ask for an instance of one's own.
    #[arg(long)]
    pub private: bool,
    /// Choose from this recorded survey; no cloudlet is asked. What was wanted is in it.
    #[arg(long, value_name = "FILE.json", conflicts_with_all =
        ["service", "private", "record", "requests", "request_bytes", "answer_bytes", "deadline", "cloudlet"])]
    pub from: Option<PathBuf>,
    /// Write the survey here, to argue over the choice afterwards.
    #[arg(long, value_name = "FILE.json")]
    pub record: Option<PathBuf>,
    #[command(flatten)]
    pub selection: SelectionOptions,
}

#[derive(Serialize)]
struct Selected<'a> {
    service: &'a ServiceId,
    chosen: Option<&'a str>,
    url: Option<&'a str>,
    considered: Vec<Explained<'a>>,
}

#[derive(Serialize)]
struct Explained<'a> {
    cloudlet: &'a str,
    node_id: String,
    score: Option<f64>,
    verdict: String,
    able: bool,
    /// Why it cannot serve; empty if it can.
    reasons: Vec<String>,
    terms: Vec<ExplainedTerm<'a>>,
    completion: Option<ExplainedCompletion>,
    /// What was known of it.
    known: BTreeMap<&'static str, &'a str>,
}

#[derive(Serialize)]
struct ExplainedTerm<'a> {
    name: &'a str,
    value: f64,
    share: f64,
    figure: &'a str,
}

#[derive(Serialize)]
struct ExplainedCompletion {
    expected_ms: f64,
    total_ms: f64,
    chance: f64,
    contact_ms: Option<f64>,
    parts: Vec<ExplainedPart>,
}

#[derive(Serialize)]
struct ExplainedPart {
    name: &'static str,
    ms: f64,
    known: bool,
    figure: String,
}

/// Says which cloudlet would serve best, and on request why.
pub async fn select(global: &Global, select: &Select) -> anyhow::Result<()> {
    // Everything that can be wrong with the rules is found before a cloudlet is asked.
    let rules = select.selection.rules()?;
    let policy = &rules.policy;
    if let Some(file) = &select.from {
        let survey = read(file)?;
        let (need, candidates, current) =
            survey.unpack().with_context(|| format!("cannot use the survey {}", file.display()))?;
        let choice = policy.choose(&need, &candidates, current);
        return answer(global, select, &need.service, &choice, None);
    }
    let Some(service) = &select.service else { anyhow::bail!("name a service") };
    let spinner = Spinner::default();
    spinner.step("looking for cloudlets");
    let found = cloudlets(global, &search(global)?).await?;
    spinner.step("asking cloudlets for the service");
    let surveyed = survey(service, found).await;
    spinner.clear();
    let wanted = Wanted {
        sharing: if select.private { Sharing::Private } else { Sharing::Shared },
        task: select.selection.task(Task::default()),
        deadline: select.selection.deadline,
        here: here(global, &rules),
        current: memory(global).and_then(|memory| memory.current(service, handheld::unix_now())),
        permitted: Some(access(global)?.may_use_services()),
        ..Wanted::of(service.clone())
    };
    if let Some(file) = &select.record {
        let text = serde_json::to_string_pretty(&selection::record(&wanted, &surveyed))?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let choice = selection::choose(&wanted, &surveyed, policy);
    let chosen = surveyed.iter().map(|one| &one.reachable).find(|one| Some(one.node) == choice.chosen);
    answer(global, select, service, &choice, chosen.map(|one| one.client.url()))
}

fn read(file: &Path) -> anyhow::Result<Survey> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(record::MAX_BYTES as u64 + 1).read_to_string(&mut text))
        .with_context(|| format!("cannot read {}", file.display()))?;
    anyhow::ensure!(
        text.len() <= record::MAX_BYTES,
        "{} is longer than {} bytes, which no survey is",
        file.display(),
        record::MAX_BYTES
    );
    serde_json::from_str(&text).with_context(|| format!("{} is no survey", file.display()))
}

fn answer(
    global: &Global,
    select: &Select,
    service: &ServiceId,
    choice: &Choice,
    url: Option<&str>,
) -> anyhow::Result<()> {
    let chosen = choice.considered.iter().find(|one| Some(one.node) == choice.chosen);
    if global.json {
        let considered = choice.considered.iter().map(explained).collect();
        let chosen = chosen.map(|one| one.name.as_str());
        output::json(&Selected { service, chosen, url, considered })?;
    } else {
        let mut text = String::new();
        if let Some(one) = chosen {
            let line = format!("{}  {}", output::printable(&one.name), url.unwrap_or_default());
            text.push_str(&format!("{}\n", line.trim_end()));
        }
        if select.explain {
            let lines = choice.to_string();
            text.extend(lines.lines().map(|line| format!("{}\n", output::printable(line))));
        }
        output::print(&text)?;
    }
    match chosen {
        Some(_) => Ok(()),
        None => Err(nobody(service, &choice.considered)),
    }
}

fn explained(one: &Considered) -> Explained<'_> {
    let reasons = match &one.verdict {
        Verdict::Cannot(reasons) => reasons.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    Explained {
        cloudlet: &one.name,
        node_id: one.node.to_string(),
        score: one.score,
        verdict: one.verdict.to_string(),
        able: reasons.is_empty(),
        reasons,
        terms: one
            .terms
            .iter()
            .map(|term| ExplainedTerm {
                name: &term.name,
                value: term.value,
                share: term.share,
                figure: &term.figure,
            })
            .collect(),
        completion: one.completion.as_ref().map(completion),
        known: one.facts.iter().map(|(name, figure)| (*name, figure.as_str())).collect(),
    }
}

fn completion(one: &Completion) -> ExplainedCompletion {
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
    let part = |part: &Part| ExplainedPart {
        name: part.name,
        ms: ms(part.time),
        known: part.basis == Basis::Known,
        figure: part.figure.clone(),
    };
    ExplainedCompletion {
        expected_ms: ms(one.expected),
        total_ms: ms(one.total),
        chance: one.chance,
        contact_ms: one.contact.map(ms),
        parts: one.parts.iter().map(part).collect(),
    }
}

fn nobody(service: &ServiceId, considered: &[Considered]) -> anyhow::Error {
    let list: Vec<String> = considered.iter().map(|one| format!("{} {}", one.name, one.verdict)).collect();
    anyhow::anyhow!("no cloudlet can serve '{service}': {}", output::printable(&list.join("; ")))
}
