//! `cloudlet demo`: the main job on real input, with the programs that users run.
//!
//! Builds what is missing, makes a mission, starts a cloudlet in it, pairs a handheld, lets a handheld find it by multicast and recognise human speech in a
//! Service VM, twice; compares the words with what pocketsphinx gives outside any VM.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

mod cloudlet;
mod error;
mod handheld;
mod mission;

use cloudlet::Cloudlet;
pub use error::Error;
pub use handheld::Round;

/// Human recordings of Debian's package pocketsphinx-testdata: playing cards read out, and an audio book.
const RECORDINGS: [&str; 4] = [
    "/usr/share/pocketsphinx/test/data/cards/001.wav",
    "/usr/share/pocketsphinx/test/data/cards/003.wav",
    "/usr/share/pocketsphinx/test/data/cards/005.wav",
    "/usr/share/pocketsphinx/test/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav",
];
/// Prints the words that pocketsphinx gives outside any VM; beside the recipe of the speech service.
const EXPECTED_WORDS: &str = "speech/expected-words";

/// What the demo found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was recognised, in the order of the recordings.
    pub recordings: Vec<Recording>,
    /// Times of the first use of the fresh cloudlet, and of the next one.
    pub rounds: Vec<Round>,
}

/// One recording.
#[derive(Debug, Serialize)]
pub struct Recording {
    /// The file.
    pub file: PathBuf,
    /// What the Service VM heard.
    pub words: String,
    /// What pocketsphinx hears outside any VM.
    pub expected: String,
}

impl Report {
    /// Whether the Service VM heard what it should in every recording.
    pub fn is_right(&self) -> bool {
        self.recordings.iter().all(|one| one.words == one.expected && !one.words.is_empty())
    }
}

/// What the demo needs.
#[derive(Debug, Clone)]
pub struct Stage {
    /// State directory of the demo's cloudlet.
    pub state_dir: PathBuf,
    /// Image store; has the speech image.
    pub image_store: PathBuf,
    /// Directory of the recipes.
    pub recipes: PathBuf,
}

/// Runs the demo; `progress` hears of every step.
pub fn run(stage: &Stage, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let files = RECORDINGS.map(PathBuf::from);
    if let Some(missing) = files.iter().find(|file| !file.is_file()) {
        return Err(Error::NoRecording(missing.clone()));
    }
    progress("listening to the recordings outside any VM");
    let expected =
        files.iter().map(|file| expected_words(&stage.recipes, file)).collect::<Result<Vec<_>, _>>()?;

    progress("making a mission of one hour");
    mission::found(&stage.state_dir).map_err(Error::Mission)?;
    progress("starting a cloudlet");
    let cloudlet = Cloudlet::start(stage)?;
    progress("pairing a handheld with a code");
    cloudlet.pair()?;
    let mut rounds = Vec::new();
    let mut words = Vec::new();
    for name in ["first use", "warm"] {
        progress(&format!(
            "{name}: a handheld finds the cloudlet and has {} recordings recognised",
            files.len()
        ));
        let (round, heard) = handheld::recognise(name, &cloudlet, &files)?;
        rounds.push(round);
        words = heard;
    }
    progress("stopping the cloudlet");
    cloudlet.stop()?;

    let recordings = files.into_iter().zip(words).zip(expected);
    let recordings =
        recordings.map(|((file, words), expected)| Recording { file, words, expected }).collect();
    Ok(Report { recordings, rounds })
}

fn expected_words(recipes: &Path, file: &Path) -> Result<String, Error> {
    let script = recipes.join(EXPECTED_WORDS);
    let output = Command::new(&script)
        .arg(file)
        .output()
        .map_err(|source| Error::Start { program: script.clone(), source })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Failed { program: script, words });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A program that is installed, or was built, beside this one.
fn beside(name: &str) -> Result<PathBuf, Error> {
    let this = std::env::current_exe().map_err(|source| Error::Start { program: name.into(), source })?;
    let program = this.with_file_name(name);
    if program.is_file() { Ok(program) } else { Err(Error::NoProgram(program)) }
}
