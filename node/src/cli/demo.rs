//! `cloudlet demo`.

use serde_json::json;

use super::args::Global;
use super::build;
use super::output::{Failure, Output, table};
use crate::demo::{self, Report, Stage};
use crate::images::recipe_directory;

/// The image whose service the demo uses.
const IMAGE: &str = "speech";

pub(super) fn run(global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let recipes = recipe_directory(None)?;
    let progress = output.progress();
    build::build(&config, &recipes, &[IMAGE.to_owned()], false, &progress)?;
    // Beside a cloudlet that may run here, not instead of it; the images are the same.
    let stage =
        Stage { state_dir: config.node.state_dir.join("demo"), image_store: config.image_store(), recipes };
    let report = demo::run(&stage, &mut |step| progress.step(step))
        .map_err(|error| Failure::failed(error, "'cloudlet doctor' says what this machine lacks"))?;
    progress.done();
    output.result(|| text(&report), || json!({"right": report.is_right(), "report": report}))?;
    if report.is_right() { Ok(()) } else { Err(Failure::Found) }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for one in &report.recordings {
        let verdict = if one.words == one.expected { "right" } else { "WRONG" };
        text += &format!(
            "{}\n  heard:    {}\n  expected: {}\n  {verdict}\n",
            one.file.display(),
            one.words,
            one.expected
        );
    }
    let rows = report.rounds.iter().map(|round| {
        let recognition: Vec<String> = round.recognition_ms.iter().map(u64::to_string).collect();
        vec![
            round.name.to_owned(),
            round.discovery_ms.to_string(),
            round.provisioning_ms.to_string(),
            round.ready_ms.to_string(),
            recognition.join(" "),
        ]
    });
    let heads = ["ROUND", "DISCOVERY MS", "PROVISIONING MS", "READY MS", "RECOGNITION MS"];
    text + "\n" + &table(&heads, &rows.collect::<Vec<_>>())
}
