//! The command line: every command and flag. What they do is in the modules beside this one.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use mesh::trust::Permissions;
use uuid::Uuid;
use vm_images::ServiceId;

use crate::config::Setting;

/// Release and the versions of what it speaks and writes.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (HTTP API {}, image manifest {})",
        env!("CARGO_PKG_VERSION"),
        handheld::api::VERSION,
        vm_images::manifest::FORMAT
    )
});

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 it failed or a check found something, 2 usage or configuration error.";

/// A cloudlet: runs Service VMs for handhelds nearby, also without the enterprise.
#[derive(Debug, Parser)]
#[command(name = "cloudlet", version = VERSION.as_str(), after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "For every command")]
pub struct Global {
    /// Configuration file [default: $CLOUDLET_CONFIG, else $XDG_CONFIG_HOME/cloudlet/cloudlet.toml, else
    /// /etc/cloudlet/cloudlet.toml]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Set a field of the configuration; see 'cloudlet config template'
    #[arg(long, global = true, value_name = "SECTION.FIELD=VALUE", value_parser = assignment)]
    pub set: Vec<Setting>,
    /// Directory for everything that must survive a restart
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<String>,
    /// Directory of the image store
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub image_store: Option<String>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more; twice: still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// No progress, and only errors in the log
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the cloudlet in the foreground, until SIGINT or SIGTERM
    Up(Up),
    /// Build, examine and remove VM images
    #[command(subcommand)]
    Image(Image),
    /// Start, examine and stop instances of services, through the running cloudlet
    Vm(Vm),
    /// Send a running instance to another cloudlet, where it serves on with all that it has
    ///
    /// It is tried whenever the other cloudlet is in reach. What was sent is kept there, also when the link breaks, and not
    /// sent twice. Ctrl-C ends it, and the instance serves on here.
    Handoff(Handoff),
    /// Take nobody new and send every instance to the best other cloudlet; exit code 1 if something stays
    ///
    /// Ctrl-C ends it: what has not left serves on here. Afterwards nobody new is taken until 'cloudlet drain off'.
    Evacuate(Evacuate),
    /// Send every instance that was first started at another cloudlet back there
    ///
    /// Each is tried whenever its home is in reach. Ctrl-C ends it: what has not left serves on here.
    Reintegrate {
        /// Address of the cloudlet that they leave [default: the one that the configuration describes]
        #[arg(long, value_name = "URL")]
        api: Option<String>,
    },
    /// Show where instances should be, as the running cloudlet decided last, and why
    Placement {
        /// Address of a cloudlet [default: the one that the configuration describes]
        #[arg(long, value_name = "URL")]
        api: Option<String>,
    },
    /// Make missions, enroll members, revoke them, pair handhelds
    #[command(subcommand)]
    Mission(Mission),
    /// Show the other cloudlets of the mission, as the running cloudlet knows them
    Mesh {
        /// Address of a cloudlet [default: the one that the configuration describes]
        #[arg(long, value_name = "URL")]
        api: Option<String>,
    },
    /// Say where the running cloudlet is; without numbers, show where it thinks it is
    ///
    /// The place of a cloudlet that stands still holds until another is told, also after a restart. With --heading and
    /// --speed it holds for a minute: a reader of satellite navigation says it again and again.
    Position(Position),
    /// Have the running cloudlet take nobody new, so that it can be switched off; or end that
    Drain {
        /// Without it: show
        state: Option<Switch>,
        /// Address of a cloudlet [default: the one that the configuration describes]
        #[arg(long, value_name = "URL")]
        api: Option<String>,
    },
    /// Show the main job on real input: build, start, find, recognise human speech; twice, with times
    Demo,
    /// Say what this machine can do, and how to fix what is missing
    Doctor,
    /// Show, explain and check the configuration
    #[command(subcommand)]
    Config(Config),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Flags of `up`.
#[derive(Debug, Default, Args)]
pub struct Up {
    /// Address and port of the API; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Name for people
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Let everybody in, over plain HTTP and without a mission; for development only
    #[arg(long)]
    pub insecure: bool,
    /// Send no multicast at all (mission.quiet): found by QR code or address only
    #[arg(long)]
    pub no_multicast: bool,
}

/// Flags of `handoff`.
#[derive(Debug, Args)]
pub struct Handoff {
    /// Id of the instance ('cloudlet vm list')
    #[arg(value_name = "VM")]
    pub vm: Uuid,
    /// Node id or name of the other cloudlet ('cloudlet mesh')
    #[arg(long, value_name = "NODE", value_parser = NonEmptyStringValueParser::new(), required_unless_present = "force")]
    pub to: Option<String>,
    /// Before or after others that go to the same cloudlet; a VM that stands still goes before all
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["plan", "force"])]
    pub priority: Priority,
    /// Only print what it would cost, and what that is made of
    #[arg(long, conflicts_with = "force")]
    pub plan: bool,
    /// Have an instance serve on here that stands still because its destination was lost just when it took it over
    #[arg(long, conflicts_with = "to", requires = "destination_is_gone_for_good")]
    pub force: bool,
    /// With --force: you vouch for it. If it comes back, two copies have served, and what its users did there is lost
    #[arg(long, requires = "force")]
    pub destination_is_gone_for_good: bool,
    /// Address of the cloudlet that it leaves [default: the one that the configuration describes]
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,
}

/// What goes first over a link that several handoffs use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Priority {
    /// After the others
    Low,
    /// Neither; who began first goes first
    #[default]
    Normal,
    /// Before the others
    High,
}

impl From<Priority> for handheld::api::Priority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
        }
    }
}

/// Flags of `evacuate`.
#[derive(Debug, Args)]
pub struct Evacuate {
    /// Node id or name of the only destination [default: for each instance the best]
    #[arg(long, value_name = "NODE", value_parser = NonEmptyStringValueParser::new())]
    pub to: Option<String>,
    /// End after so many seconds, whatever has left by then [default: when all have left that can]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub limit: Option<u64>,
    /// Address of the cloudlet that is emptied [default: the one that the configuration describes]
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,
}

/// Flags of `position`.
#[derive(Debug, Args)]
pub struct Position {
    /// Degrees north
    #[arg(requires = "longitude", allow_negative_numbers = true)]
    pub latitude: Option<f64>,
    /// Degrees east
    #[arg(allow_negative_numbers = true)]
    pub longitude: Option<f64>,
    /// Direction of movement, degrees clockwise from north
    #[arg(long, value_name = "DEGREES", requires_all = ["speed", "latitude"])]
    pub heading: Option<f32>,
    /// Speed over ground, metres per second
    #[arg(long, value_name = "M/S", requires_all = ["heading", "latitude"])]
    pub speed: Option<f32>,
    /// Forget where it is
    #[arg(long, conflicts_with = "latitude")]
    pub forget: bool,
    /// Address of a cloudlet [default: the one that the configuration describes]
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,
}

/// Begin or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// Begin
    On,
    /// End
    Off,
}

/// Commands about the mission.
#[derive(Debug, Subcommand)]
pub enum Mission {
    /// Make a mission and its authority, whose directory may lie in a drawer afterwards
    New {
        /// New directory for the authority's key and what it issues
        dir: PathBuf,
        /// Name for people
        #[arg(long, default_value = "mission")]
        name: String,
        /// How long the mission takes from now on, hours
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=8760))]
        hours: u64,
        /// Nobody in the mission sends multicast; cloudlets are named by address or QR code
        #[arg(long)]
        no_multicast: bool,
        /// Every cloudlet of the mission uses images signed with this key, see 'cloudlet image trust'; may be repeated
        #[arg(long, value_name = "KEY")]
        trust_images: Vec<vm_images::PublicKey>,
    },
    /// Make this cloudlet's key, and a request for the mission's authority
    Request {
        /// File for the request [default: stdout]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// As the authority: sign what a cloudlet or a handheld asks for
    Enroll {
        /// The request
        request: PathBuf,
        /// Directory of the authority
        #[arg(long, value_name = "DIR")]
        authority: PathBuf,
        /// File for the bundle, which the device joins with; it is secret
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// What the member may do: use-services, push-packages, operate, or none
        #[arg(long, value_name = "LIST", default_value = "use-services")]
        allow: Permissions,
        /// Let this cloudlet enroll handhelds that may do this much [with no LIST: use-services]
        #[arg(long, value_name = "LIST", num_args = 0..=1, default_missing_value = "use-services")]
        may_enroll: Option<Permissions>,
        /// Refuse unless the request is of this kind
        #[arg(long)]
        role: Option<RoleName>,
        /// Hours from now until the certificate ends [default: with the mission]
        #[arg(long)]
        hours: Option<u64>,
        /// Revoke what this cloudlet had before
        #[arg(long)]
        replace: bool,
    },
    /// Make this cloudlet a member with the bundle that the authority made
    Join {
        /// The bundle
        bundle: PathBuf,
    },
    /// Show this cloudlet's mission, or what an authority has issued
    Show {
        /// Directory of the authority
        #[arg(long, value_name = "DIR")]
        authority: Option<PathBuf>,
    },
    /// Revoke certificates: as the authority, or what this cloudlet has enrolled
    Revoke {
        /// Serial of a certificate; of the authority's own, also a node id or a name
        what: String,
        /// Directory of the authority [default: this cloudlet is the one that enrolled]
        #[arg(long, value_name = "DIR")]
        authority: Option<PathBuf>,
        /// It is only no longer used; nobody else has its key
        #[arg(long)]
        unused: bool,
        /// File for the revocations, for 'cloudlet mission accept' elsewhere
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Take in revocations from a file; the running cloudlet spreads them
    Accept {
        /// The file
        revocations: PathBuf,
    },
    /// Have the running cloudlet show a code with which one handheld gets into the mission
    Pair {
        /// What the handheld may do [default: all that this cloudlet may grant]
        #[arg(long, value_name = "LIST")]
        allow: Option<Permissions>,
        /// File for the QR code in SVG
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

/// Kinds of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RoleName {
    /// A cloudlet
    Cloudlet,
    /// A handheld
    Handheld,
}

/// Commands about images.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build an image from its recipe, or 'all'; nothing is done when the store has it already
    Build {
        /// Name of the recipe, or 'all'
        recipe: String,
        /// Directory of the recipes [default: those of this release]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        recipes: Option<PathBuf>,
        /// Build even if the store has it
        #[arg(long)]
        force: bool,
    },
    /// Have the running cloudlet fetch an image from other cloudlets of the mission, and its parents; goes on where an
    /// earlier try ended
    Fetch {
        /// A service that other cloudlets hold, or the id of an image or its first digits
        image: String,
        /// Fetch from this cloudlet alone: its node id, or its name [default: from all that hold it, at once]
        #[arg(long, value_name = "NODE", value_parser = NonEmptyStringValueParser::new())]
        from: Option<String>,
        /// URL of the cloudlet that fetches [default: the one that the configuration describes, on this machine]
        #[arg(long, value_name = "URL", value_hint = ValueHint::Url, value_parser = NonEmptyStringValueParser::new())]
        api: Option<String>,
    },
    /// List images
    List,
    /// Show one image: manifest, parts, parent
    Show {
        /// Name, id, or the first digits of the id
        image: String,
    },
    /// Read images completely and compare them with their signed manifests
    #[command(group = ArgGroup::new("which").args(["image", "all"]).required(true))]
    Verify {
        /// Name, id, or the first digits of the id
        image: Option<String>,
        /// Every image
        #[arg(long)]
        all: bool,
    },
    /// Remove what no pin, name or image needs
    Gc {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Keep an image whatever else happens
    Pin {
        /// Name, id, or the first digits of the id
        image: String,
    },
    /// Take the pin away
    Unpin {
        /// Name, id, or the first digits of the id
        image: String,
    },
    /// Use images that were signed with this key; without a key, show those that are used
    Trust {
        /// Public key, 64 hexadecimal digits
        key: Option<vm_images::PublicKey>,
        /// Use its images no more
        #[arg(long, requires = "key")]
        remove: bool,
    },
    /// Remove an image
    Rm {
        /// Name, id, or the first digits of the id
        image: String,
    },
}

/// Commands about instances.
#[derive(Debug, Args)]
pub struct Vm {
    /// URL of the cloudlet [default: the one that the configuration describes, on this machine]
    #[arg(long, global = true, value_name = "URL", value_hint = ValueHint::Url, value_parser = NonEmptyStringValueParser::new())]
    pub api: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub action: VmAction,
}

/// What to do with instances.
#[derive(Debug, Subcommand)]
pub enum VmAction {
    /// List instances
    List,
    /// Start an instance, or join one, and wait until its service answers
    Start {
        /// The service
        service: ServiceId,
        /// An instance of one's own
        #[arg(long)]
        private: bool,
        /// Client token: the same token never gets a second instance of a service [default: a new one]
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        token: Option<String>,
    },
    /// Show one instance
    Show {
        /// Its id
        id: Uuid,
    },
    /// Stop an instance, whoever uses it; with --token only leave it
    Stop {
        /// Its id
        id: Uuid,
        /// Stop it whoever uses it (the default)
        #[arg(long, conflicts_with = "token")]
        force: bool,
        /// Only end the use by this client; the last one stops the instance
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        token: Option<String>,
    },
}

/// Commands about the configuration.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Config {
    /// Print the configuration in effect, and where each value was set
    Show,
    /// Print a configuration file with every field explained and commented out
    Template,
    /// Check file, environment and flags
    Check,
}

fn assignment(text: &str) -> Result<Setting, String> {
    let (field, value) = text.split_once('=').ok_or("write SECTION.FIELD=VALUE, such as instances.max=8")?;
    Ok(Setting { flag: format!("--set {field}"), field: field.to_owned(), value: value.to_owned() })
}

/// Release and versions as numbers, for programs.
pub fn versions() -> serde_json::Value {
    serde_json::json!({
        "release": env!("CARGO_PKG_VERSION"),
        "api_version": handheld::api::VERSION,
        "manifest_format": vm_images::manifest::FORMAT,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn assignments_are_split_at_the_first_equals_sign() {
        let setting = assignment("log.filter=info,mesh=debug").unwrap();
        assert_eq!((setting.field.as_str(), setting.value.as_str()), ("log.filter", "info,mesh=debug"));
        assert!(assignment("log.filter").is_err());
    }
}
