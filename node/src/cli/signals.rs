//! SIGINT and SIGTERM: the first one asks for an orderly end, the second one ends the process at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a process that the second signal ended.
const CUT_SHORT: i32 = 1;

/// Calls `end` at the first signal. From when this returns, no signal ends the process in another way.
///
/// # Errors
///
/// If the signals cannot be watched.
pub(super) fn on_first(end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (interrupt, terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    // A thread of its own, so that signals are heard whatever the rest of the program waits for.
    let watch = move || runtime.block_on(watch(interrupt, terminate, end));
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop)
}

async fn watch(mut interrupt: Signal, mut terminate: Signal, end: impl FnOnce()) {
    either(&mut interrupt, &mut terminate).await;
    tracing::warn!("ending in order; a second signal ends it at once");
    end();
    either(&mut interrupt, &mut terminate).await;
    tracing::warn!("ended at once; the next start cleans up what is left");
    std::process::exit(CUT_SHORT);
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
