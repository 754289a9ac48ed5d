//! Memory of idle clones.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::figures::Figures;

/// Proportional set size of each QEMU that was started below `state_dir`, MiB.
pub fn each_further_mib(state_dir: &Path) -> anyhow::Result<Figures> {
    let mut figures = Figures::new("memory of each idle clone (PSS), MiB");
    let directory = state_dir.join(node::hypervisor::DAEMON_ROOT).join("run/qemu");
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("cvm-") && name.ends_with(".pid") {
            let process = fs::read_to_string(&path)?;
            figures.add(pss_kib(process.trim())? as f64 / 1024.0);
        }
    }
    Ok(figures)
}

fn pss_kib(process: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} has no Pss"))
}
