//! Why the demo could not be shown.

use std::io;
use std::path::PathBuf;

/// Failure of the demo.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A recording is not there.
    #[error("the recording {} is missing; run node/packaging/system-packages, which installs pocketsphinx-testdata", .0.display())]
    NoRecording(PathBuf),
    /// A program of this project is not there.
    #[error("{} is missing; build it with: cargo build --release -p node -p handheld", .0.display())]
    NoProgram(PathBuf),
    /// A program cannot be started.
    #[error("{} cannot be started", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{} failed:\n{words}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// What it said.
        words: String,
    },
    /// A program said something else than its JSON document.
    #[error("{} printed something unexpected", program.display())]
    Unexpected {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The demo's mission cannot be made.
    #[error("cannot make a mission for the demo")]
    Mission(#[source] mesh::trust::Error),
    /// The handheld used somebody else's cloudlet.
    #[error(
        "the handheld chose the cloudlet '{found}', which also is on this network, instead of the demo's own '{wanted}'; stop that one, or show the demo elsewhere"
    )]
    OtherCloudlet {
        /// The demo's cloudlet.
        wanted: String,
        /// The chosen one.
        found: String,
    },
}
