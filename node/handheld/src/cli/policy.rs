//! Rules of selection from the command line and the configuration file, and what the task is.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use handheld::Here;
use mesh::selection::{Policy, Settings, Task};
use serde::Deserialize;

/// Longest configuration file, bytes. A long one has a few hundred.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// How to choose, and for what.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Selection")]
pub struct SelectionOptions {
    /// Configuration file (TOML) with parts [selection] and [radio] [default: handheld.toml in ~/.config if it is there].
    #[arg(long, value_name = "FILE", env = "HANDHELD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Choose by this: the name of a measure (completion, rtt, cpu_free, …) or an expression over cloudlet.*, service.*,
    /// client.*, link.*, completion.* and measure.*.
    #[arg(long, value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub utility: Option<String>,
    /// Use only cloudlets for which this is true, such as 'link.rtt_ms < 200'.
    #[arg(long, value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub require: Option<String>,
    /// How many requests are expected.
    #[arg(long, value_name = "N")]
    pub requests: Option<u32>,
    /// Bytes that each request sends.
    #[arg(long, value_name = "BYTES")]
    pub request_bytes: Option<u64>,
    /// Bytes that each answer has.
    #[arg(long, value_name = "BYTES")]
    pub answer_bytes: Option<u64>,
    /// By when all of it must be done (30s, 2m).
    #[arg(long, value_name = "TIME", value_parser = super::args::duration)]
    pub deadline: Option<Duration>,
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    selection: Settings,
    #[serde(default)]
    radio: Radio,
}

/// The part `[radio]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Radio {
    /// How far the radio reaches, metres, 1 to 1,000,000.
    range_m: f64,
}

impl Default for Radio {
    fn default() -> Self {
        Self { range_m: Here::USUAL_RANGE_M }
    }
}

/// What a choice goes by.
pub struct Rules {
    /// The rules.
    pub policy: Policy,
    /// How far the radio reaches, metres.
    pub range_m: f64,
}

impl SelectionOptions {
    /// The rules: those of the file, with what the command line says instead.
    pub fn rules(&self) -> anyhow::Result<Rules> {
        let File { selection: mut settings, radio: Radio { range_m } } = match self.file() {
            None => File::default(),
            Some(file) => read(&file)?,
        };
        anyhow::ensure!(
            (1.0..=1_000_000.0).contains(&range_m),
            "radio.range_m is {range_m}; give metres from 1 to 1000000"
        );
        if let Some(utility) = &self.utility {
            settings.utility = Some(utility.clone());
            settings.weights = None;
        }
        if let Some(require) = &self.require {
            settings.require = Some(require.clone());
        }
        Ok(Rules { policy: Policy::new(&settings)?, range_m })
    }

    /// `usual` with what the command line says instead.
    pub fn task(&self, usual: Task) -> Task {
        Task {
            requests: self.requests.unwrap_or(usual.requests),
            up_bytes: self.request_bytes.unwrap_or(usual.up_bytes),
            down_bytes: self.answer_bytes.unwrap_or(usual.down_bytes),
            cpu: usual.cpu,
        }
    }

    fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| {
            let home = std::env::var_os("XDG_CONFIG_HOME")
                .map(PathBuf::from)
                .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")))?;
            Some(home.join("handheld.toml")).filter(|file| file.is_file())
        })
    }
}

fn read(file: &Path) -> anyhow::Result<File> {
    let mut text = String::new();
    let open = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let length = open.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    let length = length.with_context(|| format!("cannot read {}", file.display()))?;
    anyhow::ensure!(
        u64::try_from(length)? <= MAX_FILE_BYTES,
        "{} is longer than {MAX_FILE_BYTES} bytes, which no configuration of this program is",
        file.display()
    );
    toml::from_str(&text).with_context(|| format!("bad configuration {}", file.display()))
}
