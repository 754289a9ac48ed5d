//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use handheld::api;
use uuid::Uuid;
use vm_images::ServiceId;

use super::policy::SelectionOptions;
use super::select::Select;
use super::serve::Serve;

/// Find cloudlets nearby and use their services.
///
/// A cloudlet is a computer on the local network that runs services in virtual machines for devices that are too weak
/// or too far from a data centre. This program finds cloudlets by multicast DNS, chooses the best, has it start the
/// service, waits until it is ready, uses it and releases it.
#[derive(Debug, Parser)]
#[command(name = "handheld", version = version(), max_term_width = 110)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    /// Say more on standard error (-vv: everything).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// Use this cloudlet instead of looking for one.
    #[arg(long, global = true, value_name = "URL", env = "HANDHELD_CLOUDLET")]
    pub cloudlet: Option<String>,
    /// Go through this cloudlet to others (its name, or its URL).
    #[arg(long, global = true, value_name = "NAME|URL", env = "HANDHELD_VIA", conflicts_with = "cloudlet")]
    pub via: Option<String>,
    /// Look only on this network interface (may be repeated; `lo` finds cloudlets on this machine).
    #[arg(long, global = true, value_name = "NAME", env = "HANDHELD_INTERFACE", value_delimiter = ',')]
    pub interface: Vec<String>,
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Speak plain HTTP with cloudlets that run without a mission. For development only.
    #[arg(long, global = true, env = "HANDHELD_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    pub insecure: bool,
    /// Where this handheld keeps its key and certificates [default: ~/.local/state/handheld].
    #[arg(long, global = true, value_name = "DIR", env = "HANDHELD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Get into a cloudlet's mission with the code that it shows ('cloudlet mission pair').
    Pair {
        /// Address of the cloudlet's pairing endpoint, HOST:PORT; or what its QR code says, 'cloudlet:pair?…'. Without it:
        /// the cloudlet on the link.
        place: Option<String>,
        /// The code, eight digits; not needed with a QR code.
        #[arg(long)]
        code: Option<mesh::trust::pairing::Code>,
        /// Name of this handheld for people [default: the host name].
        #[arg(long)]
        name: Option<String>,
    },
    /// Show this handheld's mission and what it may do there.
    Mission,
    /// Say where this handheld is, so that it can tell how long contacts will last; without numbers, show it.
    ///
    /// With --heading and --speed the place holds for a minute: a reader of satellite navigation says it again and again.
    Position {
        /// Degrees north.
        #[arg(requires = "longitude", allow_negative_numbers = true)]
        latitude: Option<f64>,
        /// Degrees east.
        #[arg(allow_negative_numbers = true)]
        longitude: Option<f64>,
        /// Direction of movement, degrees clockwise from north.
        #[arg(long, value_name = "DEGREES", requires_all = ["speed", "latitude"])]
        heading: Option<f32>,
        /// Speed over ground, metres per second.
        #[arg(long, value_name = "M/S", requires_all = ["heading", "latitude"])]
        speed: Option<f32>,
        /// Forget where it is.
        #[arg(long, conflicts_with = "latitude")]
        forget: bool,
    },
    /// List the cloudlets that answer: name, address, load, services.
    Discover {
        /// Listen for this long and list everyone (2s, 500ms). Without it: until shortly after the first answer.
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        whole: Option<Duration>,
    },
    /// List the services that cloudlets offer.
    Services,
    /// Say which cloudlet would serve best.
    Select(Select),
    /// Find a cloudlet, start a service there, use it, release it.
    Run {
        #[command(subcommand)]
        service: RunService,
    },
    /// Start a service, wait until it is ready, and leave it running.
    Start {
        /// The service.
        service: ServiceId,
        #[command(flatten)]
        start: StartOptions,
    },
    /// Start a service and keep a local address for it until interrupted, wherever it moves.
    ///
    /// Programs that know nothing of cloudlets use that address. While the service moves to another cloudlet they see a pause
    /// and no error: requests wait, and are sent again at the new place. A request that is not idempotent (POST, PATCH) and had
    /// been sent may be done twice by a service that does not look at its Idempotency-Key; see --at-most-once.
    Serve(Serve),
    /// Give a local address to a service that `start` or `run --keep` left running, until interrupted.
    Tunnel {
        /// The instance.
        instance: Uuid,
        /// The token that it was started with.
        #[arg(long, value_parser = token)]
        token: String,
        /// Address to listen on [default: a free port on loopback].
        #[arg(long, value_name = "IP:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Release an instance that `start` or `run --keep` left running.
    #[command(group = clap::ArgGroup::new("who").required(true).args(["token", "force"]))]
    Stop {
        /// Its id.
        instance: Uuid,
        /// The token that it was started with; the last user's release stops it.
        #[arg(long, value_parser = token)]
        token: Option<String>,
        /// Stop it whoever uses it.
        #[arg(long)]
        force: bool,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub enum RunService {
    /// Recognise spoken English in recordings; prints the words of each, then where the time went.
    Speech {
        /// WAV files: 16 kHz, mono, 16 bit.
        #[arg(required = true, value_name = "FILE.wav")]
        files: Vec<PathBuf>,
        /// Leave the instance running afterwards.
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        start: StartOptions,
    },
}

#[derive(Debug, Args)]
pub struct StartOptions {
    /// Do not share the instance with others.
    #[arg(long)]
    pub private: bool,
    /// Longest wait for the service to become ready.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub ready_within: Duration,
    /// Names this user to the cloudlet: the same token never gets two instances [default: random].
    #[arg(long, value_parser = token)]
    pub token: Option<String>,
    #[command(flatten)]
    pub selection: SelectionOptions,
}

/// The release and the protocols that it speaks.
fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!("{} (API v{}, TXT v{})", env!("CARGO_PKG_VERSION"), api::VERSION, mesh::dnssd::txt::VERSION)
    });
    TEXT.as_str()
}

/// `3s`, `500ms`, `2m`; a bare number is seconds. At most a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds_each = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        _ => return Err("give a time such as 3s, 500ms or 2m".to_owned()),
    };
    let seconds =
        number.parse::<f64>().map_err(|_| "give a time such as 3s, 500ms or 2m".to_owned())? * seconds_each;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("give a time above zero and of at most a day".to_owned())
    }
}

fn token(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > api::MAX_CLIENT_TOKEN_BYTES {
        return Err(format!("a token has 1 to {} bytes", api::MAX_CLIENT_TOKEN_BYTES));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_have_units_and_limits() {
        for (text, ms) in [("3s", 3000), ("500ms", 500), ("2m", 120_000), ("1.5", 1500), ("0.2s", 200)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
        }
        for bad in ["", "s", "0", "-1s", "3h", "1e9", "1.2.3s", "100000s", "nan"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
