//! `cloudlet handoff --plan`: what it would cost, with its parts. Nothing moves.

use handheld::Client;
use handheld::api::{Figure, FigureSource, HandoffPlan, Holds, PlanVerdict};
use serde_json::json;
use uuid::Uuid;

use super::handoff::failure;
use super::output::{Failure, Output, bytes};

pub(super) async fn run(client: &Client, vm: Uuid, to: &str, output: Output) -> Result<(), Failure> {
    let plan = client.plan_handoff(vm, to).await.map_err(failure)?;
    output.result(|| text(&plan, to), || json!(plan))
}

fn text(plan: &HandoffPlan, to: &str) -> String {
    let holds = match plan.destination_holds {
        Holds::Service => format!("{to} holds the Service VM's image"),
        Holds::Base => format!(
            "{to} holds the base image; {} of the Service VM's travel first",
            bytes(plan.images_bytes)
        ),
        Holds::Nothing => format!("{to} holds no image of it; {} travel first", bytes(plan.images_bytes)),
    };
    let in_bytes = |figure: Figure| bytes(figure.value as u64);
    let rest =
        plan.contact_rest_ms.map_or_else(|| "not known".to_owned(), |ms| format!("{} more", seconds(ms)));
    let rounds: Vec<String> =
        plan.rounds.iter().map(|round| format!("{} in {}", bytes(round.bytes), seconds(round.ms))).collect();
    let rounds = if rounds.is_empty() { "none".to_owned() } else { rounds.join(", ") };
    let kept = if plan.kept_bytes == 0 { "nothing".to_owned() } else { bytes(plan.kept_bytes) };
    let rows = [
        ("destination", holds),
        ("changed", sourced(in_bytes(plan.memory_bytes), plan.memory_bytes)),
        ("disk", sourced(in_bytes(plan.disk_bytes), plan.disk_bytes)),
        ("kept there", kept),
        ("changes", sourced(format!("{}/s", in_bytes(plan.dirty_bytes_per_s)), plan.dirty_bytes_per_s)),
        (
            "link",
            sourced(format!("{:.1} Mbit/s", plan.rate_bytes_per_s.value / 125_000.0), plan.rate_bytes_per_s),
        ),
        ("round trip", sourced(format!("{:.1} ms", plan.rtt_ms.value), plan.rtt_ms)),
        ("contact", rest),
        ("rounds", format!("{rounds}; the rest {} in {}", bytes(plan.last.bytes), seconds(plan.last.ms))),
        ("fixed", sourced(format!("{:.0} ms", plan.fixed_ms.value), plan.fixed_ms)),
        (
            "in all",
            format!(
                "{} in {}, standing still for {}",
                bytes(plan.bytes),
                seconds(plan.total_ms),
                seconds(plan.downtime_ms)
            ),
        ),
        ("verdict", verdict(plan, to)),
    ];
    rows.iter().map(|(head, text)| format!("{:<13}{text}\n", format!("{head}:"))).collect()
}

fn sourced(text: String, figure: Figure) -> String {
    let source = match figure.source {
        FigureSource::Measured => "measured",
        FigureSource::Earlier => "as the last handoff",
        FigureSource::Assumed => "a guess: nothing was measured",
    };
    format!("{text} ({source})")
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

fn verdict(plan: &HandoffPlan, to: &str) -> String {
    let fits = match plan.verdict {
        PlanVerdict::Fits => "fits".to_owned(),
        PlanVerdict::ByInstalments => {
            let short = plan.short_by_ms.unwrap_or_default();
            format!("by instalments: this contact is too short by {}; a later one goes on", seconds(short))
        }
        PlanVerdict::TooBusy => "too busy: the guest changes faster than the link carries".to_owned(),
        PlanVerdict::NoLink => format!("no link: {to} is out of reach"),
    };
    match &plan.against {
        Some(against) => format!("{fits}; but {to} would refuse: {against}"),
        None => fits,
    }
}
