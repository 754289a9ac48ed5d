//! How fast a Cached VM is ready, against a cold boot of the same VM in the same run; what an idle clone costs in memory;
//! and twenty clones at once. Run by `make bench`; needs the image `speech`.
//!
//! * ready: from `POST /instances` until the client itself has a 200 from the service (`GET /healthz`).
//! * cold boot: the Service VM's disk booted with its kernel, until the same answer.
//! * memory: proportional set size (PSS) of each QEMU process, from `/proc/PID/smaps_rollup`.

use std::process::ExitCode;
use std::time::Duration;

mod support;

use support::{cold, daemon::Daemon, figures::Figures, memory};

/// Runs of each kind; `CLOUDLET_BENCH_RUNS` takes another number.
const RUNS: usize = 10;
/// Idle clones whose memory is measured.
const IDLE: usize = 8;
/// How long clones are left alone before their memory is measured.
const REST: Duration = Duration::from_secs(10);
/// Clones at once.
const AT_ONCE: usize = 20;
/// What is aimed at: median ready time, times faster than a cold boot, memory of each further idle clone.
const AIM_READY_MS: f64 = 600.0;
const AIM_FASTER: f64 = 25.0;
const AIM_MEMORY_MIB: f64 = 48.0;

fn main() -> anyhow::Result<ExitCode> {
    // SAFETY: the first statement of the program; there is no other thread yet.
    unsafe { migration::hypervisor::libvirt::log_errors_only() };
    let runs = std::env::var("CLOUDLET_BENCH_RUNS").map_or(Ok(RUNS), |runs| runs.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let daemon = Daemon::start()?;

    let ready = runtime.block_on(async {
        daemon.time_one("warming up").await?;
        let mut ready = Figures::new("Cached VM: request to service answers, ms");
        for run in 0..runs {
            let took = daemon.time_one(&format!("cached {run}")).await?;
            eprintln!("cached {} of {runs}: {took:.0} ms", run + 1);
            ready.add(took);
        }
        anyhow::Ok(ready)
    })?;
    println!("{ready}");

    let clones = runtime.block_on(daemon.start_private(IDLE))?;
    std::thread::sleep(REST);
    let idle = memory::each_further_mib(&daemon.state_dir())?;
    println!("{idle}");
    runtime.block_on(daemon.stop_all(&clones))?;

    let (all, answering) = runtime.block_on(daemon.at_once(AT_ONCE))?;
    println!("{all}");
    println!("{answering} of {AT_ONCE} clones answered");
    drop(daemon);

    let mut cold = Figures::new("cold boot of the same VM: to service answers, ms");
    cold::boots(runs, &mut cold)?;
    println!("{cold}");

    let faster = cold.median() / ready.median();
    let lines = [
        (
            format!("ready: median {:.0} ms, aim {AIM_READY_MS} ms", ready.median()),
            ready.median() <= AIM_READY_MS,
        ),
        (format!("faster than cold boot: {faster:.1} times, aim {AIM_FASTER} times"), faster >= AIM_FASTER),
        (
            format!("each further idle clone: {:.1} MiB PSS, aim {AIM_MEMORY_MIB} MiB", idle.median()),
            idle.median() <= AIM_MEMORY_MIB,
        ),
        (format!("{answering} of {AT_ONCE} at once answered"), answering == AT_ONCE),
    ];
    println!();
    for (line, met) in &lines {
        println!("{} {line}", if *met { "met   " } else { "MISSED" });
    }
    Ok(if lines.iter().all(|(_, met)| *met) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
