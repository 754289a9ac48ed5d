//! A cloudlet without the service: first a way to others that have it, then, having fetched it from them, one of them.

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use simulations::lab::Lab;

use super::CLOUDLETS;
use super::demo_support::cloudlet::Cloudlet;
use super::demo_support::handheld::Handheld;
use super::demo_support::report::Report;
use super::demo_support::{ASK_EVERY, LIMIT, now};

/// The cloudlet that begins without images. It is the last one to start.
pub const EMPTY: &str = CLOUDLETS[CLOUDLETS.len() - 1];
/// How many others it must have fetched from, at least: the point of asking several at once.
const LEAST_HOLDERS: usize = 2;

/// Shows both, with a handheld at its side.
pub fn show(lab: &Lab, report: &mut Report, cloudlets: &[Cloudlet], hand: &Handheld) -> anyhow::Result<()> {
    let empty = cloudlets.iter().find(|one| one.name() == EMPTY).context("the one without images runs")?;
    let others = || CLOUDLETS.iter().filter(|name| **name != EMPTY);

    others().try_for_each(|name| lab.cut(hand.name(), name))?;
    let heard = report.step(
        "a handheld in reach of one cloudlet alone, which has no services, uses one on another through it",
        || {
            wait_sees(hand, &[EMPTY])?;
            hand.recognise()
        },
    )?;
    ensure!(
        heard.by != EMPTY && heard.via.as_deref() == Some(EMPTY),
        "that was not through {EMPTY}: {heard}"
    );
    Report::say(&heard.to_string());

    let fetched = report.step("that cloudlet fetches the service from the others, all at once", || {
        let shown = cloudlets[0].ask(&["image", "show", "speech"])?;
        let signer = shown["signer"].as_str().context("images are signed")?;
        empty.ask(&["image", "trust", signer])?;
        empty.ask(&["image", "fetch", "speech"])
    })?;
    Report::say(&figures(&fetched)?);
    let heard = report
        .step("and serves the handheld itself, in a VM of its own", || hand.recognise_at(empty.api()))?;
    ensure!(heard.by == EMPTY, "it was served by somebody else: {heard}");
    Report::say(&heard.to_string());
    others().try_for_each(|name| lab.heal(hand.name(), name))?;
    Ok(())
}

/// Bytes, time and holders of a fetch; an error if it came from too few.
fn figures(fetched: &Value) -> anyhow::Result<String> {
    let (fetch, seconds) = (&fetched["fetch"], fetched["seconds"].as_f64().context("seconds")?);
    let wire_bytes = fetch["wire_bytes"].as_u64().context("bytes")?;
    let from = fetch["from"].as_array().context("a list of cloudlets")?;
    let mut text = format!(
        "{:.1} MB on the air in {seconds:.1} s, {:.1} Mbit/s, from {} cloudlets:",
        wire_bytes as f64 / 1e6,
        wire_bytes as f64 * 8.0 / 1e6 / seconds,
        from.len()
    );
    for one in from {
        let (name, bytes) = (one["name"].as_str().unwrap_or("?"), one["bytes"].as_u64().unwrap_or(0));
        text += &format!("\n{name}: {:.1} MB", bytes as f64 / 1e6);
    }
    ensure!(from.len() >= LEAST_HOLDERS, "from too few: {text}");
    Ok(text)
}

/// Waits until a handheld hears exactly these cloudlets itself.
fn wait_sees(hand: &Handheld, wanted: &[&str]) -> anyhow::Result<()> {
    let begin = now();
    let mut seen = Vec::new();
    while begin.elapsed() < LIMIT {
        // Nobody may answer for a moment.
        if let Ok(found) = hand.sees() {
            if found == wanted {
                return Ok(());
            }
            seen = found;
        }
        std::thread::sleep(ASK_EVERY);
    }
    bail!("{} sees {seen:?} instead of {wanted:?} after {} s", hand.name(), LIMIT.as_secs())
}
