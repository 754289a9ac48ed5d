//! What demonstrations in the lab have in common: a mission, cloudlets and handhelds that are the built programs.
#![allow(dead_code, reason = "every demonstration uses a part of it")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

pub mod cloudlet;
pub mod handheld;
pub mod mission;
pub mod report;

/// How long any one step may take. Starting five cloudlets at once on two cores takes a minute.
pub const LIMIT: Duration = Duration::from_secs(240);
/// How often somebody is asked again.
pub const ASK_EVERY: Duration = Duration::from_millis(200);

/// The images that were built, as the commands of `cloudlet` find them.
pub fn built_images() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("CLOUDLET_NODE__IMAGE_STORE");
    Ok(named.context("say where the images are: run it by 'make'")?.into())
}

/// A program that was built beside this one.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    ensure!(
        program.is_file(),
        "{} is missing; build it: cargo build --release -p node -p handheld",
        program.display()
    );
    Ok(program)
}

#[expect(clippy::disallowed_methods, reason = "a demonstration runs in real time")]
pub fn now() -> Instant {
    Instant::now()
}
