//! `cloudlet doctor`.

use serde_json::json;

use super::args::Global;
use super::output::{Failure, Output};
use crate::doctor::{self, Finding, Status};

pub(super) fn run(global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let progress = output.progress();
    let facts = doctor::gather::facts(&config, &mut |step| progress.step(step));
    progress.done();
    let findings = doctor::examine(&facts);
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let (ok, warn, fail) = (count(Status::Ok), count(Status::Warn), count(Status::Fail));
    output.result(
        || text(&findings) + &format!("\n{ok} ok, {warn} to improve, {fail} to fix\n"),
        || json!({"checks": findings, "ok": ok, "warn": warn, "fail": fail}),
    )?;
    if fail == 0 { Ok(()) } else { Err(Failure::Found) }
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { name, status, finding, fix } in findings {
        text += &format!("{:<4}  {name:<width$}  {finding}\n", status.word());
        if let Some(fix) = fix {
            text += &format!("{:<4}  {:<width$}  fix: {fix}\n", "", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_stands_below_its_finding() {
        let finding = |name, fix: Option<&str>| Finding {
            name,
            status: if fix.is_some() { Status::Fail } else { Status::Ok },
            finding: "so".to_owned(),
            fix: fix.map(str::to_owned),
        };
        let text = text(&[finding("kvm", None), finding("images", Some("build"))]);
        assert_eq!(text, "ok    kvm     so\nfail  images  so\n              fix: build\n");
    }
}
