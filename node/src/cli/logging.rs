//! Where the log goes: stderr, filtered. A daemon that lets everybody in says so in every line.

use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::args::Global;
use crate::config;

/// Starts logging for a command other than `up`: warnings, or what `-v` and `-q` say.
pub(super) fn start(global: &Global) {
    let filter = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    install(EnvFilter::new(filter), global.json, false);
}

/// Starts logging for the daemon: as configured, unless `-v` or `-q` say otherwise.
pub(super) fn start_daemon(global: &Global, log: &config::Log, insecure: bool) {
    let filter = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => &log.filter,
        (false, 1) => "debug",
        (false, _) => "trace",
    };
    install(EnvFilter::new(filter), log.json || global.json, insecure);
}

fn install(filter: EnvFilter, json: bool, insecure: bool) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Fails only if a log was started before, which then stays.
    let _ = if json {
        let format = Marked { insecure, format: Format::default().json() };
        builder.fmt_fields(JsonFields::new()).event_format(format).try_init()
    } else {
        builder.event_format(Marked { insecure, format: Format::default() }).try_init()
    };
}

/// A format whose lines say that the daemon is insecure, if it is.
struct Marked<F> {
    insecure: bool,
    format: F,
}

/// How a line of this format is marked.
trait Mark {
    fn mark(line: &str) -> String;
}

impl Mark for Format {
    fn mark(line: &str) -> String {
        format!("INSECURE {line}")
    }
}

impl Mark for Format<Json> {
    fn mark(line: &str) -> String {
        match line.strip_prefix('{') {
            Some(rest) => format!("{{\"insecure\":true,{rest}"),
            None => line.to_owned(),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Marked<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N> + Mark,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !self.insecure {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        let plain = Writer::new(&mut line);
        self.format.format_event(context, plain, event)?;
        writer.write_str(&F::mark(&line))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, insecure: bool) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        let say = || {
            tracing::info!("one");
            tracing::warn!(number = 2, "two");
        };
        if json {
            let format = Marked { insecure, format: Format::default().json() };
            let subscriber = builder.fmt_fields(JsonFields::new()).event_format(format).finish();
            tracing::subscriber::with_default(subscriber, say);
        } else {
            let subscriber = builder.event_format(Marked { insecure, format: Format::default() }).finish();
            tracing::subscriber::with_default(subscriber, say);
        }
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_line_of_an_insecure_daemon_says_so() {
        let lines = logged(false, true);
        assert_eq!(lines.lines().count(), 2);
        assert!(lines.lines().all(|line| line.starts_with("INSECURE ")), "{lines}");
        let lines = logged(true, true);
        assert_eq!(lines.lines().count(), 2);
        for line in lines.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["insecure"], true, "{line}");
        }
        assert!(!logged(false, false).contains("INSECURE") && !logged(true, false).contains("insecure"));
    }
}
