//! The mesh, shown: five cloudlets and three handhelds in a lab, on real multicast and real TLS.
//!
//! Run by `make mesh-demo`, as root. It uses the built programs as people would and prints what it saw and how long
//! each step took; it ends with 1 if a step did not come about.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use simulations::lab::{Lab, Topology};

#[path = "../demo_support/mod.rs"]
mod demo_support;
mod fetched;

use demo_support::cloudlet::{self, Cloudlet};
use demo_support::handheld::Handheld;
use demo_support::report::Report;
use demo_support::{LIMIT, built_images, mission, now};

/// The cloudlets, and the handhelds that walk beside them.
const CLOUDLETS: [&str; 5] = ["truck-1", "truck-2", "truck-3", "tent", "drone"];
const HANDHELDS: [&str; 3] = ["medic", "scout", "lead"];
/// Vehicle-mounted Wi-Fi: a guess at an ordinary day.
const RADIO: &str = r#"
name = "mesh-demo"
seed = 1
[link]
rate = "25M"
delay = "3ms"
jitter = "1ms"
loss = "0.5%"
"#;
/// Most that a wait may take for the demo to call it well: the aims of the mesh (a crash is known after 10 s, a split is
/// mended within 5 s of contact) and room for asking.
const MENDED_WITHIN: Duration = Duration::from_secs(6);

fn main() -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the lab needs root: sudo make mesh-demo");
    let directory = tempfile::Builder::new().prefix("mesh-").tempdir_in("/tmp")?;
    let lab = Lab::start(&topology()?)?;
    let mut report = Report::default();
    let result = show(&lab, directory.path(), &mut report);
    if let Err(error) = &result {
        eprintln!("mesh-demo: {error:#}");
        cloudlet::show_logs(directory.path());
    }
    print!("{report}");
    result
}

fn topology() -> anyhow::Result<Topology> {
    let hosts: String =
        CLOUDLETS.iter().chain(&HANDHELDS).map(|name| format!("[[hosts]]\nname = \"{name}\"\n")).collect();
    Ok(Topology::from_toml(&format!("{RADIO}{hosts}"))?)
}

fn show(lab: &Lab, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.step("a mission with five cloudlets, its authority's key then goes to a drawer", || {
        mission::enroll(directory, "mesh-demo", &CLOUDLETS)
    })?;
    let mut cloudlets =
        report.step("five cloudlets start, find each other by multicast, prove themselves", || {
            let started: Vec<Cloudlet> = CLOUDLETS
                .iter()
                .map(|name| Cloudlet::start(lab, directory, name, image_store(directory, name)?, &[]))
                .collect::<anyhow::Result<_>>()?;
            for cloudlet in &started {
                cloudlet.wait_until(|seen| seen.there == CLOUDLETS.len(), LIMIT)?;
            }
            Ok(started)
        })?;
    let handhelds = report.step("three handhelds are paired by code, each by another cloudlet", || {
        let pair = |(name, by): (&&str, &Cloudlet)| Handheld::pair(lab, directory, name, by);
        HANDHELDS.iter().zip(&cloudlets).map(pair).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let [medic, scout, lead] = handhelds.as_slice() else { bail!("three handhelds were paired") };

    let choice =
        report.step("a handheld chooses a cloudlet for 'speech', with reasons", || medic.explain())?;
    Report::say(&choice);
    let words = report.step("it uses the service, over TLS", || medic.recognise())?;
    Report::say(&words.to_string());
    fetched::show(lab, report, &cloudlets, scout)?;

    report.step("one cloudlet leaves; everybody knows", || {
        let leaving = cloudlets.pop().context("five cloudlets")?;
        leaving.leave()?;
        all(&cloudlets, |seen| seen.there == 4)
    })?;
    report.step("one is killed; everybody knows", || {
        let killed = cloudlets.pop().context("four cloudlets")?;
        killed.kill()?;
        all(&cloudlets, |seen| seen.there == 3)
    })?;
    let back = report.step("both come back", || {
        let back = ["tent", "drone"]
            .map(|name| Cloudlet::start(lab, directory, name, image_store(directory, name)?, &[]));
        for one in back {
            cloudlets.push(one?);
        }
        all(&cloudlets, |seen| seen.there == 5)
    });
    back?;

    report.step("the radio splits truck-1 and truck-2 from the others; each side knows", || {
        lab.split(&[
            ["truck-1", "truck-2", "medic"].as_slice(),
            ["truck-3", "tent", "drone", "scout", "lead"].as_slice(),
        ])?;
        all(&cloudlets[..2], |seen| seen.there == 2)?;
        all(&cloudlets[2..], |seen| seen.there == 3)
    })?;
    report.step("each side goes on: a handheld on the smaller one is served", || {
        let words = medic.recognise()?;
        ensure!(
            ["truck-1", "truck-2"].contains(&words.by.as_str()),
            "it was served by somebody else: {words}"
        );
        Ok(())
    })?;
    let mended = now();
    report.step("contact again: everybody knows everybody", || {
        lab.heal_all()?;
        all(&cloudlets, |seen| seen.there == 5)
    })?;
    ensure!(mended.elapsed() <= MENDED_WITHIN, "that took {:.1} s", mended.elapsed().as_secs_f64());

    report.step(
        "a captured handheld is revoked at one cloudlet; another one, which heard it by gossip, refuses it",
        || {
            let enroller = cloudlets.iter().find(|one| one.name() == CLOUDLETS[2]).context("truck-3 runs")?;
            enroller.ask(&["mission", "revoke", lead.serial()])?;
            lead.wait_refused(LIMIT)
        },
    )?;
    report.step("the others are still served", || scout.recognise().map(drop))?;
    Ok(())
}

fn all(cloudlets: &[Cloudlet], good: impl Fn(&cloudlet::Seen) -> bool) -> anyhow::Result<()> {
    cloudlets.iter().try_for_each(|cloudlet| cloudlet.wait_until(&good, LIMIT))
}

/// The images of a cloudlet: those that were built, as the commands of `cloudlet` find them; [`fetched::EMPTY`] has none
/// to begin with, in a store of its own.
fn image_store(directory: &Path, cloudlet: &str) -> anyhow::Result<PathBuf> {
    if cloudlet == fetched::EMPTY {
        return Ok(directory.join("images"));
    }
    built_images()
}
