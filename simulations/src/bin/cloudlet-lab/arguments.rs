//! What can be typed.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use simulations::lab::control::Command as Order;
use simulations::lab::{BadTopology, Topology};
use simulations::medium::units::{Queue, Rate, Share, Span};
use simulations::medium::{Change, Loss};

/// Runs programs on emulated radio: network namespaces as hosts, and links that are slow, late, lossy or cut.
///
/// TOPOLOGY is a file such as simulations/labs/three.toml; for everything but `up`, the name of a running lab does as
/// well. Exit codes: 0 done, 1 it failed, 2 usage or topology error.
#[derive(Parser)]
#[command(name = "cloudlet-lab", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Runs the lab until Ctrl-C, SIGTERM or `down`.
    Up(Up),
    /// Ends the lab and everything that runs in it, and removes what a crashed one left.
    Down {
        #[command(flatten)]
        lab: LabName,
    },
    /// Cuts a link: nothing passes, and what is on its way is lost.
    Cut {
        #[command(flatten)]
        lab: LabName,
        #[command(flatten)]
        pair: Pair,
    },
    /// Lets frames pass again between A and B, or over all links that were cut.
    Heal {
        #[command(flatten)]
        lab: LabName,
        /// A and B; without them, all.
        #[arg(value_names = ["A", "B"], num_args = 2)]
        hosts: Vec<String>,
        /// Only from A to B.
        #[arg(long, requires = "hosts")]
        one_way: bool,
    },
    /// Cuts all links between hosts of different groups. Hosts in no group keep theirs.
    Split {
        #[command(flatten)]
        lab: LabName,
        /// Names with commas between, such as: a,b c,d
        #[arg(required = true, num_args = 2.., value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Changes a link, for frames that are sent from now on; settings that are not given stay.
    Set {
        #[command(flatten)]
        lab: LabName,
        #[command(flatten)]
        pair: Pair,
        #[command(flatten)]
        settings: Settings,
    },
    /// Shows hosts, links and counters.
    Status {
        #[command(flatten)]
        lab: LabName,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Runs a command in a host, as this process.
    Exec {
        #[command(flatten)]
        lab: LabName,
        /// The host.
        host: String,
        /// The command and its arguments, after `--`.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Measures in a lab of its own whether rate, delay and loss are as asked (within 2 %), and how much the medium
    /// carries. Takes half a minute.
    Check {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
pub struct Up {
    /// Topology file (TOML).
    pub topology: PathBuf,
    /// Come back as soon as the lab is up; it runs on in the background.
    #[arg(long)]
    pub detach: bool,
    /// Print the status as JSON when the lab is up.
    #[arg(long)]
    pub json: bool,
    /// Seed of everything random, instead of the topology's.
    #[arg(long)]
    pub seed: Option<u64>,
    /// This is the background process of `--detach`.
    #[arg(long, hide = true)]
    pub detached: bool,
}

#[derive(clap::Args)]
pub struct LabName {
    /// Topology file, or name of a running lab.
    topology: String,
}

impl LabName {
    /// The lab's name: what a file says, or the word itself.
    pub fn name(&self) -> Result<String, BadTopology> {
        if self.topology.ends_with(".toml") || self.topology.contains('/') {
            return Ok(Topology::load(Path::new(&self.topology))?.name);
        }
        Ok(self.topology.clone())
    }
}

#[derive(clap::Args)]
pub struct Pair {
    /// One host.
    pub a: String,
    /// The other host.
    pub b: String,
    /// Only from A to B.
    #[arg(long)]
    pub one_way: bool,
}

impl Pair {
    /// An order for each direction that is meant.
    pub fn both(self, order: impl Fn(String, String) -> Order) -> Vec<Order> {
        let mut orders = vec![order(self.a.clone(), self.b.clone())];
        if !self.one_way {
            orders.push(order(self.b, self.a));
        }
        orders
    }
}

#[derive(clap::Args)]
pub struct Settings {
    /// Bits per second: 64k, 10M, unlimited.
    #[arg(long)]
    rate: Option<Rate>,
    /// Time on the way: 50ms, 1.5s.
    #[arg(long)]
    delay: Option<Span>,
    /// How much the delay varies up and down, at most the delay.
    #[arg(long)]
    jitter: Option<Span>,
    /// Lost frames: 2%, or "2% burst 8", or "gilbert TO_BAD TO_GOOD IN_GOOD IN_BAD" (four shares).
    #[arg(long)]
    loss: Option<Loss>,
    /// Share of frames that skip the delay and so overtake others.
    #[arg(long)]
    reorder: Option<Share>,
    /// Most bytes that wait to be sent: 64KiB; auto: 250 ms of the rate.
    #[arg(long)]
    queue: Option<Queue>,
}

impl Settings {
    pub fn change(&self) -> Change {
        Change {
            rate: self.rate,
            delay: self.delay,
            jitter: self.jitter,
            loss: self.loss,
            reorder: self.reorder,
            queue: self.queue,
        }
    }
}
