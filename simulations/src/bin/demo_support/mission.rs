//! The mission's authority: enrolls cloudlets.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::program;

/// Makes a mission of an hour and enrolls cloudlets that may enroll handhelds.
pub fn enroll(directory: &Path, name: &str, cloudlets: &[&str]) -> anyhow::Result<()> {
    let authority = directory.join("authority");
    run(cloudlet()?.args(["mission", "new", "--hours", "1", "--name", name]).arg(&authority))?;
    for name in cloudlets {
        let file = |kind: &str| directory.join(format!("{name}.{kind}"));
        let own = || -> anyhow::Result<Command> {
            let mut command = cloudlet()?;
            command
                .arg("--state-dir")
                .arg(directory.join(name))
                .args(["--set", &format!("node.name={name}")]);
            Ok(command)
        };
        run(own()?.args(["mission", "request", "--out"]).arg(file("request")))?;
        let mut enroll = cloudlet()?;
        enroll.args(["mission", "enroll"]).arg(file("request")).arg("--authority").arg(&authority);
        run(enroll.arg("--out").arg(file("bundle")).arg("--may-enroll"))?;
        run(own()?.args(["mission", "join"]).arg(file("bundle")))?;
    }
    Ok(())
}

fn cloudlet() -> anyhow::Result<Command> {
    Ok(Command::new(program("cloudlet")?))
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    output(command).map(drop)
}

/// Runs a command to its end and gives what it printed.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, complained.trim());
    Ok(said.into_owned())
}
